"""Depthwise convolution against torch's own: values and gradients, wherever it is used."""

import pytest
import torch
from torch.nn import functional as F

from espnet_spike.nn.ops import depthwise_conv as module
from espnet_spike.nn.ops.depthwise_conv import depthwise_conv

SHAPES = [(2, 9, 6, 5, 2), (1, 4, 3, 4, 0), (3, 1, 2, 3, 1), (2, 7, 5, 1, 0), (1, 5, 4, 5, 4)]


def inputs(B, L, C, K, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = ((B, L, C), (C, 1, K), (C,))
    return [torch.randn(*size, dtype=dtype, requires_grad=True) for size in sizes]


def torchs_own(x, weight, bias, padding):
    return F.conv1d(x.mT, weight, bias, padding=padding, groups=len(weight)).mT


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("B", "L", "C", "K", "padding"), SHAPES)
def test_values_and_gradients_are_those_of_torch(B, L, C, K, padding, with_bias):
    x, weight, bias = inputs(B, L, C, K)
    bias = bias if with_bias else None
    wanted = torchs_own(x, weight, bias, padding)
    y = depthwise_conv(x, weight, bias, padding)
    assert y.shape == wanted.shape
    torch.testing.assert_close(y, wanted)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv(x, weight, bias, padding), wanted)
    given = [tensor for tensor in (x, weight, bias) if tensor is not None]
    grad = torch.randn_like(y)
    for own, theirs in zip(
        torch.autograd.grad(y, given, grad), torch.autograd.grad(wanted, given, grad), strict=True
    ):
        torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("who", [0, 1])
def test_only_what_is_asked_for_has_a_gradient(who):
    given = inputs(2, 6, 4, 3)[:2]
    given[1 - who] = given[1 - who].detach()
    assert torch.autograd.gradcheck(lambda x, w: depthwise_conv(x, w, None, 1), given)


def test_the_fast_gradient_is_the_one_taken(monkeypatch):
    x, weight, bias = inputs(2, 6, 4, 3, torch.float32)
    taken = []
    apply = module._DepthwiseConv.apply
    monkeypatch.setattr(module._DepthwiseConv, "apply", lambda *a: taken.append(1) or apply(*a))
    depthwise_conv(x, weight, bias, 1)
    assert len(taken) == 1
    with torch.no_grad():
        depthwise_conv(x, weight, bias, 1)
    assert len(taken) == 1


def test_mixed_precision_has_the_gradient_of_torch():
    x, weight, bias = inputs(2, 9, 6, 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight, bias, 2)
    assert y.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), torchs_own(x, weight, bias, 2), atol=0.05, rtol=0.05)


def test_a_trace_holds_the_one_dimensional_form():
    x, weight, bias = (tensor.detach() for tensor in inputs(1, 6, 4, 3))
    graph = torch.jit.trace(lambda x: depthwise_conv(x, weight, bias, 1), x)
    longer = torch.randn(1, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(graph(longer), torchs_own(longer, weight, bias, 1))
