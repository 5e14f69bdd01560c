"""FATReLU as a function: values and gradients, in both forms."""

import pytest
import torch

from espnet_spike.nn.ops.fatrelu import fatrelu
from tests.helpers.kernels import FORMS, form


@pytest.fixture(params=FORMS, autouse=True)
def _in_both_forms(request):
    with form(request.param):
        yield


def test_values_and_gradients():
    # by hand: dy/dT = -x k s (1 - s), s = sigmoid(k (x - T)), where x > 0
    x = torch.tensor([-1.0, 0.3, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    T = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = fatrelu(x, T, k=10.0)
    assert y.tolist() == [0.0, 0.0, 0.5, 0.9]
    slopes = []
    for value in y:
        dx, dT = torch.autograd.grad(value, (x, T), retain_graph=True)
        slopes.append(float(dT))
        assert torch.equal(dx, (torch.arange(4) == len(slopes) - 1) * (x >= T).double())
    torch.testing.assert_close(slopes, [0.0, -0.31498, -1.25, -0.15896], rtol=0, atol=5e-6)


def test_two_sided():
    x = torch.tensor([-0.9, -0.5, -0.3, 0.0, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    T = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = fatrelu(x, T, two_sided=True)
    assert y.tolist() == [-0.9, -0.5, 0.0, 0.0, 0.0, 0.9]
    # odd: the gradient by T of the sum of -x mirrors that of x
    (up,) = torch.autograd.grad(y[5], T, retain_graph=True)
    (down,) = torch.autograd.grad(y[0], T)
    assert up == -down < 0
