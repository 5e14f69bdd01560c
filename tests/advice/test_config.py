"""YAMLs of plans: good for every encoder and size."""

import pytest

from espnet_spike.advice.config import encoder_conf, training_config
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


def test_the_spikeformer_has_its_convolution_module():
    conf = encoder_conf(make_plan(speech(0.6, 13)))
    assert conf["conv_module"] is True and conf["conv_module_kernel"] == 15
    assert encoder_conf(make_plan(speech(0.6), "speech_mamba"))["num_blocks"] == 2
