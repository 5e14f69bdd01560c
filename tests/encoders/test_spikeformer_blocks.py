"""The blocks: branches see valid frames only."""

import pytest
import torch

from espnet_spike.encoders.spikeformer_blocks import (
    SpikeformerBlock,
    SpikingConvModule,
    SpikingFeedForward,
)
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.spiking_attention import SpikingAttention
from espnet_spike.nn.neurons.factory import NeuronFactory

MASK = torch.arange(9) < torch.tensor([9, 5])[:, None]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("neuron", ["imls", "relu"])
def test_conv_module_does_not_read_padding(neuron, training):
    torch.manual_seed(0)
    module = SpikingConvModule(6, 5, NeuronFactory(neuron, 4)).double().train(training)
    x = torch.randn(2, 9, 6, dtype=torch.double)
    expected = module(x, MASK)
    junk = module(x.masked_fill(~MASK[..., None], 1e3), MASK)
    assert torch.equal(junk[MASK], expected[MASK])
    if not training:
        alone = module(x[1:, :5], MASK[1:, :5])
        assert torch.allclose(alone[0], expected[1, :5])


def test_conv_module_binary_equals_integer():
    torch.manual_seed(0)
    module = SpikingConvModule(6, 5, NeuronFactory("imls", 4)).double().eval()
    x = torch.randn(2, 9, 6, dtype=torch.double)
    expected = module(x, MASK)
    for neuron in (module.neuron_in, module.neuron_depthwise, module.neuron_out):
        neuron.spike_mode = "binary"
    assert torch.allclose(module(x, MASK)[MASK], expected[MASK], rtol=1e-9, atol=1e-12)


def test_the_twin_of_the_channel_mixing_is_two_layers_with_relu():
    module = SpikingFeedForward(6, 12, NeuronFactory("relu", 1))
    x = torch.randn(2, 9, 6)
    expected = module.linear_out(module.linear_in(x.relu()).relu())
    assert torch.equal(module(x, MASK), expected)


def test_membrane_shortcut():
    """With silent branches (output weights 0) the membrane potential passes unchanged."""
    neurons = NeuronFactory("imls", 4)
    attn = SpikingAttention(6, 2, neurons, DecayMask(1, 1, 2))
    block = SpikeformerBlock(6, 12, attn, neurons, "ln", 0.1, conv_kernel=3)
    for layer in (block.attn.linear_out, block.ffn.linear_out, block.conv.pointwise_out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 9, 6)
    assert torch.equal(block(x, MASK, torch.tensor([9, 5])), x)
