"""What is measured of audio, segments, features, and of files that cannot be opened."""

from pathlib import Path

import numpy as np
import pytest

from espnet_spike.advice.measure import measure
from espnet_spike.data.ark import ArkWriter
from espnet_spike.data.audio import AudioInfo
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.errors import UserError


def test_audio_with_segments_speed_and_a_command():
    data = DataDir(
        wav={"long": "long.wav", "made": "sox x |"},
        segments={
            "a": Segment("long", 0.0, 2.0),
            "b": Segment("long", 4.0, -1.0),
            "c": Segment("made", 0.0, -1.0),
        },
        text={"a": "ab ba", "b": "b", "c": "abc" * 10},
        utt2spk={"a": "s", "b": "s", "c": "t"},
        utt2speed={"b": 2.0},
    )
    found = measure(data, {"long.wav": AudioInfo(8000, 80_000, 1)})
    assert found.seconds == pytest.approx(2.0 + 6.0 / 2 + 30 / 15)
    assert (found.utterances, found.speakers, found.words) == (3, 2, 4)
    assert (found.letters, found.alphabet, found.dims) == (35, 3, 80)
    assert found.rates == (8000,) and found.longest == 3.0 and found.convention == "log mel"
    assert len(found.lengths) == 9 and min(found.lengths) >= 2.0 and not found.ideographic


def test_features_tell_their_dimension_and_have_to_agree(tmp_path):
    entries = {}
    with ArkWriter(tmp_path / "f.ark") as writer:
        for utt, size in (("a", 13), ("b", 13), ("c", 80)):
            matrix = np.zeros((150, size), np.float32)
            entries[utt] = f"{tmp_path / 'f.ark'}:{writer.write(utt, matrix)}"
    data = DataDir(
        feats=entries, text=dict.fromkeys("abc", "而对"), utt2spk=dict.fromkeys("abc", "s")
    )
    with pytest.raises(UserError, match="a has 13, c has 80"):
        measure(data, {})
    found = measure(data.subset(["a", "b"]), {})
    assert (found.dims, found.seconds, found.rates) == (13, 3.0, ())
    assert found.convention is None  # of zeros
    assert found.ideographic and found.units_a_second == pytest.approx(4 / 3)


def test_an_archive_that_is_not_there_is_named():
    data = DataDir(feats={"a": str(Path("none.ark:3"))}, text={"a": "x"}, utt2spk={"a": "a"})
    with pytest.raises(UserError, match=r"a: none\.ark:3: no such file"):
        measure(data, {})
