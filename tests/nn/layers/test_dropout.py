"""Dropout: its rate, its scale, its gradient, and where it gives way to torch's."""

import pytest
import torch
from torch import nn

from espnet_spike.nn.layers.dropout import LEVELS, Dropout


@pytest.mark.parametrize("p", [0.1, 0.15, 0.5, 0.9])
def test_a_share_of_p_is_zero_and_the_mean_is_kept(p):
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(1000, 1001))
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert abs((y == 0).double().mean().item() - p) < 4 * deviation + 1 / LEVELS
    (kept,) = y[y != 0].unique().tolist()
    assert kept == pytest.approx(1 / (1 - p), rel=1e-4)
    assert y.double().mean().item() == pytest.approx(1, abs=4 * deviation / (1 - p))


def test_values_are_dropped_independently():
    """Four values share a random number: neighbours are no more alike than others."""
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).double() - 0.5
    for apart in range(1, 9):
        likeness = (kept[:-apart] * kept[apart:]).mean().item() / 0.25
        assert abs(likeness) < 4 / len(kept) ** 0.5


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(2)
    x = torch.randn(7, 5, requires_grad=True)
    y = Dropout(0.3)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad * x, y)


def test_the_seed_decides():
    x, layer = torch.ones(3, 5, 7), Dropout(0.4)
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(layer(x))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_stays(dtype):
    y = Dropout(0.5)(torch.ones(100, dtype=dtype))
    assert y.dtype == dtype and set(y.tolist()) == {0.0, 2.0}


def test_evaluation_and_the_extremes():
    x = torch.randn(4, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(4, 3))
    assert torch.equal(Dropout(1e-7)(x), nn.Dropout(0.0)(x) / (1 - 1e-7))
    assert Dropout(0.5)(x[:0]).shape == (0, 3)
