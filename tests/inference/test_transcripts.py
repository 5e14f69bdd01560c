import json

from espnet_spike.inference.ctc import Word
from espnet_spike.inference.transcripts import (
    FORMATS,
    Piece,
    Transcript,
    captions,
    join_words,
)


def test_ideographs_are_joined_without_spaces():
    assert join_words(["而", "对", "AB", "CD", "的"]) == "而对 AB CD 的"


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
