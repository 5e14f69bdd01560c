"""Where the errors are: groups counted by hand, and tables of several systems."""

import numpy as np
import pytest
import yaml

from espnet_spike.errors import UserError
from espnet_spike.results import scoring
from espnet_spike.results.breakdown import (
    Group,
    breakdowns,
    by_frequency,
    by_length,
    by_speaker,
    training_texts,
    word_frequency,
)
from espnet_spike.results.scoring import Counts
from tests.helpers.scored import write as write_table

# words and errors: 1/1, 3/1, 4/0, 40/10
TABLE = np.array([[0, 1, 0, 0], [2, 0, 1, 0], [4, 0, 0, 0], [32, 4, 4, 2]])


def counts(tmp_path):
    return Counts(tmp_path, ["a", "b", "c", "d"], ["x", "y", "x", "y"], TABLE)


def test_by_length(tmp_path):
    assert by_length(counts(tmp_path)) == [
        Group("1", 1, 1, 1),
        Group("3-4", 2, 7, 1),
        Group("over 32", 1, 40, 10),
    ]


def test_by_speaker_the_worst_first(tmp_path):
    found = by_speaker(counts(tmp_path))
    assert found == [Group("y", 2, 43, 11), Group("x", 2, 5, 1)]
    assert [group.rate for group in found] == pytest.approx([25.5814, 20.0])


def test_by_frequency():
    alignments = [
        [("new", None), ("rare", "rare"), (None, "of"), ("of", "off")],
        [("of", "of"), ("rare", "bare")],
    ]
    found = by_frequency(alignments, {"rare": 2, "of": 1000, "other": 5})
    assert found == [Group("0", 1, 1, 1), Group("1-2", 1, 2, 1), Group("over 999", 1, 2, 1)]


def test_the_training_text_is_found_from_the_recipe_or_elsewhere(tmp_path, monkeypatch):
    exp = tmp_path / "exp" / "asr_x"
    exp.mkdir(parents=True)
    sources = [["dump/train/feats.scp", "speech", "kaldi_ark"], ["dump/train/text", "text", "text"]]
    config = {"train_data_path_and_name_and_type": sources}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    assert training_texts(exp) == []
    (tmp_path / "dump/train").mkdir(parents=True)
    write_table(tmp_path / "dump/train/text", {"a": "One two", "b": "two"})
    (found,) = training_texts(exp)
    assert word_frequency([found], "upper") == {"ONE": 1, "TWO": 2}
    monkeypatch.chdir(tmp_path)
    assert [path.as_posix() for path in training_texts(exp)] == ["dump/train/text"]


def score(folder, refs, hyps):
    data = folder / "data"
    for path in (data, folder / "test"):
        path.mkdir(parents=True)
    write_table(data / "text", refs)
    write_table(data / "utt2spk", {"a": "x", "b": "y"})
    write_table(folder / "test" / "text", hyps)
    cut = scoring.character_units
    scoring.score_set("test", data, folder / "test", cut, frozenset("abc"))
    return folder / "test"


def test_alignments_are_read_as_they_were_made(tmp_path):
    refs = {"a": "eins zwei \u4e09 vier", "b": "f\u00fcnf"}
    folder = score(tmp_path, refs, {"a": "eins drei vier f\u00fcnf", "b": "f\u00fcnf"})
    keys, *texts = scoring.read_pairs(tmp_path / "data/text", folder / "text")
    units = [[*map(scoring.word_units, column)] for column in texts]
    made = scoring.align("wer", folder, keys, ["x", "y"], *units)
    assert scoring.read_alignments(folder) == dict(zip(keys, made.alignments, strict=True))


def test_a_damaged_alignment_is_named(tmp_path):
    folder = score(tmp_path, {"a": "one two", "b": "three"}, {"a": "one", "b": "three"})
    path = folder / "score_wer/alignment.txt"
    path.write_text(path.read_text().replace("HYP: one", "HYP: own"))
    with pytest.raises(UserError, match=r"alignment\.txt is damaged.* at id: a "):
        scoring.read_alignments(folder)


def test_systems_side_by_side(tmp_path):
    refs = {"a": "one two", "b": "three"}
    systems = {
        "good": score(tmp_path / "1", refs, {"a": "one two", "b": "tree"}),
        "bad": score(tmp_path / "2", refs, {"a": "", "b": "three"}),
    }
    length, speaker, frequency = breakdowns(systems, {"three": 1})
    assert length.head == ["words of an utterance", "words", "good", "bad"]
    assert length.rows == [["1", "1", "100.00", "0.00"], ["2", "2", "0.00", "100.00"]]
    assert [row[0] for row in speaker.rows] == ["y", "x"]
    assert frequency.rows == [["0", "2", "0.00", "100.00"], ["1-2", "1", "100.00", "0.00"]]
    assert len(breakdowns(systems, {})) == 2
