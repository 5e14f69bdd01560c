"""Costs by layer and kind of operator, and their sums."""

from collections.abc import Iterable

from espnet_spike.nn.accounting import Cost

PRODUCTS = ("linear", "conv", "depthwise_conv", "attention", "scan")
"""Kinds of operators that have products; what the literature counts."""

PARTS = ("front_end", "encoder", "ctc", "decoder", "other")
FRONT_END = ("normalize", "frontend", "preencoder", "specaug", "encoder.embed")
ENCODER = ("front_end", "encoder")
"""Parts that the headline figures and the twin are about."""

Costs = dict[tuple[str, str], Cost]
"""(layer, kind) -> cost."""


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of several costs."""
    result = Cost()
    for cost in costs:
        result.add(cost)
    return result


def part_of(layer: str) -> str:
    """Return which part of the model a layer belongs to.

    >>> part_of("encoder.embed.convs.0"), part_of("encoder.encoders.3.attn"), part_of("ctc.ctc_lo")
    ('front_end', 'encoder', 'ctc')
    """
    if any(layer == name or layer.startswith(f"{name}.") for name in FRONT_END):
        return "front_end"
    first = layer.split(".")[0]
    return first if first in PARTS else "other"


def of_encoder(costs: Costs) -> Costs:
    """Return the costs of front end and encoder."""
    return {key: cost for key, cost in costs.items() if part_of(key[0]) in ENCODER}


def add_costs(sums: Costs, costs: Costs) -> None:
    """Add costs to running sums."""
    for key, cost in costs.items():
        sums.setdefault(key, Cost()).add(cost)
