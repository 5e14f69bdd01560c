"""Loading a trained model: from its folder, a pack or a model file, and only what is of it."""

import shutil

import pytest
import torch

from espnet_spike.bin import pack
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.tasks.loading import load_model, open_model
from tests.helpers.tiny_model import DIMENSION, tiny_experiment

pytestmark = pytest.mark.xdist_group("tiny_model")
BEST = "valid.cer_ctc.ave.pth"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe folder with a trained model, to work in."""
    shutil.copytree(tiny_experiment(), tmp_path / "exp" / "asr_tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(a, b):
    states = a.model.state_dict(), b.model.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def test_folder_pack_and_model_file_give_the_same_model(recipe):
    exp = recipe / "exp/asr_tiny"
    trained = load_model(exp)
    assert trained.options.input_size == DIMENSION and not trained.model.training
    assert trained.checkpoint == exp / BEST
    assert trained.to_text([3, 4, 2, 5]) == "ab c"
    (recipe / "decode.yaml").write_text("beam_size: 2\n")
    words = ["--asr_exp", "exp/asr_tiny", "--inference_config", "decode.yaml", "--out", "p.zip"]
    pack.main(words)
    packed = load_model(recipe / "p.zip")
    assert same(trained, packed) and packed.to_text([3, 4, 2, 5]) == "ab c"
    assert not packed.checkpoint.exists()  # it was unpacked only to be read
    shutil.copy(exp / BEST, exp / "3epoch.pth")
    assert load_model(exp / "3epoch.pth").checkpoint.name == "3epoch.pth"
    assert same(load_model(exp, "3epoch.pth"), trained)
    with open_model(exp / "3epoch.pth") as folder:
        assert folder.files()["asr_model_file"] == str(exp / "3epoch.pth")
        with pytest.raises(UserError, match=r"no model file 4epoch\.pth"):
            folder.checkpoint("4epoch.pth")


def test_what_is_no_model_is_refused(recipe):
    with pytest.raises(UserError, match="no trained model"):
        load_model(recipe)
    (recipe / "p.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="no packed model"):
        load_model(recipe / "p.zip")
    with pytest.raises(UserError, match="no model file") as error:
        load_model(recipe / "exp/asr_tiny", "9epoch.pth")
    assert BEST in error.value.hint
    with pytest.raises(UserError, match="does not spike"):
        load_model(recipe / "exp/asr_tiny", spike_options=SpikeOptions(spike_mode="binary"))


@pytest.mark.parametrize("damage", ["absent", "of another size", "unknown"])
def test_no_parameter_is_left_as_it_was_drawn(recipe, damage):
    exp = recipe / "exp/asr_tiny"
    state = torch.load(exp / BEST, weights_only=True)
    name = "encoder.encoders.0.norm1.weight"
    if damage == "absent":
        del state[name]
    elif damage == "unknown":
        state[name := f"{name}.more"] = torch.zeros(1)
    else:
        state[name] = state[name][:-1]
    torch.save(state, exp / BEST)
    with pytest.raises(UserError, match=f"{BEST} is not of this model: .*{name}"):
        load_model(exp)
