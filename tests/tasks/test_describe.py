import json

import pytest
import yaml

from espnet_spike.bin import describe as command
from espnet_spike.errors import UserError
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.build import token_names
from espnet_spike.tasks.config_check import check_training_config
from espnet_spike.tasks.describe import describe, describe_model
from tests.conftest import ROOT
from tests.tasks.test_config import GOOD

CONFIGS = sorted((ROOT / "conf").glob("train_*.yaml"))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"spike_meta": {"vocab_size": 50, "input_size": 40}}))
    return path


def test_the_figures_are_those_of_the_real_model(config):
    description = describe(config)
    args = check_training_config(SpikeASRTask, GOOD, "c", vocab_size=50, input_size=40).args
    model = SpikeASRTask.build_model(args)
    parameters = description["parameters"]
    for part in ("decoder", "ctc"):
        count = sum(p.numel() for p in getattr(model, part).parameters())
        assert parameters[part] == count
    assert parameters["total"] == sum(p.numel() for p in model.parameters())
    assert parameters["total"] == sum(v for k, v in parameters.items() if k != "total")
    assert description == description | describe_model(model)
    assert description["layers"] == {"encoder": 1, "decoder": 1}
    assert (description["subsampling_factor"], description["min_input_frames"]) == (4, 7)
    assert description["neurons"] == {}


def test_sizes_from_options_are_stronger(config):
    small, large = describe(config), describe(config, vocab_size=500, input_size=80)
    assert small["vocab_size"] == 50 and large["vocab_size"] == 500
    # embedding, output and CTC layer grow with the vocabulary
    grown = large["parameters"]["ctc"] - small["parameters"]["ctc"]
    assert grown == 450 * (small["output_size"] + 1)
    assert large["parameters"]["front_end"] > small["parameters"]["front_end"]


@pytest.mark.parametrize(
    ("layer", "factor"), [("conv2d1", 1), ("conv2d2", 2), ("conv2d6", 6), ("conv2d8", 8)]
)
def test_subsampling(config, layer, factor):
    description = describe(config, extra=f"--encoder_conf input_layer={layer}")
    assert description["subsampling_factor"] == factor


def test_a_ctc_model_has_no_decoder(config):
    description = describe(config, extra="--model_conf ctc_weight=1.0")
    assert description["decoder_name"] is None and description["parameters"]["decoder"] == 0


def test_command_prints_text_and_json(config, capsys):
    command.main(["--asr_config", str(config)])
    text = capsys.readouterr().out
    assert "subsampling: 4" in text and "total" in text
    command.main(["--asr_config", str(config), "--json"])
    parsed = json.loads(capsys.readouterr().out)
    assert f"{parsed['parameters']['total']:,}" in text


def test_token_names():
    assert len(token_names(7)) == len(set(token_names(7))) == 7
    with pytest.raises(UserError, match="too small"):
        token_names(2)


def test_shared_configs_are_of_equal_size():
    totals = {path.stem: describe(path)["parameters"]["total"] for path in CONFIGS}
    own = [path for path in totals if path in NAMES]
    assert sorted(own) == sorted(NAMES)
    ours = totals["train_iml_spikeformer"]
    for name in NAMES:
        assert totals[name] == pytest.approx(ours, rel=0.02), totals


NAMES = ["train_iml_spikeformer", "train_transformer", "train_conformer", "train_e_branchformer"]


FULL_SIZE = {  # config -> millions of parameters, tolerance; the first two are published
    "train_iml_spikeformer_librispeech960": (99.4, 0.005),
    "train_spike_driven_transformer_librispeech960": (99.4, 0.005),
    "train_iml_spikeformer_aishell": (30.35, 0.01),
    "train_iml_spikeformer_librispeech100": (38.9, 0.01),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_configs_have_their_size(name):
    millions, tolerance = FULL_SIZE[name]
    total = describe(ROOT / "conf" / f"{name}.yaml")["parameters"]["total"]
    assert total / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("name", [name for name in FULL_SIZE if "iml" in name])
def test_the_ann_twin_is_one_line(name):
    path = ROOT / "conf" / f"{name}.yaml"
    spiking, twin = describe(path), describe(path, extra="--encoder_conf neuron=relu")
    thresholds = sum(neuron["channels"] for neuron in spiking["neurons"].values())
    assert twin["parameters"]["total"] == spiking["parameters"]["total"] - thresholds


def test_our_encoder_tells_its_neurons():
    description = describe(ROOT / "conf" / "train_iml_spikeformer.yaml")
    assert len(description["neurons"]) >= description["layers"]["encoder"]
    assert all("class" in neuron for neuron in description["neurons"].values())
