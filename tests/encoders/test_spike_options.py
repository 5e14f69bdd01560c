"""How a trained encoder runs at decoding."""

import argparse

import pytest
import torch

from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.base import named_neurons


def parse(*words, **defaults):
    parser = argparse.ArgumentParser()
    SpikeOptions.add_arguments(parser, defaults)
    return SpikeOptions.from_options(parser.parse_args(words))


def encoder(**options):
    from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder

    torch.manual_seed(0)
    small = {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 2}
    return IMLSpikeformerEncoder(20, **(small | options)).eval()


@pytest.mark.parametrize(
    "execution", [SpikeOptions(), SpikeOptions("binary"), SpikeOptions("integer", 3, "rescale")]
)
def test_options_survive_the_command_line(execution):
    assert parse(*execution.words()) == execution


def test_arguments_win_over_the_config():
    assert parse("--T", "2", T=5, spike_mode="binary") == SpikeOptions("binary", 2)


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"T": 0}, "T: 0 is out of range"),
        ({"T": 1.5}, "T: 1.5 is out of range"),
        ({"T_rule": "keep"}, "T is not given"),
        ({"spike_mode": "bits"}, "one of null, integer, binary"),
        ({"T": 2, "T_rule": "scale"}, "one of null, keep, rescale"),
    ],
)
def test_values_that_are_refused(defaults, said):
    with pytest.raises(UserError, match=said):
        parse(**defaults)


def test_levels_change_what_the_neurons_may_emit():
    model = encoder(T=6)
    SpikeOptions(T=3, T_rule="rescale").apply(model)
    model(torch.randn(1, 60, 20) * 3, torch.tensor([60]))
    neurons = named_neurons(model).values()
    assert {neuron.levels for neuron in neurons} == {3}
    assert {neuron.gain for neuron in neurons} == {2.0}


def test_spikes_give_what_counts_give():
    xs_pad, ilens = torch.randn(2, 80, 20).double(), torch.tensor([80, 50])
    counted, spiking = encoder().double(), encoder().double()
    SpikeOptions(spike_mode="binary").apply(spiking)
    torch.testing.assert_close(
        spiking(xs_pad, ilens)[0], counted(xs_pad, ilens)[0], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("execution", [SpikeOptions("binary"), SpikeOptions(T=2)])
def test_what_cannot_run_so_says_why(execution):
    with pytest.raises(UserError, match="spike"):
        SpikeOptions("binary").apply(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="levels"):
        SpikeOptions(T=2).apply(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"IMLS|ReLU"):
        execution.apply(encoder(neuron="relu"))
