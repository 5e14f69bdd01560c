import json
from argparse import Namespace

import pytest
import torch
import yaml

from espnet_spike.bin import describe as command
from espnet_spike.errors import UserError
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.build import build_on_meta, parameters_on_meta
from espnet_spike.tasks.config import read_training_config
from espnet_spike.tasks.config_check import check_training_config, own_model
from espnet_spike.tasks.describe import describe, describe_model, format_description
from espnet_spike.tasks.registry import ENCODERS
from tests.conftest import ROOT
from tests.helpers.configs import GOOD, changed

CONFIGS = sorted((ROOT / "conf").glob("train_*.yaml"))
OURS = [path for path in CONFIGS if yaml.safe_load(path.read_text())["encoder"] in ENCODERS]
OURS += sorted((ROOT / "egs/fsdd/conf").glob("train_*mamba*.yaml"))
SMALL = yaml.safe_load((ROOT / "egs/fsdd/conf/train_iml_spikeformer.yaml").read_text())
del SMALL["spike_meta"]


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


def test_points_are_told_of_encoder_and_decoder(tmp_path):
    path = tmp_path / "points.yaml"
    conf = {"num_blocks": 1, "d_state": 4}
    config = {
        "encoder": "event_speech_mamba",
        "encoder_conf": conf | {"fat_points": ["F3", "F10"], "fat_threshold": 0.1},
        "decoder": "speech_mamba",
        "decoder_conf": conf | {"fat_points": ["F4"]},
    }
    path.write_text(yaml.safe_dump(config))
    description = describe(path)
    mamba = [f"encoders.0.mamba_{side}.sublayer.ssm.f10" for side in ("in", "out")]
    assert description["points"] == {
        mamba[0]: {"learnt": True, "two_sided": True},
        "encoders.0.attn.sublayer.f3": {"learnt": True, "two_sided": False},
        mamba[1]: {"learnt": True, "two_sided": True},
        "decoder.decoders.0.attn.sublayer.f4": {"learnt": False, "two_sided": False},
    }
    text = format_description(description)
    assert "  FATReLU points: 4\n" in text and f"    {mamba[0]}: learnt, two-sided\n" in text
    assert text.endswith("    decoder.decoders.0.attn.sublayer.f4")


def test_our_encoder_tells_its_neurons():
    description = describe(ROOT / "conf" / "train_iml_spikeformer.yaml")
    assert len(description["neurons"]) >= description["layers"]["encoder"]
    assert all("class" in neuron for neuron in description["neurons"].values())


def with_our_decoder(config):
    conf = {"decoder": "speech_mamba", "decoder_conf": {"num_blocks": 2, "d_state": 8}}
    return config | conf | {"model_conf": {"ctc_weight": 0.3}}


def test_neurons_of_a_decoder_are_told_under_its_name(tmp_path):
    config = with_our_decoder(GOOD)
    config["decoder_conf"]["spiking"] = True
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    description = describe(path)
    assert description["decoder_name"] == "speech_mamba" and description["layers"]["decoder"] == 2
    assert len(description["neurons"]) == 2 * (4 + 4 + 6)
    assert {n.partition(".")[0] for n in description["neurons"]} == {"decoder"}


@pytest.mark.parametrize("change", [dict, with_our_decoder])
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_a_model_built_without_the_task_is_the_one_that_the_task_builds(path, change):
    config = change(read_training_config(path)[0])
    ours = own_model(config, vocab_size=40, input_size=80)
    theirs = check_training_config(SpikeASRTask, config, path, vocab_size=40).model
    assert parts(ours) == parts(theirs)
    assert (ours.ctc_weight, ours.token_list) == (theirs.ctc_weight, theirs.token_list)
    assert describe_model(ours) == describe_model(theirs)
    assert all(tensor.is_meta for tensor in (*ours.state_dict().values(), *theirs.buffers()))


def parts(model):
    modules = {name: type(module) for name, module in model.named_modules()}
    return modules, {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "conformer"},
        {"encoder": None},
        {"decoder": "rnn"},
        {"preencoder": "sinc"},
        {"frontend": "default"},
        {"frontend_conf": {"n_fft": 512}},
        {"encodr": "iml_spikeformer"},
        {"seed": 1},
        {"encoder_conf.no_such": 1},
        {"encoder_conf.output_size": "big"},
        {"encoder_conf.output_size": 17},
        {"encoder_conf": 3},
        {"model_conf.ctc_weight": 0.3},
        {"model_conf.lsm_weight": "1e-1"},
        {"ctc_conf": {"dropout": 0.1}},
        {"specaug": None, "specaug_conf": {"apply_time_warp": False}},
    ],
    ids=str,
)
def test_other_parts_and_mistakes_are_left_to_the_task(change):
    assert own_model(SMALL, 30, 80) is not None
    assert own_model(changed(change, SMALL), 30, 80) is None


def test_a_mistake_is_told_as_ever(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(changed({"encoder_conf.no_such": 1}, SMALL)))
    with pytest.raises(UserError, match="encoder_conf: unknown key no_such"):
        describe(path)


class ComputesWithParameters:
    """A task whose model needs parameters and other tensors on one device."""

    @staticmethod
    def build_model(args):
        layer = torch.nn.Linear(2, 3)
        if args.fails:
            raise ValueError("no such model")
        layer.sums = torch.ones(3) + layer.weight.sum(1)
        return layer


def test_parameters_take_no_memory_whatever_is_computed_with_them():
    with parameters_on_meta():
        layers = torch.nn.Embedding(4, 2), torch.nn.LSTM(2, 2), torch.nn.LayerNorm(2)
        other = torch.nn.init.normal_(torch.zeros(3))
    assert all(p.is_meta for layer in layers for p in layer.parameters())
    assert other.device.type == "cpu" and other.any()
    model = build_on_meta(ComputesWithParameters, Namespace(fails=False))
    assert model.weight.is_meta and model.sums.is_meta
    with pytest.raises(ValueError, match="no such model"):
        build_on_meta(ComputesWithParameters, Namespace(fails=True))


@pytest.mark.parametrize("name", [[1], {"a": 1}, 5])
def test_a_name_that_is_none_is_told(config, name):
    config.write_text(yaml.safe_dump(GOOD | {"encoder": name}))
    with pytest.raises(UserError, match="encoder: "):
        describe(config)
