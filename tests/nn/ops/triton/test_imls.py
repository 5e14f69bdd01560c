"""The IMLS kernels against the reference in float64."""

import pytest
import torch
from torch.func import functional_call

from espnet_spike.nn.checkpointing import checkpoint
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.ops import imls
from espnet_spike.nn.ops.triton import imls as kernels
from tests.helpers.interpreter import compare, grid, interpreted, kernels_on, on_each_device, randn

SHAPES = grid([(2, 2, 24)], [(2, 5, 24), (1, 1, 1), (2, 3, 5, 12), (1, 2, 3, 3000), (2, 70, 300)])
DTYPES = grid(["float32", "bfloat16"], ["float16"])


@on_each_device
@pytest.mark.parametrize("tail", [0.0, 0.25])
@pytest.mark.parametrize("rounding", imls.ROUNDINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_neuron(shape, dtype, rounding, tail, device):
    """Level, output, spikes and both gradients, over valid frames alone."""
    mask = torch.arange(shape[1]).expand(shape[:2]) < torch.tensor([[shape[1]], [1]])[: shape[0]]

    def run(x, a):
        warm = rounding == "off"
        neuron = IMLS(shape[-1], 4, rounding="even" if warm else rounding, surrogate_tail=tail)
        neuron.warm = warm
        y = functional_call(neuron.to(x.device), {"a": a}, (x, mask.to(x.device)))
        return y, neuron.firing.count_sum, neuron.firing.numel, neuron.last_unit[0]

    inputs = {"x": randn(*shape) + 0.5, "a": randn(shape[-1], seed=1) * 0.2}
    compare(run, inputs, dtype, device, singles=["a"])


@on_each_device
@pytest.mark.parametrize("rounding", imls.ROUNDINGS)
def test_ties_equal_the_reference_bit_for_bit(rounding, device):
    x = torch.arange(-8, 40)[None, None] / 4.0
    x = torch.cat([x, torch.full((1, 1, 1), float("nan")), torch.full((1, 1, 1), float("inf"))], 2)
    level, scale = torch.tensor([1.0]), torch.ones(x.shape[-1])
    results = []
    for wanted, where in ((True, device), (False, "cpu")):
        with kernels_on(wanted):
            args = [t.to(where) for t in (x, level, scale)]
            y, total = imls.forward(*args, torch.ones(1, device=where), 6, rounding)
            again = imls.output(*args, 6, rounding)
        assert torch.equal(y.nan_to_num(), again.nan_to_num())
        results.append((y.cpu(), total.cpu()))
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@interpreted
def test_statistic_of_rows():
    x = randn(3, 2, 50)
    with kernels_on(True):
        mean = imls.mean_abs(x)
    torch.testing.assert_close(mean, x.abs().mean((1, 2)))


@interpreted
def test_two_runs_are_equal_to_the_bit_whatever_the_rows_beside():
    x, grad = randn(15, 3, 20), randn(15, 3, 20, seed=1)
    level, scale = x.abs().mean((1, 2)), torch.ones(20)
    runs = [kernels.backward(x, grad, level, scale, torch.ones(15), 4, 0, 0.0) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    alone = kernels.backward(x[7:8], grad[7:8], level[7:8], scale, torch.ones(1), 4, 0, 0.0)
    assert torch.equal(alone[0], runs[0][0][7:8])


@interpreted
def test_under_autocast_and_checkpointing():
    """bf16 comes in and goes out; the second run of a layer repeats the first."""
    neuron, x = IMLS(16, 4), randn(2, 5, 16)
    weight = (randn(16, 16, seed=1) / 4).requires_grad_()
    results = []
    for run in (neuron, lambda x: checkpoint(neuron, x)):
        with kernels_on(True), torch.autocast("cpu", torch.bfloat16):
            y = run(x @ weight)
            grads = torch.autograd.grad(y.square().sum(), [weight, neuron.a])
        results.append((y, *grads))
    assert results[0][0].dtype == torch.bfloat16 and results[0][0].any()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
