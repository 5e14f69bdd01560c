"""Merging a convolution chain changes nothing."""

import pytest
import torch
from torch import nn

from espnet_spike.nn.layers.repconv import RepConv, fold_norm
from espnet_spike.nn.layers.spike_layers import SpikeLinear
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.norms import MaskedBatchNorm
from tests.helpers.norms import trained


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float, 1e-5), (torch.double, 1e-12)])
@pytest.mark.parametrize("mode", ["integer", "binary"])
@torch.no_grad()
def test_merged_equals_chain(mode, dtype, tolerance):
    """At the ends of utterances of unequal length too."""
    torch.manual_seed(0)
    conv = trained(RepConv(6)).to(dtype)
    neuron = NeuronFactory("imls", 4)(6).to(dtype).eval()
    mask = torch.arange(9) < torch.tensor([9, 5])[:, None]
    x = torch.randn(2, 9, 6, dtype=dtype).masked_fill(~mask[..., None], -1.0)
    expected = conv(neuron(x, mask), mask)
    alone = conv(neuron(x[1:, :5]), mask[1:, :5])
    assert torch.allclose(expected[1:, :5], alone, rtol=tolerance, atol=tolerance)
    conv.reparameterize()
    neuron.spike_mode = mode
    got = conv(neuron(x, mask), mask)
    assert torch.allclose(got[mask], expected[mask], rtol=tolerance, atol=tolerance)
    assert [n for n, _ in conv.named_parameters()] == ["merged.weight", "merged.bias"]
    conv.reparameterize()  # once more does nothing
    assert torch.equal(conv(neuron(x, mask), mask), got)


def test_training_chain_ignores_padding():
    torch.manual_seed(0)
    conv = RepConv(6)
    mask = torch.arange(9) < torch.tensor([9, 5])[:, None]
    x = torch.randn(2, 9, 6).clamp(min=0) * mask[..., None]
    longer = torch.cat([x, torch.zeros(2, 4, 6)], 1)
    a = conv(x, mask)
    b = conv(longer, nn.functional.pad(mask, (0, 4)))
    assert torch.allclose(a[mask], b[:, :9][mask], atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_fold_norm(bias):
    linear, norm = SpikeLinear(6, 4, bias=bias), trained(MaskedBatchNorm(4))
    x = torch.randn(2, 9, 6)
    assert torch.allclose(fold_norm(linear, norm)(x), norm(linear(x)), atol=1e-5)
