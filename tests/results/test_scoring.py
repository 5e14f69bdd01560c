import io
from pathlib import Path

import editdistance
import kaldialign
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.results import scoring
from tests.helpers.scored import run_score, write

word = st.sampled_from(["one", "two", "three", "你好", "été", "o"])
sentence = st.lists(word, min_size=1, max_size=8)
hypothesis_ = st.lists(word, max_size=8)
pairs = st.lists(st.tuples(sentence, hypothesis_), min_size=1, max_size=6)


def align(refs, hyps, metric="wer", path=None):
    keys = [f"u{i}" for i in range(len(refs))]
    return scoring.align(metric, path, keys, ["s"] * len(refs), refs, hyps)


@given(pairs)
def test_counts_are_those_of_an_alignment(sentences):
    refs, hyps = [r for r, _ in sentences], [h for _, h in sentences]
    score = align(refs, hyps)
    correct, sub, deleted, inserted = score.counts.table.T
    assert (correct + sub + deleted).tolist() == [len(r) for r in refs]
    assert (correct + sub + inserted).tolist() == [len(h) for h in hyps]
    assert score.counts.errors.tolist() == [
        editdistance.eval(r, h) for r, h in zip(refs, hyps, strict=True)
    ]
    for row, ref, hyp, aligned in zip(
        score.counts.table, refs, hyps, score.alignments, strict=True
    ):
        assert [r for r, _ in aligned if r is not None] == ref
        assert [h for _, h in aligned if h is not None] == hyp
        marks = [scoring.mark(*pair) for pair in aligned]
        assert [marks.count(m) for m in ("", "S", "D", "I")] == row.tolist()


@given(st.lists(sentence, min_size=1, max_size=5))
def test_identical_texts_have_no_errors(refs):
    counts = align(refs, refs).counts
    assert counts.errors.sum() == 0
    assert scoring.rates(counts.table)["corr"] == 100.0
    assert scoring.rates(counts.table)["sentence_err"] == 0.0


@given(sentence, sentence)
def test_exchanged_roles_exchange_deletions_and_insertions(ref, hyp):
    forth, back = align([ref], [hyp]).counts, align([hyp], [ref]).counts
    assert forth.errors.tolist() == back.errors.tolist()
    assert (forth.table[:, 2] - forth.table[:, 3]).tolist() == (
        back.table[:, 3] - back.table[:, 2]
    ).tolist()


def test_a_miscount_is_not_accepted(monkeypatch):
    monkeypatch.setattr(kaldialign, "batch_error_rate", lambda *args, **kwargs: {"total": 99})
    with pytest.raises(AssertionError, match="99 by kaldialign"):
        align([["a"]], [["b"]])


def test_cer_counts_the_space_between_words():
    refs, hyps = ["one two"], ["onetwo"]
    score = align([*map(scoring.character_units, refs)], [*map(scoring.character_units, hyps)])
    assert score.counts.table.tolist() == [[6, 0, 1, 0]]


def test_cer_of_chinese():
    score = align([scoring.character_units("今天天气好")], [scoring.character_units("今天气很好")])
    assert score.counts.errors.tolist() == [2]
    assert score.counts.lengths.tolist() == [5]


def test_alignment_columns_of_wide_letters_line_up():
    lines = scoring.alignment_lines(align([["今天", "x", "好"]], [["今", "好", "吗"]]))
    assert lines[1] == "scores: (C S D I) 0 3 0 0"
    ref, hyp, marks = lines[2:5]
    assert (ref, hyp) == ("REF: 今天 x  好", "HYP: 今   好 吗")
    assert marks.split() == ["S", "S", "S"]


def test_score_writes_what_it_prints(decoded, capsys):
    data, refs, put = decoded
    hyps = refs | {"u00": "one too", "u01": "", "u02": "one two four five"}
    result = run_score(data, put("decode", hyps))
    wer = result["wer"]
    assert wer["counts"] == {"corr": 67, "sub": 1, "del": 4, "ins": 1}
    assert wer["err"] == pytest.approx(100 * 6 / 72, abs=1e-3)
    assert wer["sentence_err"] == pytest.approx(100 * 3 / 24)
    assert wer["ci"][0] <= wer["err"] <= wer["ci"][1]
    assert (wer["ci_unit"], wer["ci_units"], wer["ci_meaningful"]) == ("utterance", 24, True)
    assert (result["blank_hypotheses"], result["speakers"], result["oov_tokens"]) == (1, 3, 0)
    assert result["ter"] == result["cer"]
    printed = capsys.readouterr().out
    assert "text normalization: none" in printed
    assert "over 24 utterances" in printed
    text = (data.parents[1] / "exp/asr_x/decode/test/score_wer/result.txt").read_text()
    assert text.startswith("%WER 8.33 [ 6 / 72, 1 ins, 4 del, 1 sub ]")
    assert "text normalization: none" in text
    assert "|s0|8|24|" in text
    assert "two -> too" in text


def test_counts_can_be_read_back(decoded):
    data, refs, put = decoded
    folder = put("decode", refs | {"u03": "three"})
    run_score(data, folder)
    counts = scoring.read_counts(folder)
    assert counts.keys == sorted(refs)
    assert counts.table.sum(axis=0).tolist() == [70, 0, 2, 0]
    assert counts.speakers[:4] == ["s0", "s1", "s2", "s0"]


def test_counts_that_are_not_those_of_the_result_are_refused(decoded):
    data, refs, put = decoded
    folder = put("decode", refs | {"u03": "three"})
    run_score(data, folder)
    path = folder / "score_wer" / "counts.tsv"
    content = path.read_text()
    row = next(line for line in content.splitlines() if line.startswith("u03"))
    fields = row.split("\t")
    more = "\t".join([*fields[:-1], "1"])  # an insertion: neither words nor rows change
    for changed in ((row, more), (row + "\n", ""), (row, row + "\n" + row), ("\t0", "\t7")):
        path.write_text(content.replace(*changed))
        with pytest.raises(UserError, match=r"counts\.tsv is damaged: its \w+ are .*result\.json"):
            scoring.read_counts(folder)


def test_counts_of_no_units_are_damaged(decoded):
    data, refs, put = decoded
    folder = put("decode", refs)
    run_score(data, folder)
    path = folder / "score_wer" / "counts.tsv"
    head = path.read_text().splitlines(keepends=True)[0]
    for content in (head, head + "u03\ts0\t0\t0\t0\t1\n"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"counts\.tsv is damaged: it counts no units"):
            scoring.read_counts(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: {k: v for k, v in h.items() if k != "u07"}, "1 without a hypothesis: u07"),
        (lambda h: h | {"v1": "one"}, "1 without a reference: v1"),
    ],
)
def test_other_utterances_are_refused_by_name(decoded, change, said):
    data, refs, put = decoded
    with pytest.raises(UserError, match=said):
        run_score(data, put("decode", change(refs)))


def test_a_blank_reference_is_refused_by_name(decoded):
    data, refs, put = decoded
    write(data / "text", refs | {"u05": ""})
    with pytest.raises(UserError, match="1 blank reference: u05"):
        run_score(data, put("decode", refs))


def test_a_missing_speaker_is_named(decoded):
    data, refs, put = decoded
    write(data / "utt2spk", {utt: "s" for utt in refs if utt != "u09"})
    with pytest.raises(UserError, match="no speaker for u09"):
        run_score(data, put("decode", refs))


def test_an_unknown_normalization_gets_the_nearest_name(decoded):
    data, refs, put = decoded
    with pytest.raises(UserError, match="did you mean 'none'"):
        run_score(data, put("decode", refs), "--normalization", "non")


def test_tokens_the_model_cannot_write_are_counted(decoded):
    data, refs, put = decoded
    write(data / "text", refs | {"u05": "one zwei"})
    assert run_score(data, put("decode", refs))["oov_tokens"] == 2  # z and i


def test_sentencepiece_tokens(tmp_path):
    import sentencepiece

    (tmp_path / "text").write_text("one two three\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "bpe"),
        vocab_size=10,
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    cut = scoring.token_units("bpe", tmp_path / "bpe.model")
    assert "".join(cut("one two")).replace("▁", " ").strip() == "one two"
    with pytest.raises(UserError, match="no SentencePiece model"):
        scoring.token_units("bpe", tmp_path / "absent.model")
    with pytest.raises(UserError, match="did you mean 'char'"):
        scoring.token_units("chars", None)


def test_twenty_speakers_are_drawn_as_speakers(decoded):
    data, refs, put = decoded
    write(data / "utt2spk", {utt: f"s{i % 20}" for i, utt in enumerate(refs)})
    wer = run_score(data, put("decode", refs | {"u03": "two"}))["wer"]
    assert (wer["ci_unit"], wer["ci_units"]) == ("speaker", 20)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 23))
def test_fewer_than_twenty_utterances_are_marked(count):
    errors = np.ones(count, dtype=int)
    counts = scoring.Counts(None, ["u"] * count, ["s"] * count, np.stack([errors] * 4, axis=1))
    assert counts.interval.meaningful == (count >= 20)


def test_error_rates_are_those_of_a_scored_set():
    refs = {"a": "THE CAT SAT", "b": "ON A MAT"}
    hyps = {"b": "on the mat", "a": "the cat"}
    wer, cer = scoring.error_rates(refs, hyps, str.lower)
    assert wer == pytest.approx(100 * 2 / 6, abs=1e-4)
    assert cer == pytest.approx(100 * (4 + 3) / 19, abs=1e-4)
    assert scoring.error_rates(refs, refs, str) == (0, 0)


def test_references_that_the_tokens_cannot_spell_are_counted_and_said(decoded, capsys):
    """Tokens learnt before under sentencepiece's own rule write no full-width letters."""
    data, refs, put = decoded
    refs = {utt: text if utt == "u00" else f"\uff2f{text}" for utt, text in refs.items()}
    write(data / "text", refs)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*refs.values()]),
        **{"model_writer": model, "vocab_size": 16, "unk_id": 0, "minloglevel": 2},
        **{"hard_vocab_limit": False, "normalization_rule_name": "nmt_nfkc"},
    )
    (data / "bpe.model").write_bytes(model.getvalue())
    folder = put("decode", {utt: text.replace("\uff2f", "O") for utt, text in refs.items()})
    options = ["--token_type", "bpe", "--bpemodel", str(data / "bpe.model")]
    result = run_score(data, folder, *options)
    assert result["unspellable_references"] == 23
    # one wrong word in each
    counts = result["wer"]["counts"]
    assert {name: counts[name] for name in ("sub", "del", "ins")} == {"sub": 23, "del": 0, "ins": 0}
    assert result["wer"]["err"] == pytest.approx(100 * 23 / result["wer"]["units"], abs=1e-4)
    assert "test: 23 of 24 references hold characters that the" in capsys.readouterr().out
    result = run_score(data, folder, *options, "--normalization", "nmt_nfkc")
    assert (result["unspellable_references"], result["wer"]["err"]) == (0, 0)
    assert "references hold" not in capsys.readouterr().out


def test_an_unknown_unit_is_one_character():
    assert scoring.character_units("a <unk>b<") == ["a", "<space>", "<unk>", "b", "<"]


def test_a_token_list_of_nothing_is_named(tmp_path):
    (tmp_path / "tokens.txt").write_text("\n")
    with pytest.raises(UserError, match=r"tokens\.txt holds no tokens"):
        scoring.read_vocabulary(tmp_path / "tokens.txt")


def test_hypotheses_are_normalised_as_references_are(decoded):
    data, refs, put = decoded
    folder = put("decode", {utt: text.upper() for utt, text in refs.items()})
    assert run_score(data, folder)["wer"]["err"] == 100
    assert run_score(data, folder, "--normalization", "lower")["wer"]["err"] == 0
    write(data / "text", {utt: text.upper() for utt, text in refs.items()})
    write(folder / "text", refs)
    assert run_score(data, folder, "--normalization", "lower")["wer"]["err"] == 0


def test_rates_by_hand():
    """Two sentences of 3 and 2 units: one substitution and a deletion; one insertion."""
    found = scoring.rates(np.array([[1, 1, 1, 0], [2, 0, 0, 1]]))
    assert (found["err"], found["corr"], found["sub"], found["del"], found["ins"]) == (
        *(60.0, 60.0, 20.0, 20.0, 20.0),
    )
    assert (found["sentence_err"], found["units"]) == (100.0, 5)
    assert scoring.rates(np.array([[3, 0, 0, 0], [2, 0, 0, 1]]))["sentence_err"] == 50.0
    # what is inserted is an error, and no part of the reference
    counts = scoring.Counts(Path(), ["a"], ["s"], np.array([[1, 1, 1, 5]]))
    assert (counts.lengths.tolist(), counts.errors.tolist()) == ([3], [7])
