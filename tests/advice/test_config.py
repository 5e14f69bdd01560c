"""YAMLs of plans: good for every encoder and size."""

import pytest

from espnet_spike.advice.config import encoder_conf, front_end_channels, training_config
from espnet_spike.advice.plan import ENCODERS, base_of, make_plan
from espnet_spike.tasks.config_check import own_model
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_yaml
from tests.helpers.measured import speech


def config_of(measured, encoder, **more):
    name = base_of(measured, encoder)
    base = None if name is None else read_yaml(shipped(name))
    plan = make_plan(measured, encoder, base=base, **more)
    return plan, training_config(plan, base)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("hours", [0.1, 0.6, 10, 100])
def test_schedule_masks_and_sizes_are_those_of_the_plan(encoder, hours):
    plan, config = config_of(speech(hours, 13), encoder)
    assert config["encoder"] == encoder and config["max_epoch"] == plan.epochs
    assert config["batch_type"] == "length" and config["batch_bins"] == plan.batch_bins
    batches = config["num_iters_per_epoch"] * config["max_epoch"]
    assert batches // config["accum_grad"] == plan.updates
    schedule = config["scheduler_conf"]
    if plan.base is None:
        assert schedule["total_steps"] == "auto"  # so that a longer training needs one option
    else:
        assert schedule["warmup_steps"] == plan.warm_up
    assert config["specaug_conf"]["freq_mask_width_range"][1] <= 3
    assert config["spike_meta"]["input_size"] == 13
    if plan.base is None:
        # an intermediate loss after half of the blocks
        (layer,) = config["encoder_conf"]["interctc_layer_idx"]
        assert 0 < 2 * layer <= config["encoder_conf"]["num_blocks"]
        assert config["model_conf"]["interctc_weight"] == 0.3
    assert ("sparsify" in config["spike_meta"]) == (encoder == "event_speech_mamba")


@pytest.mark.parametrize("encoder", [e for e in ENCODERS if "mamba" in e or "spike" in e])
@pytest.mark.parametrize("dims", [13, 80])
def test_small_models_of_ours_can_be_built(encoder, dims):
    plan, config = config_of(speech(0.6, dims), encoder)
    del config["spike_meta"]
    model = own_model(config, plan.vocabulary, dims)
    assert model is not None and model.encoder.output_size() == 128


def test_without_dims_to_mask_nothing_is_masked():
    _, config = config_of(speech(0.6, 3), "iml_spikeformer")
    assert config["specaug_conf"]["apply_freq_mask"] is False


def test_the_cepstra_of_an4_get_what_was_chosen_on_its_dev_set(root):
    """Of size and schedule, that is `test_plan`; of all else, what egs/an4 has."""
    chosen = read_yaml(root / "egs/an4/conf/train_iml_spikeformer_augmented_cepstra.yaml")
    data = speech(0.63, 13, rates=(), convention="cepstra as Sphinx makes them")
    _, config = config_of(data, "iml_spikeformer")
    same = ("encoder", "encoder_conf", "model", "model_conf", "specaug_conf", "normalize", "optim")
    for key in (*same, "optim_conf", "scheduler", "grad_clip", "keep_nbest_models"):
        assert config[key] == chosen[key], key
    assert encoder_conf(make_plan(speech(0.6), "speech_mamba"))["num_blocks"] == 2


@pytest.mark.parametrize(
    ("width", "dims", "channels"),
    [(96, 13, 96), (128, 13, 128), (192, 13, 192), (128, 40, 48), (96, 80, 32), (192, 80, 48)],
)
def test_a_front_end_is_as_wide_as_the_blocks_where_features_are_few(width, dims, channels):
    assert front_end_channels(width, dims) == channels
    assert front_end_channels(width, 1) == width


def test_features_say_what_can_be_drawn_anew():
    drawn = {
        kind: config_of(speech(0.6, 80, rates=rates, convention=kind), "transformer")[1]
        for kind, rates in (("log mel", (8000,)), (None, ()))
    }
    known, unknown = (config["model_conf"]["augment"] for config in drawn.values())
    assert known["features"] == {"kind": "log_mel", "fs": 8000} and "vtlp" in known
    assert list(unknown) == ["time_stretch"]
    masked = [config["specaug_conf"]["apply_freq_mask"] for config in drawn.values()]
    assert masked == [True, False]
    large = config_of(speech(100, convention=None), "iml_spikeformer")[1]
    assert large["specaug_conf"]["apply_freq_mask"] is False
    mixed = config_of(speech(0.6, rates=(8000, 44100)), "conformer")[1]
    assert mixed["model_conf"]["augment"]["features"]["fs"] == 16000
    large = config_of(speech(100), "iml_spikeformer")[1]
    assert "augment" not in large["model_conf"]
