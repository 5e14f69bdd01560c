"""Costs by layer and kind of operator, and their sums."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

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


BINS = 8  # lengths that differ by less than 9 % are alike; ours


class ByLength:
    """Sums over utterances of like length: what a memory moves is not in proportion to a sum.

    A short utterance fetches every weight once, a long one shares fetches between its frames.
    """

    def __init__(self) -> None:
        self.sums: dict[int, Costs] = {}

    def add(self, frames: int, costs: Costs) -> None:
        """Add an utterance's costs to those of its length."""
        add_costs(self.sums.setdefault(round(BINS * math.log2(max(frames, 1))), {}), costs)

    def groups(self) -> list[Costs]:
        """Return the sums of each length, short ones first."""
        return [self.sums[length] for length in sorted(self.sums)]


def to_table(groups: Sequence[Costs]) -> dict[str, Any]:
    """Return groups of costs as plain values: names once, then a number for each."""
    rows = sorted({key for group in groups for key in group})
    found = [[group.get(key, Cost()) for key in rows] for group in groups]
    names = [
        f.name for f in fields(Cost) if any(getattr(c, f.name) for group in found for c in group)
    ]
    return {
        "rows": [list(key) for key in rows],
        "columns": names,
        "groups": [[[_short(getattr(c, n)) for n in names] for c in group] for group in found],
    }


def from_table(table: dict[str, Any]) -> list[Costs]:
    """Return the groups of costs that ``to_table`` wrote.

    Raises:
        TypeError, ValueError: it is none of these tables.
    """
    rows = [(str(layer), str(kind)) for layer, kind in table["rows"]]
    names = table["columns"]

    def cost(values: Sequence[float]) -> Cost:
        return Cost(**dict(zip(names, map(float, values), strict=True)))

    return [dict(zip(rows, map(cost, group), strict=True)) for group in table["groups"]]


def _short(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
