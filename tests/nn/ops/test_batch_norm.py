"""Batch norm over valid frames: its gradient, and both forms of it."""

import pytest
import torch

from espnet_spike.nn.ops.batch_norm import batch_norm
from tests.helpers.kernels import FORMS, form


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("masked", [True, False])
def test_gradient_in_closed_form(masked, how):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, generator=g, dtype=torch.float64).add(0.5).requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(4) < torch.tensor([4, 2])[:, None] if masked else None

    def run(x, weight, bias):
        return batch_norm(x, mask, weight, bias, 1e-5)[0]

    with form(how):
        assert torch.autograd.gradcheck(run, (x, weight, bias))


def test_compiled_equals_torch():
    x = 3 + 2 * torch.randn(3, 50, 7, 5)
    mask = torch.arange(50) < torch.tensor([50, 20, 0])[:, None]
    results = []
    for how in FORMS:
        with form(how):
            results.append(batch_norm(x, mask, torch.ones(5), torch.zeros(5), 1e-5))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", FORMS)
def test_a_transposed_input_is_as_good_as_a_copy(how):
    stored = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    results = []
    with form(how):
        for x in (stored.mT, stored.mT.contiguous()):
            x = x.detach().requires_grad_()
            y = batch_norm(x, None, torch.ones(3), torch.zeros(3), 1e-5)[0]
            results.append((y, *torch.autograd.grad(y.pow(3).sum(), x)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", FORMS)
def test_autocast_changes_nothing(how, dtype):
    x = 3 + 200 * torch.randn(2, 400, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(400) < torch.tensor([400, 20])[:, None]

    def run():
        inputs = [t.requires_grad_() for t in (x.clone(), torch.ones(5), torch.zeros(5))]
        y, *moments = batch_norm(inputs[0], mask, *inputs[1:], 1e-5)
        y.square().mul(torch.linspace(0, 1, 5)).sum().backward()
        return y.detach(), *moments, *(t.grad for t in inputs)

    with form(how):
        expected = run()
        with torch.autocast("cpu", dtype):
            got = run()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
