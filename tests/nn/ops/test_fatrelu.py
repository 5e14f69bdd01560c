"""FATReLU as a function: values and gradients, in both forms."""

import pytest
import torch

from espnet_spike.nn.ops.fatrelu import fatrelu, frame_fatrelu
from espnet_spike.nn.ops.surrogate import spike
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


# by hand, S'(u) = 1 / (1 + 5 u^2) at u = x - 0.5 and -x - 0.5: the gradients by T and by x
RATIONAL = {
    False: [(-1.0, 0.0, 0.0), (0.3, -0.3 / 1.2, 0.3 / 1.2), (0.5, -0.5, 1.5), (0.9, -0.5, 1.5)],
    True: [
        (0.0, 0.0, 0.0),
        (0.3, -0.3 * (1 / 1.2 + 1 / 4.2), 0.3 * (1 / 1.2 - 1 / 4.2)),
        (-0.3, 0.3 * (1 / 1.2 + 1 / 4.2), 0.3 * (1 / 1.2 - 1 / 4.2)),
        (-0.9, 0.9 * (1 / 1.8 + 1 / 10.8), 1 + 0.9 * (1 / 1.8 - 1 / 10.8)),
    ],
}


@pytest.mark.parametrize("two_sided", RATIONAL)
def test_rational_surrogate_flows_to_threshold_and_input(two_sided):
    T = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for value, by_T, by_x in RATIONAL[two_sided]:
        x = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        y = fatrelu(x, T, two_sided=two_sided, surrogate="rational")
        assert y.item() == (value if (abs(value) if two_sided else value) >= 0.5 else 0)
        dx, dT = torch.autograd.grad(y, (x, T))
        torch.testing.assert_close((dT.item(), dx.item()), (by_T, by_x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("unit", [1.0, 0.5])
@pytest.mark.parametrize("two_sided", [False, True])
def test_rational_surrogate_is_that_of_steps_times_the_input(two_sided, unit):
    """The sum of magnitudes of a frame has the same surrogate."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 50, dtype=torch.float64, requires_grad=True)
    T = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    weight, weight_total = torch.randn(2, 3, 50), torch.randn(2, 3)
    scale = torch.tensor(unit, dtype=torch.float64)
    y, _, total = frame_fatrelu(x, T, 7.0, two_sided, "rational", scale)

    def gate(u):
        return spike(u / unit, "rational", 7.0)

    r = x if two_sided else x.relu()
    gates = gate(r - T) + (gate(-r - T) if two_sided else 0)
    outputs = [(y, total), (r * gates, (r.abs() * gates).sum(-1))]
    grads = [
        torch.autograd.grad((a * weight).sum() + (b * weight_total).sum(), (x, T))
        for a, b in outputs
    ]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads)


def test_a_fixed_threshold_has_the_true_derivative():
    x = torch.tensor([-1.0, 0.3, 0.9], requires_grad=True)
    fatrelu(x, torch.tensor(0.0), surrogate="rational").sum().backward()
    assert x.grad.tolist() == [0, 1, 1]


def test_ties_pass():
    """What is as large as the threshold is kept, on either side of a two-sided one."""
    x = torch.tensor([[-0.5, 0.25, 0.5, 0.75]])
    y = fatrelu(x, torch.tensor(0.5))
    assert y.tolist() == [[0, 0, 0.5, 0.75]]
    y = fatrelu(x, torch.tensor(0.5), two_sided=True)
    assert y.tolist() == [[-0.5, 0, 0.5, 0.75]]
