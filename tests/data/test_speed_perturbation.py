"""Copies of utterances at other speeds: names, audio and what cannot be."""

import pytest

from espnet_spike.data.kaldi_dir import Segment
from espnet_spike.data.speed_perturbation import parse_factors, perturb, perturb_dir
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


def test_two_utterances_of_one_name_are_refused(tmp_path):
    data = make_data_dir(tmp_path / "d", {"a": 0.1, "sp0.9-a": 0.1})
    with pytest.raises(UserError, match=r"two utterances are named sp0\.9-a: sp0\.9-a at speed 1"):
        perturb(data, [0.9, 1.0])


@pytest.mark.parametrize("table", ["text", "utt2spk", "wav.scp"])
def test_tables_of_different_utterances_are_refused(tmp_path, table):
    make_data_dir(tmp_path / "d", {"a": 0.1, "b": 0.1})
    path = tmp_path / "d" / table
    path.write_text(path.read_text().splitlines()[0] + "\n")
    (tmp_path / "d" / "spk2utt").unlink(missing_ok=True)
    with pytest.raises(UserError, match=rf"{table} does not name .* other tables: b\n") as caught:
        perturb_dir(tmp_path / "d", tmp_path / "sp", [0.9, 1.0])
    assert "prepare_data_dir" in caught.value.hint and not (tmp_path / "sp").exists()
