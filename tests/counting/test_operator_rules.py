"""Prices of operations, each by hand: multiplications, additions, special functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from espnet_spike.counting.counter import Counter
from espnet_spike.counting.operator_rules import plan

X = torch.tensor([[1.0, -2.0, 0.0, 4.0], [3.0, 0.0, -1.0, 2.0]])  # 8 values in 2 frames


class Run(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def priced(function, x=X):
    """Return the counter that has watched a function of an activation."""
    model = Run(function)
    with torch.inference_mode(), Counter(model) as counter:
        model(x)
    return counter


PRICES = [
    ("elementwise", lambda x: x + x, 0, 8, 0),
    ("elementwise", lambda x: x.sub(x, alpha=1), 0, 8, 0),
    ("elementwise", lambda x: torch.add(x, x, alpha=2), 8, 8, 0),
    ("elementwise", lambda x: x * 2.0, 8, 0, 0),
    ("elementwise", lambda x: x / 2.0, 8, 0, 0),
    ("elementwise", lambda x: x / (x + 9), 0, 8, 8),  # the sum, then the division
    ("gate", lambda x: x * x.clone(), 6, 0, 0),  # where neither is zero
    ("elementwise", torch.exp, 0, 0, 8),
    ("elementwise", torch.sigmoid, 0, 0, 8),
    ("elementwise", F.silu, 8, 0, 8),
    ("elementwise", lambda x: F.glu(x, -1), 4, 0, 4),
    ("elementwise", lambda x: x.clamp(max=1), 0, 8, 0),
    ("elementwise", lambda x: x.sum(-1), 0, 6, 0),
    ("elementwise", lambda x: x.mean(-1), 2, 6, 0),
    ("elementwise", lambda x: F.max_pool1d(x, 2), 0, 2 * 2 * 2, 0),
    ("softmax", lambda x: x.softmax(-1), 8, 24, 8 + 2),
    ("norm", lambda x: F.layer_norm(x, (4,)), 24, 32, 2),
    ("activation", torch.relu, 0, 8, 0),
]


@pytest.mark.parametrize(("kind", "function", "multiplies", "additions", "special"), PRICES)
def test_prices(kind, function, multiplies, additions, special):
    counter = priced(function)
    cost = counter.costs["", kind]
    assert (cost.multiplies, cost.additions, cost.special) == (multiplies, additions, special)
    assert not counter.uncovered


def test_what_moves_or_selects_is_free():
    def move(x):
        x = x.view(4, 2).t().flip(0)
        return torch.cat([x, x], -1).masked_fill(torch.arange(8) > 3, 0.0) * -1

    counter = priced(lambda x: move(x)[:, :3].neg().abs())
    sums = [cost for (_, kind), cost in counter.costs.items()]
    assert sum(cost.additions + cost.special for cost in sums) == 0


def test_a_rectifier_tells_how_sparse_it_is():
    cost = priced(torch.relu).costs["", "activation"]
    assert (cost.inputs, cost.nonzeros) == (8, 4)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("view", "view"),
        ("zeros_like", "create"),
        ("masked_fill", "move"),
        ("mm", "count"),
        ("exp", "count"),
        ("eq", "count"),
    ],
)
def test_every_operation_has_an_action(name, action):
    packet = getattr(torch.ops.aten, name)
    for overload in packet.overloads():
        if overload in ("default", "Tensor", "Scalar"):
            base, found, _, in_place = plan(getattr(packet, overload))
            assert (base, found, in_place) == (name, action, False)
    assert plan(torch.ops.aten.exp_.default)[0::3] == ("exp", True)


def test_an_operation_without_a_rule_is_named():
    assert list(priced(lambda x: torch.special.bessel_j0(x)).uncovered)
