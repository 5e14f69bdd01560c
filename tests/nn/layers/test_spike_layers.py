"""Weight layers on binary spike trains give what they give on integer counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from espnet_spike.nn.layers.spike_layers import SpikeConv1d, SpikeConv2d, SpikeLinear
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.neurons.multi_level import IMLS_STATS
from espnet_spike.nn.neurons.spike_train import SpikeTrain

LAYERS = {
    "linear": lambda bias: SpikeLinear(6, 4, bias=bias),
    "conv1d": lambda bias: SpikeConv1d(6, 4, 3, bias=bias),
    "depthwise": lambda bias: SpikeConv1d(6, 6, 5, groups=6, bias=bias),
    "unpadded": lambda bias: SpikeConv1d(6, 6, 5, groups=6, bias=bias, padding=0),
    "more padding": lambda bias: SpikeConv1d(6, 4, 3, bias=bias, padding=3),
    "grouped": lambda bias: SpikeConv1d(6, 4, 3, groups=2, bias=bias),
    "conv2d": lambda bias: SpikeConv2d(6, 4, 3, 2),
    "conv2d6": lambda bias: SpikeConv2d(6, 4, 5, 3),
}


def integer_and_binary(neuron, x, mask):
    neuron.eval()
    neuron.spike_mode = "integer"
    y = neuron(x, mask)
    neuron.spike_mode = "binary"
    return y, neuron(x, mask)


@settings(deadline=None, max_examples=40)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    stat=st.sampled_from(IMLS_STATS),
    T=st.sampled_from([1, 2, 4, 6]),
    bias=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_binary_equals_integer(layer, stat, T, bias, double, seed):
    torch.manual_seed(seed)
    dtype = torch.double if double else torch.float
    module = LAYERS[layer](bias).to(dtype)
    neuron = NeuronFactory("imls", T, {"stat": stat})(6).to(dtype)
    shape = (2, 9, 7, 6) if layer.startswith("conv2d") else (2, 9, 6)
    x = torch.randn(shape, dtype=dtype)
    mask = torch.arange(9) < torch.tensor([9, 6])[:, None]
    y, train = integer_and_binary(neuron, x, mask)
    assert isinstance(train, SpikeTrain)
    with torch.no_grad():
        integer, binary = module(y), module(train)
    tolerance = 1e-12 if double else 1e-5
    assert torch.allclose(integer, binary, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layer", LAYERS)
def test_weights_meet_zeros_and_ones_only(layer, monkeypatch):
    """Whatever a weight is multiplied with in binary mode is a 0/1 spike."""
    seen = []

    def recording(function):
        def call(x, *args, **kwargs):
            seen.append(set(x.unique().tolist()))
            return function(x, *args, **kwargs)

        return call

    module = LAYERS[layer](True)
    neuron = NeuronFactory("imls", 4)(6)
    shape = (2, 9, 7, 6) if layer.startswith("conv2d") else (2, 9, 6)
    _, train = integer_and_binary(neuron, torch.randn(shape), None)
    for name in ("linear", "conv1d", "conv2d"):
        monkeypatch.setattr(nn.functional, name, recording(getattr(nn.functional, name)))
    module(train)
    assert seen and all(values <= {0.0, 1.0} for values in seen)


def test_plain_tensors_pass_through_the_plain_layers():
    x = torch.randn(2, 9, 6)
    linear = SpikeLinear(6, 4)
    assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))
    conv = SpikeConv1d(6, 4, 3)
    expected = nn.functional.conv1d(x.transpose(1, 2), conv.weight, conv.bias, padding=1)
    assert torch.allclose(conv(x), expected.transpose(1, 2))
    maps = torch.randn(2, 9, 7, 6)
    conv = SpikeConv2d(6, 4, 3, 2)
    expected = nn.functional.conv2d(maps.permute(0, 3, 1, 2), conv.weight, conv.bias, stride=2)
    assert torch.allclose(conv(maps), expected.permute(0, 2, 3, 1), atol=1e-6)


def test_masked_train():
    _, train = integer_and_binary(NeuronFactory("imls", 4)(6), torch.randn(2, 9, 6), None)
    mask = torch.arange(9) < torch.tensor([9, 6])[:, None]
    masked = train.masked(mask)
    assert torch.equal(masked.value(), train.value() * mask[..., None])


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel: 4 is even"):
        SpikeConv1d(6, 6, 4)
