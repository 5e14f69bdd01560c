"""The compiled passes give what the plain torch ones give."""

import pytest
import torch

from espnet_spike.nn.ops import imls
from espnet_spike.nn.ops.imls import ROUNDINGS
from tests.helpers.kernels import FORMS, form


def arguments(shape, dtype):
    make = torch.Generator().manual_seed(0)
    rows, _, channels = shape
    x = torch.randn(shape, generator=make, dtype=torch.double).to(dtype)
    # exact ties and exact zeros are where roundings part
    x[0, 0, :4] = torch.tensor([0.0, 0.5, 1.5, 2.5])
    level = torch.rand(rows, generator=make).to(dtype) + 0.1
    level[0] = 1.0
    scale = torch.rand(channels, generator=make).to(dtype) + 0.1
    scale[:4] = 1.0
    weight = (torch.arange(rows) % 3 > 0).to(dtype)
    return x, level, scale, weight


def plain(function, *args):
    """Run a function without the compiled passes."""
    with form("torch"):
        return function(*args)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("shape", [(1, 1, 4), (50, 1, 64), (31, 19, 8)])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_compiled_equals_plain(shape, rounding, dtype):
    x, level, scale, weight = arguments(shape, dtype)
    assert imls._kernels(x) is not None
    args = (x, level, scale, weight, 6, rounding)
    y, count = imls.forward(*args)
    plain_y, plain_count = plain(imls.forward, *args)
    assert torch.equal(y, plain_y)
    assert torch.equal(y, imls.output(x, level, scale, 6, rounding))
    assert torch.equal(y, plain(imls.output, x, level, scale, 6, rounding))
    if rounding == "off":
        assert torch.allclose(count, plain_count)
    else:
        assert count == plain_count
    grad = torch.randn_like(x)
    grad_x, e = imls.backward(x, grad, level, scale, weight, 6, rounding)
    plain_x, plain_e = plain(imls.backward, x, grad, level, scale, weight, 6, rounding)
    assert torch.equal(grad_x, plain_x)
    tolerance = 1e-4 if dtype == torch.float else 1e-12
    assert torch.allclose(e, plain_e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_tails_of_the_surrogate(dtype):
    x, level, scale, weight = arguments((31, 19, 8), dtype)
    grad = torch.randn_like(x)
    args = (x, grad, level, scale, weight, 6, "half_up")
    inside, e = imls.backward(*args)
    grad_x, same_e = imls.backward(*args, 0.25)
    plain_x, _ = plain(imls.backward, *args, 0.25)
    assert torch.allclose(grad_x, plain_x, rtol=1e-5)
    assert torch.equal(e, same_e)  # the threshold's gradient has none
    ratio = x / (level[:, None, None] * scale)
    within = (ratio >= 0) & (ratio <= 6)
    assert torch.equal(grad_x[within], inside[within])
    assert not inside[~within].any() and 0.1 < within.float().mean() < 0.9
    distance = torch.where(ratio < 0, -ratio, ratio - 6)
    expected = 0.25 * grad / (1 + distance**2)
    assert torch.allclose(grad_x[~within], expected[~within], rtol=1e-5)


def test_mean_abs():
    x = arguments((50, 3, 64), torch.float)[0]
    exact = x.double().abs().mean((1, 2))
    assert torch.allclose(imls.mean_abs(x).double(), exact, rtol=1e-7)
    assert torch.allclose(plain(imls.mean_abs, x).double(), exact, rtol=1e-5)


def test_counts_stay_exact_beyond_fp32_integers():
    x = torch.full((3000, 1, 1000), 6.0)
    ones = torch.ones(3000)
    _, count = imls.forward(x, ones, torch.ones(1000), ones, 6, "half_up")
    assert count == 18_000_000  # above 2**24


def test_tracing_takes_plain_operations():
    x = torch.randn(4, 1, 8)
    level, scale = torch.ones(4), torch.ones(8)

    def run(x):
        return imls.output(x, level, scale, 6, "half_up")

    traced = torch.jit.trace(run, x)
    other = torch.randn(4, 1, 8)
    assert torch.equal(traced(other), run(other))


RATIOS = [-0.25, 0.0, 0.5, 1.0, 2.5, 3.0, 3.25]  # in units of V, ties and both ends among them


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("rounding", "counts"),
    [("half_up", [0, 0, 1, 1, 3, 3, 3]), ("even", [0, 0, 0, 1, 2, 3, 3])],
)
def test_counts_and_gradients_by_hand(name, rounding, counts):
    """T = 3, V = 2 * 0.25; the window is closed at 0 and at T, the second row is padding."""
    x = 0.5 * torch.tensor([[RATIOS], [RATIOS]])
    level, scale = torch.tensor([2.0, 2.0]), torch.full((7,), 0.25)
    weight, grad = torch.tensor([1.0, 0.0]), torch.full((2, 1, 7), 4.0)
    with form(name):
        y, total = imls.forward(x, level, scale, weight, 3, rounding)
        again, nonzeros = imls.recount(y, level, scale)
        grad_x, e = imls.backward(x, grad, level, scale, weight, 3, rounding)
        tailed, same = imls.backward(x, grad, level, scale, weight, 3, rounding, 0.5)
        assert torch.equal(imls.output(x, level, scale, 3, rounding), y)
        assert imls.mean_abs(x).tolist() == [0.75, 0.75]
    assert y[0, 0].tolist() == [0.5 * count for count in counts]
    assert total == sum(counts)
    assert again[0, 0].tolist() == counts and nonzeros == 2 * sum(c > 0 for c in counts)
    assert grad_x[0, 0].tolist() == [0, 4, 4, 4, 4, 4, 0]
    # 4 * (Y - X inside of the window)
    inside = [0, 0.0, 0.5, 1.0, 2.5, 3.0, 0]
    assert e.tolist() == [2 * (count - r) for count, r in zip(counts, inside, strict=True)]
    # outside, by the distance d from the nearest end: 4 * 0.5 / (1 + d^2)
    assert tailed[0, 0, 1:6].tolist() == [4.0] * 5
    assert tailed[0, 0, ::6].tolist() == pytest.approx([2 / 1.0625] * 2)
    assert torch.equal(same, e)
