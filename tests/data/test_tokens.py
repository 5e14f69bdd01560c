import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.bin import tokenize
from espnet_spike.data import tokens
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_lines, write_table

DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
TEXTS = [f"{a} {b} {c}" for a in DIGITS for b in DIGITS for c in DIGITS[::3]]


def run(tmp_path, texts=TEXTS, *options, others=()):
    write_table(tmp_path / "text", {f"u{n:05d}": words for n, words in enumerate(texts)})
    arguments = ["--text", str(tmp_path / "text"), "--out", str(tmp_path / "out"), *options]
    if others:
        write_table(tmp_path / "dev_text", {f"d{n}": words for n, words in enumerate(others)})
        arguments += ["--oov_texts", str(tmp_path / "dev_text")]
    tokenize.main(arguments)
    return read_lines(tmp_path / "out" / "tokens.txt")


@pytest.mark.parametrize("mode", ["unigram", "bpe"])
def test_the_bpe_list_is_the_model_between_espnets_symbols(tmp_path, mode):
    names = run(tmp_path, TEXTS, "--nbpe", "30", "--bpemode", mode)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out/bpe.model"))
    assert len(processor) == 30
    assert len(names) == 32
    assert names[:2] == ["<blank>", "<unk>"]
    assert names[-1] == "<sos/eos>"
    assert len(set(names)) == len(names)
    assert [processor.unk_id(), processor.bos_id(), processor.eos_id()] == [0, -1, -1]
    for words in TEXTS[:50]:
        pieces = processor.encode(words, out_type=str)
        assert set(pieces) <= set(names)
        assert processor.decode(pieces) == words
    assert [line.split("\t")[0] for line in read_lines(tmp_path / "out/bpe.vocab")] == [
        "<unk>",
        *names[2:-1],
    ]


@pytest.mark.parametrize("mode", ["unigram", "bpe"])
@pytest.mark.parametrize(("asked", "side"), [(5000, "more"), (3, "fewer")])
def test_a_size_that_the_text_does_not_allow_is_clamped_and_said(
    tmp_path, caplog, mode, asked, side
):
    names = run(tmp_path, DIGITS, "--nbpe", str(asked), "--bpemode", mode)
    pieces = len(names) - 2
    assert f"nbpe {asked} is {side} than this text allows; {pieces} pieces used" in caplog.text
    # the size named is possible, and nothing is said when it is asked for
    caplog.clear()
    assert run(tmp_path, DIGITS, "--nbpe", str(pieces), "--bpemode", mode) == names
    assert "pieces used" not in caplog.text


def test_sentencepiece_is_silent(tmp_path, capfd):
    run(tmp_path)
    captured = capfd.readouterr()
    assert "trainer" not in captured.out + captured.err


def test_training_is_reproducible(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(tmp_path / name)
    assert (tmp_path / "a/out/bpe.model").read_bytes() == (
        tmp_path / "b/out/bpe.model"
    ).read_bytes()


def test_long_transcripts_and_commas_count_as_text(tmp_path):
    names = run(tmp_path, [" ".join(DIGITS) * 500, "QUAY, JAZZ"], "--nbpe", "60")
    assert {"Q", "J", ","} <= set("".join(names))


def test_characters_are_in_order_of_their_counts(tmp_path):
    names = run(tmp_path, ["AB A", "A語"], "--token_type", "char")
    assert names == ["<blank>", "<unk>", "A", "<space>", "B", "語", "<sos/eos>"]


def test_words_are_in_order_of_their_counts(tmp_path):
    names = run(tmp_path, ["B A", "A"], "--token_type", "word")
    assert names == ["<blank>", "<unk>", "A", "B", "<sos/eos>"]


@pytest.mark.parametrize(
    ("token_type", "expected"),
    [("bpe", {"B": 1, "A": 2}), ("char", {"B": 1, "A": 2}), ("word", {"NBN": 1, "NAN": 2})],
)
def test_what_is_out_of_vocabulary_is_counted(tmp_path, caplog, token_type, expected):
    others = ["ONE TWO", "NBN NAN NAN", "ONE"]
    run(tmp_path, TEXTS, "--token_type", token_type, others=others)
    count = sum(expected.values())
    assert f"{count} out-of-vocabulary units in 1 of 3 utterances" in caplog.text
    for unit, number in expected.items():
        assert f"'{unit}' {number}" in caplog.text


@given(st.lists(st.text("ABC ", min_size=1).map(str.strip).filter(bool), min_size=1))
@settings(deadline=None)
def test_the_training_text_has_nothing_out_of_vocabulary(texts):
    for token_type in ("char", "word"):
        names = tokens.token_list(tokens.count_units(texts, token_type))
        assert tokens.unknown_units(texts, token_type, names) == ({}, 0)


def test_nothing_out_of_vocabulary_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path, TEXTS, others=TEXTS[:3])
    assert "dev_text: nothing out of vocabulary" in caplog.text


FOREIGN = [
    "\u0e17\u0e33\u0e19\u0e49\u0e33",  # Thai with SARA AM
    "e\u0301te\u0301 a\u0300",  # decomposed French
    "\uff21\uff22\uff11 \u4f60\u597d\uff0c",  # full width
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian with ZWNJ
]


@pytest.mark.parametrize("mode", ["unigram", "bpe"])
def test_tokens_spell_the_transcripts_as_they_are(tmp_path, caplog, mode):
    run(tmp_path, FOREIGN * 5, "--nbpe", "5000", "--bpemode", mode)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out/bpe.model"))
    assert [processor.decode(processor.encode(words)) for words in FOREIGN] == FOREIGN
    assert "are not what their tokens spell" not in caplog.text


@pytest.mark.parametrize("token_type", ["bpe", "char", "word"])
def test_transcripts_that_tokens_do_not_give_back_are_counted(tmp_path, caplog, token_type):
    others = ["ONE TWO", "ONE\u2581TWO", "Q\u2581Q"]  # the last is unknown, not changed
    run(tmp_path, [*TEXTS, "TWO\u2581ONE"], "--token_type", token_type, others=others)
    said = [r.getMessage() for r in caplog.records if "not as the tokens" in r.getMessage()]
    if token_type != "bpe":
        assert not said
        return
    assert "/text: 1 transcript not as the tokens spell them" in said[0]
    assert "dev_text: 1 transcript" in said[1]
    assert "'ONE\\u2581TWO' becomes 'ONE TWO'" in said[1]


@pytest.mark.parametrize("token_type", ["bpe", "char", "word"])
@pytest.mark.parametrize("name", ["<unk>", "<blank>", "<sos/eos>"])
def test_special_names_are_refused_whatever_the_tokens(tmp_path, token_type, name):
    with pytest.raises(UserError, match=f"the transcripts hold {name}") as caught:
        run(tmp_path, [*DIGITS, f"ONE {name} TWO"], "--token_type", token_type, "--nbpe", "20")
    assert "leave those utterances out" in caught.value.hint


def test_special_names_in_transcripts_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"<unk>"):
        run(tmp_path, ["A <unk>"], "--token_type", "word")


def test_a_text_without_transcripts_is_an_error(tmp_path):
    (tmp_path / "text").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"no transcripts"):
        tokenize.main(["--text", str(tmp_path / "text"), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("token_type", ["bpe", "char", "word"])
def test_a_text_that_is_not_utf8_is_named_with_its_line(tmp_path, token_type):
    text = tmp_path / "text"
    text.write_bytes(b"u1 one two\nu2 one \xff two\n")
    with pytest.raises(UserError, match="text, line 2: not UTF-8"):
        tokens.make_token_list(text, tmp_path / "out", token_type, 10, "unigram")


@pytest.mark.parametrize("content", [None, b"", b"text", b"twice"])
def test_a_bpe_model_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "bpe.model"
    if content == b"twice":
        content = tokens.train_sentencepiece(["a b c"] * 9, 5, "unigram", print) * 2
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bpe\.model"):
        tokens.read_bpe_model(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<blank>\n<unk>\na\na\n<sos/eos>\n", "has 'a' twice"),
        ("<blank>\n<unk>\n\na\n<sos/eos>\n", "has an empty line 3"),
        ("<blank>\n<unk>\n\n\n<sos/eos>\n", "has an empty line 3"),
        ("", "has an empty line 1"),
        ("<unk>\n<blank>\na\n<sos/eos>\n", "does not hold <blank> first"),
        ("<blank>\n<unk>\n<sos/eos>\na\n", "<sos/eos> last"),
        ("<blank>\na\n<sos/eos>\n", "<unk>, and"),
        ("\ufeff<blank>\n<unk>\n<sos/eos>\n", "does not hold <blank> first"),
        (b"<blank>\n\xff\n", "not UTF-8"),
    ],
)
def test_a_damaged_token_list_is_named(tmp_path, content, said):
    path = tmp_path / "tokens.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        tokens.read_token_list(path)
    assert said in error.value.message and str(path) in error.value.message


def test_a_token_list_is_read_as_espnet_reads_it(tmp_path):
    (tmp_path / "x").write_bytes("<blank>\r\n<unk> \n\u3000\n\u2028\n<sos/eos>".encode())
    names = tokens.read_token_list(tmp_path / "x")
    assert names == ["<blank>", "<unk>", "\u3000", "\u2028", "<sos/eos>"]
    with pytest.raises(UserError, match="no such token list"):
        tokens.read_token_list(tmp_path / "y")


def test_a_text_without_transcripts_is_named(tmp_path):
    (tmp_path / "text").write_text("u1\nu2\n")
    with pytest.raises(UserError, match=r"text: no transcripts"):
        tokens.Transcripts(tmp_path / "text").some()
