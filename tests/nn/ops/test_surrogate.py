"""The surrogate gradients against their published formulas."""

import math

import pytest
import torch

from espnet_spike.nn.ops.surrogate import SURROGATES, integer_spike, spike, window

# x = v - v_th and dS/dx at the default parameter, by hand from the formulas
TABLE = {
    "sigmoid": [(0.0, 1.0), (0.5, 4 * 0.880797 * 0.119203)],
    "atan": [(0.0, 1.0), (1 / math.pi, 0.5)],
    "fast_sigmoid": [(0.0, 1.0), (0.04, 0.25), (-0.04, 0.25)],
    "triangle": [(0.0, 1.0), (0.25, 0.75), (-1.5, 0.0)],
    "rectangle": [(0.0, 1.0), (0.49, 1.0), (0.51, 0.0)],
    "multi_gauss": [(0.0, 1.15 * 0.398942 - 0.3 / 6 * 0.398942 * math.exp(-1 / 72))],
    "rational": [(0.0, 1.0), (0.2, 1 / 1.2), (-0.4, 1 / 1.8)],
}
# the gradient of a step integrates to 1; these are scaled differently by their authors
AREA = {"fast_sigmoid": 2 / 25, "multi_gauss": 0.85 * 0.5, "rational": math.pi / math.sqrt(5)}


@pytest.mark.parametrize("name", SURROGATES)
def test_values(name):
    derivative, default = SURROGATES[name]
    for x, expected in TABLE[name]:
        got = derivative(torch.tensor([x], dtype=torch.double), default)
        assert got.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", SURROGATES)
def test_area_and_symmetry(name):
    derivative, default = SURROGATES[name]
    x = torch.linspace(-400, 400, 1_600_001, dtype=torch.double)
    y = derivative(x, default)
    assert torch.allclose(y, y.flip(0))
    assert torch.trapezoid(y, x).item() == pytest.approx(AREA.get(name, 1.0), abs=2e-3)


@pytest.mark.parametrize("name", SURROGATES)
def test_spike_is_a_step_with_that_gradient(name):
    x = torch.tensor([-0.3, -0.0, 0.0, 0.2], requires_grad=True)
    s = spike(x, name)
    assert s.tolist() == [0, 1, 1, 1]
    s.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    derivative, default = SURROGATES[name]
    expected = derivative(x.detach(), default) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.allclose(x.grad, expected)


def test_parameter_is_used():
    x = torch.tensor([0.3], requires_grad=True)
    spike(x, "triangle", 0.25).backward()
    assert x.grad.item() == 0.0


def test_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'atan'"):
        spike(torch.zeros(1), "arctan")


def test_integer_spike_window_is_inclusive():
    x = torch.tensor([-0.1, 0.0, 0.5, 1.5, 4.0, 4.1], requires_grad=True)
    y = integer_spike(x, 4)
    assert y.tolist() == [0, 0, 0, 2, 4, 4]  # torch.round: half to even
    assert integer_spike(x, 4, "half_up").tolist() == [0, 0, 1, 2, 4, 4]
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_tails_of_the_window():
    x = torch.tensor([-2.0, 0.0, 3.0, 6.0, 7.0], requires_grad=True)
    assert window(x.detach(), 6).tolist() == [0, 1, 1, 1, 0]
    expected = [0.5 / 5, 1, 1, 1, 0.5 / 2]
    assert window(x.detach(), 6, 0.5).tolist() == pytest.approx(expected)
    integer_spike(x, 6, tail=0.5).sum().backward()
    assert x.grad.tolist() == pytest.approx(expected)
