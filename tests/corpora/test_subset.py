"""Parts of a data directory: nested, drawn by a seed, of the length that was asked for."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from espnet_spike.corpora import subset
from espnet_spike.data.ark import ArkWriter
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import make_data_dir

LENGTHS = {f"u{n:03d}": 1.0 + n % 5 for n in range(100)}  # 300 s


def test_a_shorter_part_lies_within_a_longer_one():
    parts = [subset.draw(LENGTHS, seconds, seed=1) for seconds in (30, 60, 120, 300)]
    for shorter, longer in pairwise(parts):
        assert shorter < longer
    for part, seconds in zip(parts, (30, 60, 120, 300), strict=True):
        assert seconds <= sum(LENGTHS[utt] for utt in part) < seconds + 5
    assert subset.draw(LENGTHS, 60, seed=1) == parts[1] != subset.draw(LENGTHS, 60, seed=2)
    # utterances are drawn, not the first ones
    assert not parts[1] <= set(list(LENGTHS)[:30])


@pytest.mark.parametrize("seconds", [-60, 0, 330])
def test_more_than_there_is_cannot_be_drawn(seconds):
    with pytest.raises(UserError, match=rf"--minutes {seconds / 60:g}: the set has 5\.0 minutes"):
        subset.draw(LENGTHS, seconds, seed=1)
    assert subset.draw(LENGTHS, 310, seed=1) == set(LENGTHS)  # nearly all is all


def test_a_directory_of_audio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lengths = {f"u{n}": 1.0 + n / 2 for n in range(4)}
    whole = make_data_dir(Path("data/train"), lengths)
    whole.write(Path("data/train"))
    assert subset.lengths_of(whole) == pytest.approx(lengths)
    subset.main(["data/train", "data/part", "--minutes", "0.05", "--seed", "3"])
    part = DataDir.read(Path("data/part"))
    chosen = subset.draw(lengths, 3.0, seed=3)
    assert part == whole.subset(chosen) and set(part.text) == chosen != set(whole.text)
    with pytest.raises(SystemExit):
        subset.main(["data/train", "data/train", "--minutes", "0.05"])
    with pytest.raises(UserError, match=r"the set has 0\.1 minutes"):
        subset.main(["data/train", "data/more", "--minutes", "1"])
    assert not Path("data/more").exists()

    whole.segments = {"a": Segment("u3", 0.5, 1.5), "b": Segment("u3", 1.5, -1)}
    whole.text, whole.utt2spk = dict.fromkeys("ab", "x"), dict.fromkeys("ab", "s")
    whole.utt2speed = {"a": 0.5, "b": 1.0}
    assert subset.lengths_of(whole) == pytest.approx({"a": 2.0, "b": 1.0})


def test_a_directory_of_features(tmp_path):
    with ArkWriter(tmp_path / "f.ark") as writer:
        offset = writer.write("a", np.zeros((150, 13), np.float32))
    data = DataDir(feats={"a": f"{tmp_path / 'f.ark'}:{offset}"}, text={"a": "x"})
    assert subset.lengths_of(data) == pytest.approx({"a": 1.5})
