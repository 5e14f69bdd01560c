import itertools
import json

import pytest

from espnet_spike.inference.ctc import Word
from espnet_spike.inference.transcripts import (
    FORMATS,
    Piece,
    Transcript,
    captions,
    columns,
    join_words,
    wrap,
)


def test_ideographs_are_joined_without_spaces():
    assert join_words(["而", "对", "AB", "CD", "的"]) == "而对 AB CD 的"


def test_pieces_are_joined_as_the_model_writes():
    def text(spaces, *texts):
        pieces = [Piece(n, n + 1.0, t, 0.0) for n, t in enumerate(texts)]
        return Transcript("x", "x", 9.0, pieces, spaces).text

    assert text(False, "\u800c\u5bf9", "", "\u7684") == "\u800c\u5bf9\u7684"
    assert text(False, "\u800cAB", "CD\u7684") == "\u800cAB CD\u7684"
    assert text(True, "\u800c\u5bf9", "\u7684") == "\u800c\u5bf9 \u7684"  # cut into words
    assert text(True, "\uac00\ub098", "\ub2e4") == "\uac00\ub098 \ub2e4"
    assert text(False, "\uac00\ub098", "\ub2e4") == "\uac00\ub098 \ub2e4"


def spoken(text, words, step=0.3, long=0.2, start=0.0):
    said = tuple(Word(w, start + n * step, start + n * step + long) for n, w in enumerate(words))
    return Piece(start, start + len(words) * step, text, 0.0, said)


def test_captions_are_the_text_that_the_model_wrote():
    words = ["\u6211", "\u7528", "iPhone", "\u6253"]
    piece = spoken("\u6211\u7528iPhone \u6253", words)
    again = spoken("a", ["a"], start=1.2)
    once_more = spoken("a", ["a"], start=1.5)
    (line,) = captions(Transcript("x", "x", 3.0, [piece, again, once_more], False))
    assert line.word == "\u6211\u7528iPhone \u6253 a a"
    unknown = spoken("\u2047 b", ["<unk>", "b"])  # spelt otherwise than its tokens
    assert captions(Transcript("x", "x", 3.0, [unknown]))[0].word == "<unk> b"


@pytest.mark.parametrize("step", [0.1, 0.4, 1.5, 8.0])
def test_captions_can_be_read(step):
    """Two lines of 42 columns at most, for 1 to 7 seconds; nothing is lost or out of order."""
    for words, spaces in (
        ([f"WORD{n}" for n in range(150)], True),
        (list("\u4f60\u597d\u4e16\u754c" * 60), False),
        (["X" * 200, "A"], True),  # a model that never wrote a space
    ):
        joined = (" " if spaces else "").join(words)
        piece = spoken(joined, words, step, 0.1)
        transcript = Transcript("x", "x", piece.end, [piece], spaces)
        found = captions(transcript)
        assert "".join("".join(line.word for line in found).split()) == joined.replace(" ", "")
        for line in found:
            lines = wrap(line.word)
            assert 1 <= len(lines) <= 2 and all(columns(text) <= 42 for text in lines)
            assert 0 <= line.end - line.start <= 7
        for first, second in itertools.pairwise(found):
            assert first.end <= second.start + 1e-9
            assert first.end - first.start >= min(1.0, second.start - first.start) - 1e-9
        srt = FORMATS["srt"](transcript)
        assert max(columns(text) for text in srt.splitlines()) <= 42
        assert srt.count(" --> ") == len(found)


def test_lines_end_at_spaces_and_are_about_as_long():
    text = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS"
    first, second = wrap(text)
    assert f"{first} {second}" == text and abs(len(first) - len(second)) < 8
    assert wrap("X" * 43) == [] and wrap("A") == ["A"]
    assert columns("\u4f60\u597de\u0301") == 5


def made_up():
    first = Piece(0.0, 4.0, "HELLO THERE", -1.0, (Word("HELLO", 0.5, 1.0), Word("THERE", 1.1, 1.5)))
    second = Piece(4.0, 3723.5, "AGAIN", -2.0, (Word("AGAIN", 3722.0, 3723.25),))
    return Transcript("talk", "a/talk.wav", 3723.5, [first, Piece(4.0, 4.0, "", 0.0), second])


def test_formats():
    forms = {name: form(made_up()) for name, form in FORMATS.items()}
    assert forms["text"] == "talk\tHELLO THERE AGAIN\n"
    assert forms["ctm"] == (
        "talk 1 0.500 0.500 HELLO\ntalk 1 1.100 0.400 THERE\ntalk 1 3722.000 1.250 AGAIN\n"
    )
    assert forms["srt"] == (
        "1\n00:00:00,500 --> 00:00:01,500\nHELLO THERE\n\n"
        "2\n01:02:02,000 --> 01:02:03,250\nAGAIN\n\n"
    )
    content = json.loads(forms["json"])
    assert content["text"] == "HELLO THERE AGAIN" and content["seconds"] == 3723.5
    assert content["pieces"][0]["words"][1] == {"word": "THERE", "start": 1.1, "end": 1.5}


def test_a_line_of_ctm_has_five_fields_whatever_the_file_is_called():
    transcript = Transcript("my talk\t1", "my talk\t1.wav", 3723.5, made_up().pieces)
    lines = [line.split() for line in FORMATS["ctm"](transcript).splitlines()]
    assert {len(line) for line in lines} == {5} and {line[0] for line in lines} == {"my_talk_1"}


def test_captions_are_short_and_hold_every_word():
    words = tuple(Word(f"W{n}", n * 0.5, n * 0.5 + 0.4) for n in range(100))
    lines = captions(Transcript("x", "x", 50.0, [Piece(0.0, 50.0, "", 0.0, words)]))
    assert " ".join(line.word for line in lines).split() == [word.word for word in words]
    assert all(line.end - line.start <= 6.0 and len(line.word) <= 80 for line in lines)


@pytest.mark.parametrize("pieces", [[], [Piece(0.0, 3.0, "", 0.0)]])
def test_a_silent_file_is_written_in_every_format(pieces):
    written = {name: form(Transcript("x", "x.wav", 3.0, pieces)) for name, form in FORMATS.items()}
    assert (written["text"], written["srt"], written["ctm"]) == ("x\t\n", "", "")
    assert json.loads(written["json"])["text"] == ""
