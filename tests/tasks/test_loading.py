"""Loading a trained model: from its folder, a pack or a model file, and only what is of it."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from espnet_spike.bin import pack
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.tasks import loading
from espnet_spike.tasks.loading import load_model, open_model, unpack_pack
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


def test_a_model_that_comes_with_the_package_is_known_by_its_name(recipe, monkeypatch):
    exp = recipe / "exp/asr_tiny"
    (recipe / "decode.yaml").write_text("beam_size: 2\n")
    words = ["--asr_exp", "exp/asr_tiny", "--inference_config", "decode.yaml", "--out", "p.zip"]
    pack.main(words)
    monkeypatch.setattr(loading, "pretrained", lambda: {"digits": recipe / "p.zip"})
    assert same(load_model(Path("digits")), load_model(exp))
    with pytest.raises(UserError, match=r"digit: no trained model \(did you mean 'digits'") as e:
        load_model(Path("digit"))
    assert "comes with the package: digits" in e.value.hint
    (recipe / "digits").mkdir()
    with pytest.raises(UserError, match="no trained model"):  # a folder of that name goes first
        load_model(Path("digits"))


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


def make_pack(path, members, **meta):
    """Write a zip with these members and a ``meta.yaml``; return its path."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
    return path


def test_a_pack_refers_to_its_own_files_only(tmp_path, monkeypatch):
    from espnet2.main_funcs import pack_funcs

    monkeypatch.setattr(pack_funcs, "unpack", None)  # ESPnet's reader is not asked
    (tmp_path / "outside.pth").write_text("secret")
    files = {"asr_model_file": "exp/m.pth"}
    config = {"model": "exp/m.pth", "list": ["./exp/m.pth", "exp/other", ""], "n": 1}
    members = {"exp/c.yaml": yaml.safe_dump(config), "exp/m.pth": b"weights"}
    yamls = {"asr_train_config": "exp/c.yaml"}
    good = make_pack(tmp_path / "good.zip", members, files=files, yaml_files=yamls)
    found = unpack_pack(good, tmp_path / "out")
    place = f"{tmp_path}/out/exp/m.pth"
    assert found == {"asr_train_config": f"{tmp_path}/out/exp/c.yaml", "asr_model_file": place}
    moved = yaml.safe_load((tmp_path / "out/exp/c.yaml").read_text())
    assert moved == {"model": place, "list": [place, "exp/other", ""], "n": 1}
    for number, bad in enumerate(
        [
            {"files": {"asr_model_file": "../outside.pth"}, "yaml_files": yamls},
            {"files": {"asr_model_file": f"{tmp_path}/outside.pth"}, "yaml_files": yamls},
            {"files": {"asr_model_file": "exp/none.pth"}, "yaml_files": yamls},
            {"files": {"asr_model_file": ["exp/m.pth"]}, "yaml_files": yamls},
            {"files": files, "yaml_files": {"asr_train_config": "exp/../../outside.pth"}},
            {"files": {}, "yaml_files": yamls},
            {"files": files, "yaml_files": {}},
            {"files": files, "yaml_files": {**yamls, "lm_train_config": "exp/c.yaml"}},
            {"files": ["exp/m.pth"], "yaml_files": yamls},
            {},
        ]
    ):
        archive = make_pack(tmp_path / f"{number}.zip", members, **bad)
        with pytest.raises(UserError, match="no packed model"):
            unpack_pack(archive, tmp_path / "bad")
        assert not (tmp_path / "bad").exists()
    with zipfile.ZipFile(tmp_path / "no.zip", "w") as archive:
        archive.writestr("exp/m.pth", b"weights")
    with pytest.raises(UserError, match=r"holds no meta\.yaml"):
        unpack_pack(tmp_path / "no.zip", tmp_path / "bad")


def test_what_is_wrong_with_a_file_of_a_pack_is_said_of_the_pack(recipe):
    pack.main(["--asr_exp", "exp/asr_tiny", "--out", "p.zip"])
    seen = []
    for hint in ("", "copy {}/exp/asr_tiny/config.yaml"):
        with pytest.raises(UserError) as caught, open_model(Path("p.zip")) as folder:
            seen.append(folder.path)
            place = str(folder.path.parent.parent)
            raise UserError(f"{folder.path}/config.yaml is odd", hint.format(place))
        assert caught.value.message == "p.zip/exp/asr_tiny/config.yaml is odd"
        assert caught.value.hint == hint.format("p.zip")
    assert not any(path.exists() for path in seen)


def test_a_model_as_large_as_none_is_refused_before_it_is_built(recipe):
    path = Path("exp/asr_tiny/config.yaml")
    config = yaml.safe_load(path.read_text())
    for key in ("num_blocks", "output_size", "linear_units"):
        conf = config["encoder_conf"] | {key: 100_000_000}
        path.write_text(yaml.safe_dump(config | {"encoder_conf": conf}))
        with pytest.raises(UserError, match=rf"encoder_conf: {key}: 100000000 is out of range"):
            load_model(Path("exp/asr_tiny"))


def test_a_pack_that_leads_out_is_not_unpacked(tmp_path):
    evil = make_pack(tmp_path / "p.zip", {"../../evil": b""}, files={}, yaml_files={})
    with pytest.raises(UserError, match="leads out"), open_model(evil):
        pass


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


def test_the_beam_search_takes_no_parameters_of_another_model(recipe):
    """By the names that ESPnet's own inference looks up."""
    from espnet_spike.inference.beam_search import BeamSearch
    from espnet_spike.inference.decode import read_settings

    exp = recipe / "exp/asr_tiny"
    files = {"asr_train_config": str(exp / "config.yaml"), "asr_model_file": str(exp / BEST)}
    settings = read_settings(None, "--beam_size 1")
    searched = BeamSearch(files, settings).model.state_dict()
    assert all(torch.equal(searched[n], v) for n, v in load_model(exp).model.state_dict().items())
    with pytest.raises(UserError, match="parameters would be random"):
        BeamSearch({"asr_train_config": files["asr_train_config"]}, settings)
    state = torch.load(exp / BEST, weights_only=True)
    torch.save({"model": state, "reporter": {}, "optimizers": []}, exp / "checkpoint.pth")
    with pytest.raises(UserError, match=r"checkpoint\.pth holds something else"):
        BeamSearch(files | {"asr_model_file": str(exp / "checkpoint.pth")}, settings)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    del config["encoder_conf"]["num_blocks"]
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=f"{BEST} is not of this model: it lacks encoder.encoders"):
        BeamSearch(files, settings)
    config["encoder_conf"]["output_size"] = "many"
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="builds no model"):
        BeamSearch(files, settings)
