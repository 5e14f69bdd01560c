"""Costs by layer and kind of operator, and their sums."""

from collections.abc import Iterable

from espnet_spike.nn.accounting import Cost

PRODUCTS = ("linear", "conv", "depthwise_conv", "attention", "scan")
"""Kinds of operators that have products; what the literature counts."""

Costs = dict[tuple[str, str], Cost]
"""(layer, kind) -> cost."""


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of several costs."""
    result = Cost()
    for cost in costs:
        result.add(cost)
    return result
