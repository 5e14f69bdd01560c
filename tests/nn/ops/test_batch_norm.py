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
