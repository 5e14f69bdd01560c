"""The trained digits model that comes with the package, and what the commands make of it."""

import gc
import shutil
import tempfile
from pathlib import Path

import pytest

import espnet_spike
from espnet_spike.bin import export_onnx, fbank, prove_spikes, transcribe
from espnet_spike.counting.costs import total
from espnet_spike.counting.counter import count_batch
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.inference.recognizer import Recognizer
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.tasks.loading import encoder_inputs, load_model, open_model
from espnet_spike.utils.resources import pretrained

NAME = "fsdd-digits"
SAID = "THREE SIX NINE TWO FOUR ONE"
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("pretrained")]


@pytest.fixture(scope="module")
def example(root):
    return root / "egs/fsdd/pretrained/example.flac"


@pytest.fixture(scope="module")
def recipe(example, tmp_path_factory):
    """A recipe folder with the model, unpacked, and the features of its example."""
    folder = tmp_path_factory.mktemp("digits recipe")
    with open_model(Path(NAME)) as found:
        shutil.copytree(found.path.parents[1], folder, dirs_exist_ok=True)
        exp = folder / "exp" / found.path.name
    config = (exp / "config.yaml").read_text()
    (exp / "config.yaml").write_text(config.replace(str(found.path), str(exp)))
    data = DataDir()
    data.wav["example"], data.text["example"] = str(example), SAID
    data.utt2spk["example"] = "lucas"
    data.write(folder / "data/test")
    words = ["--config", str(exp / "fbank.yaml"), "--fs", "8000"]
    fbank.main([*words, str(folder / "data/test"), str(folder / "dump/test")])
    return folder, exp


def test_it_is_small_and_transcribes_its_example(example, capsys):
    assert pretrained()[NAME].stat().st_size <= 2.5e6
    transcribe.main(["--model", NAME, str(example)])
    assert capsys.readouterr().out == f"example\t{SAID}\n"


@pytest.mark.parametrize("model", [NAME, "egs/fsdd/pretrained/fsdd-digits.zip"])
def test_loaded_in_python_it_transcribes_its_example(model, example, root, tmp_path, monkeypatch):
    """Also after the folder has changed that relative paths begin at; nothing unpacked stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(root)
    loaded = espnet_spike.load_model(model)
    monkeypatch.chdir(tmp_path)
    assert loaded.transcribe(example).text == SAID
    assert loaded.checkpoint.is_file()
    del loaded
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "valid.cer_ctc.ave.pth"])
def test_its_folder_may_be_named_from_anywhere(name, recipe, example, tmp_path, monkeypatch):
    """A moved experiment has its files beside it: they are found by a relative path as well."""
    _, exp = recipe
    moved = Path("egs/digits/exp/asr_x")
    shutil.copytree(exp, tmp_path / moved)
    config = (exp / "config.yaml").read_text().replace(str(exp / "bpe.model"), "data/bpe.model")
    (tmp_path / moved / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    loaded = espnet_spike.load_model(moved / name)
    said = loaded.transcribe(example).text
    assert (said, loaded.to_text([])) == (SAID, "")
    (found,) = Recognizer(moved / name).transcribe({"example": example})
    assert found.text == SAID


def test_every_layer_spikes_and_seldom(recipe):
    folder, exp = recipe
    model = load_model(exp).model
    ((xs, ilens),) = encoder_inputs(model, folder / "dump/test")
    (costs,) = count_batch(model.encoder, xs, ilens)
    rates = {key: cost.spikes / cost.slots for key, cost in costs.items() if cost.slots}
    assert len({layer for layer, _ in rates}) >= len(list(named_neurons(model.encoder)))
    assert 0.01 < min(rates.values()) and max(rates.values()) < 0.5, rates
    whole = total(costs.values())
    # the first convolution and Q K^T read real values, all else adds; T = 6 at these rates adds
    # about as often as a dense network multiplies, and seldom multiplies
    assert whole.macs < 0.1 * whole.dense_macs < whole.acs


def test_it_computes_the_same_with_spikes(recipe, capsys):
    folder, exp = recipe
    prove_spikes.main(["--asr_exp", str(exp), f"test={folder / 'dump/test'}"])
    assert "| test | 1 |" in capsys.readouterr().out


def test_its_graph_hears_the_same(recipe, tmp_path, capsys):
    folder, exp = recipe
    out = tmp_path / "digits"
    words = ["--asr_exp", str(exp), "--out", str(out), "--check_dir", str(folder / "dump/test")]
    export_onnx.main([*words, "--normalization", "none"])
    assert "| test, onnx | 0.00 | 0.00 | 0.00 |" in capsys.readouterr().out
