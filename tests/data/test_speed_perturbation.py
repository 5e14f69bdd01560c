"""Copies of utterances at other speeds: names, audio and what cannot be."""

import pytest

from espnet_spike.data.kaldi_dir import Segment
from espnet_spike.data.speed_perturbation import parse_factors, perturb
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import make_data_dir


def test_perturbation_names_utterances_and_speakers_after_the_factor(tmp_path):
    data = make_data_dir(tmp_path / "d", {"a": 0.1})
    copy = perturb(data, [0.9, 1.0])
    assert copy.utt2spk == {"a": "speaker0", "sp0.9-a": "sp0.9-speaker0"}
    assert copy.text == {"a": "WORD A", "sp0.9-a": "WORD A"}
    assert copy.wav["sp0.9-a"] == data.wav["a"]
    data.segments = {"a": Segment("rec", 0, 1)}
    data.wav = {"rec": "r.wav"}
    copy = perturb(data, [1.1])
    assert copy.wav == {"rec": "r.wav"}
    assert copy.segments == {"sp1.1-a": Segment("rec", 0, 1)}
    with pytest.raises(UserError, match=r"perturbed already"):
        perturb(copy, [1.1])


@pytest.mark.parametrize("factors", ["", "fast", "0.1", "3", "0.9 0.90", "nan"])
def test_wrong_factors_are_refused(factors):
    with pytest.raises(UserError, match=r"speed factor"):
        parse_factors(factors)
