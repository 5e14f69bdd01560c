"""The convolutional front end."""

import pytest
import torch
from torch import nn

from espnet_spike.nn.layers.spiking_subsampling import INPUT_LAYERS, ConvSubsampling
from espnet_spike.nn.neurons.factory import NeuronFactory

FACTORS = {"conv2d": 4, "conv2d1": 1, "conv2d2": 2, "conv2d6": 6, "conv2d8": 8}


def make(input_layer="conv2d", neuron="imls", T=4, **conf):
    torch.manual_seed(0)
    neurons = NeuronFactory(neuron, T, **conf)
    return ConvSubsampling(20, 8, neurons, input_layer, channels=6).double().eval()


@pytest.mark.parametrize("input_layer", INPUT_LAYERS)
def test_lengths_are_espnets(input_layer):
    from espnet2.legacy.nets.pytorch_backend.transformer import subsampling as espnet

    ours = make(input_layer)
    theirs = getattr(espnet, input_layer.replace("conv2d", "Conv2dSubsampling"))(20, 8, 0.0)
    assert ours.factor == FACTORS[input_layer]
    short, limit = espnet.check_short_utt(theirs, ours.min_length - 1)
    assert short and limit == ours.min_length
    assert not espnet.check_short_utt(theirs, ours.min_length)[0]
    for length in range(ours.min_length, 60):
        x, ilens = torch.randn(1, length, 20), torch.tensor([length])
        _, mask = theirs(x, torch.ones(1, 1, length))
        assert ours.output_lengths(ilens).item() == mask.sum()


@pytest.mark.parametrize("input_layer", INPUT_LAYERS)
def test_the_twin_is_convolutions_with_relu(input_layer):
    module = make(input_layer, "relu")
    x = torch.randn(2, 40, 20, dtype=torch.double)
    y = x[:, None]
    for conv in module.convs:
        y = nn.functional.conv2d(y, conv.weight, conv.bias, conv.stride).relu()
    y = module.out(y.permute(0, 2, 3, 1).flatten(2))
    got, lengths = module(x, torch.tensor([40, 30]))
    assert torch.allclose(got, y)
    assert lengths.tolist() == module.output_lengths(torch.tensor([40, 30])).tolist()


@pytest.mark.parametrize("input_layer", INPUT_LAYERS)
def test_an_output_frame_sees_its_receptive_field_only(input_layer):
    module = make(input_layer)
    x = torch.randn(1, 50, 20, dtype=torch.double)
    ilens = torch.tensor([50])
    before = module(x, ilens)[0]
    x[:, 30:] = 9.0  # frames up to 29 are unchanged
    same = module.output_lengths(torch.tensor([30])).item()
    after = module(x, ilens)[0]
    assert torch.allclose(after[:, :same], before[:, :same])
    assert not torch.allclose(after[:, same:], before[:, same:])


@pytest.mark.parametrize("stat", ["token", "utt", "ema"])
def test_binary_equals_integer(stat):
    module = make(conf={"stat": stat})
    x, ilens = torch.randn(2, 40, 20, dtype=torch.double), torch.tensor([40, 31])
    with torch.no_grad():
        expected, lengths = module(x, ilens)
        for neuron in module.neurons:
            neuron.spike_mode = "binary"
        got, _ = module(x, ilens)
    for b, n in enumerate(lengths):
        assert torch.allclose(got[b, :n], expected[b, :n], rtol=1e-10)


def test_time_steps_start_from_one_analog_map():
    module = make(neuron="lif", T=3, norm=False)
    calls = []
    module.convs[0].register_forward_hook(lambda m, i, o: calls.append(len(o)))
    y, lengths = module(torch.randn(2, 40, 20, dtype=torch.double), torch.tensor([40, 31]))
    assert calls == [2] and len(y) == 6 and len(lengths) == 2


def test_default_channels_are_the_output_size():
    module = ConvSubsampling(20, 8, NeuronFactory("imls", 4))
    assert module.convs[0].out_channels == module.neurons[0].dim == 8
