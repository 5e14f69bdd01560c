"""Energy of counted operations under published cost models.

A cost model is a YAML file of ``conf/energy``: prices of operations and of memory in pJ, with its
source, technology and warnings, all of which go into every result. Two columns:

* ``compute``: products only, E = macs * E_MAC + acs * E_AC. What papers on spiking networks print.
* ``total``: besides, what products leave out (neurons, norms, softmax, gates, biases) and memory
  (``counting.memory``).

What is a product, and at which price, has several answers, each of which somebody has published. So
they are ``rules`` of the cost model, see `Rules`.

The dense twin is the network of the same size without spikes, every product a MAC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike import ranges
from espnet_spike.counting.costs import PRODUCTS, Costs
from espnet_spike.counting.memory import (
    DATAFLOWS,
    by_levels,
    by_operands,
    by_operations,
    traffic,
)
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost
from espnet_spike.ranges import MEMORY
from espnet_spike.results.bootstrap import MIN_UTTERANCES, Z95, Interval, draw_sums, sampling_unit
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_named

DEFAULT = "horowitz45_fp32"
PICO = 1e-12


@dataclass(frozen=True)
class Rules:
    """What is counted as what. The defaults are those of a file without ``rules``.

    Attributes:
        event: a spike count of m costs m ``additions``, or one ``mac``.
        event_coding: spikes in memory: a count for every value (``dense``), or a ``list`` of
            events, each with its channel.
        address_add: pJ of the addition that finds the weights of an event, one for each event
            that a product reads; 0 for none.
        channel_scale: count the unit per channel of V, behind A V.
        threshold_factors: multiplications by the inverse of a threshold that has a factor per frame
            and one per channel, 1 or 2.
        statistic_read: count the reads of the statistic that a threshold follows.
        scan: ``recurrence``: Delta A, exp(Delta A) h and Delta B are products, and Delta B is made
            for spikes as well; ``macs``: multiplications element by element, Delta B of spikes is
            none.
        neuron: an update by its ``operations``, or as one ``mac``, among the products (NEAT).
        partial_sums: sums over the slots of binary spikes are ``stored`` after each slot, or
            ``kept`` in accumulators.
        compute: what the column has: ``products``, or all ``arithmetic``.
    """

    event: str = "additions"
    event_coding: str = "dense"
    address_add: float = 0.0
    channel_scale: bool = False
    threshold_factors: int = 1
    statistic_read: bool = False
    scan: str = "macs"
    neuron: str = "operations"
    partial_sums: str = "stored"
    compute: str = "products"


@dataclass(frozen=True)
class CostModel:
    """Prices of operations; see the files of ``conf/energy``.

    Attributes:
        name: of the file.
        title, source, technology, precision: what it is.
        operations: pJ of ``mac``, ``ac``, ``multiply``, ``add`` and ``special``.
        memory: ``access`` and its keys, see ``counting.memory``.
        warnings: what a reader has to know.
        accumulator: ``bits`` and pJ of an ``add`` where sums of products are wider than their
            operands; None: ``mac`` and ``ac`` as they stand.
        rules: what is counted as what.
    """

    name: str
    title: str
    source: str
    technology: str
    precision: str
    operations: Mapping[str, float]
    memory: Mapping[str, Any]
    warnings: Sequence[str]
    accumulator: Mapping[str, float] | None = None
    rules: Rules = field(default_factory=Rules)

    @property
    def prices(self) -> dict[str, float]:
        """pJ of each operation; a product is added in the width of the accumulator."""
        found = dict(self.operations)
        if self.accumulator is not None:
            found["ac"] = self.accumulator["add"]
            found["mac"] = found["multiply"] + found["ac"]
        return found

    @property
    def dataflows(self) -> tuple[str, ...]:
        """The dataflows that the memory can be priced under."""
        return DATAFLOWS if self.memory["access"] == "levels" else ()

    def with_rules(self, **changed: Any) -> "CostModel":
        """Return the model under other rules."""
        return replace(self, rules=replace(self.rules, **changed))

    def with_memory(self, **changed: Any) -> "CostModel":
        """Return the model with other keys of its memory."""
        return replace(self, memory={**self.memory, **changed})

    def products(self, kind: str, cost: Cost, dense: bool = False) -> float:
        """Return the energy of the products of a kind of operator, pJ.

        Args:
            kind: of the operator.
            cost: of it.
            dense: with nothing skipped.
        """
        prices, rules = self.prices, self.rules
        if kind == "neuron" and rules.neuron == "mac":
            return cost.updates * prices["mac"]
        if kind not in PRODUCTS:
            return 0.0
        if dense:
            energy = cost.dense_macs * prices["mac"]
        elif rules.event == "mac":
            energy = (cost.macs + cost.event_macs) * prices["mac"]
        else:
            energy = cost.macs * prices["mac"] + cost.acs * prices["ac"]
        if kind == "scan" and rules.scan == "recurrence":
            energy += (cost.multiplies + cost.state_multiplies) * prices["multiply"]
        return energy

    def elements(self, kind: str, cost: Cost) -> float:
        """Return the energy of what is done element by element, pJ; arguments as of `products`."""
        prices, rules = self.prices, self.rules
        if kind == "neuron" and rules.neuron == "mac":
            return 0.0
        multiplies = rules.channel_scale * cost.channel_multiplies
        multiplies += (rules.threshold_factors - 1) * cost.unit_multiplies
        if kind != "scan" or rules.scan != "recurrence":
            multiplies += cost.multiplies
        wide = self.accumulator is not None and kind in PRODUCTS
        additions = cost.additions - (rules.partial_sums == "kept") * cost.partial_additions
        return (
            multiplies * prices["multiply"]
            + additions * prices["ac" if wide else "add"]
            + cost.special * prices["special"]
            + cost.events_read * rules.address_add
        )

    def traffic(
        self, kind: str, cost: Cost, dense: bool = False, dataflow: str | None = None
    ) -> float:
        """Return the energy of memory, pJ.

        Args:
            kind: of the operator.
            cost: of it.
            dense: with nothing skipped.
            dataflow: where the memory has levels; None for that of the model.
        """
        rules, memory = self.rules, self.memory
        kept, merged = rules.partial_sums == "kept", rules.event == "mac"
        listed = rules.event_coding == "list"
        moved = traffic(cost, dense, kept, listed, rules.statistic_read, merged)
        if memory["access"] == "operands":
            return by_operands(memory, moved)
        if memory["access"] == "operations":
            return by_operations(memory, cost, moved, dense)
        bits = 8 * memory["bytes_per_value"]
        bits = bits if self.accumulator is None else self.accumulator["bits"]
        return by_levels(memory, kind, cost, moved, dataflow or memory["dataflow"], bits)


def energy(model: CostModel, costs: Costs, dense: bool = False) -> dict[str, float]:
    """Return the energy of counted operations, J.

    Args:
        model: the prices.
        costs: of a ``Counter``.
        dense: with nothing skipped, as in the dense twin.

    Returns:
        ``compute`` and ``total``; where the memory has levels, also ``total`` under each dataflow,
        by its name.
    """
    products = sum(model.products(kind, cost, dense) for (_, kind), cost in costs.items())
    elements = sum(model.elements(kind, cost) for (_, kind), cost in costs.items())

    def with_memory(dataflow: str | None = None) -> float:
        moved = (model.traffic(kind, cost, dense, dataflow) for (_, kind), cost in costs.items())
        return PICO * (products + elements + sum(moved))

    arithmetic = model.rules.compute == "arithmetic"
    return {
        "compute": PICO * (products + (elements if arithmetic else 0.0)),
        "total": with_memory(),
        **{dataflow: with_memory(dataflow) for dataflow in model.dataflows},
    }


def quantised(model: CostModel) -> CostModel:
    """Return the prices of a network whose activations are small integers, not spikes.

    Each value that is not zero is multiplied once with each of its weights, whatever its level.
    """
    return model.with_rules(event="mac")


def real_share(model: CostModel, costs: Costs) -> float | None:
    """Return which share of the compute energy is multiply-accumulates of real values."""
    real = sum(cost.macs for (_, kind), cost in costs.items() if kind in PRODUCTS)
    everything = energy(model, costs)["compute"]
    return PICO * real * model.prices["mac"] / everything if everything else None


def read_cost_model(name: str, folder: Path | None = None) -> CostModel:
    """Read a cost model by the name of its file, or by a path.

    Args:
        name: ``horowitz45_fp32``, say, or the path of a YAML file.
        folder: where names are looked up; the package's ``conf/energy`` if None.

    Raises:
        UserError: there is none, it is incomplete, or a value of it is none that can be.
    """
    optional = {"accumulator", "rules"}
    keys = set(CostModel.__dataclass_fields__) - {"name"} - optional
    path, content = read_named(name, folder or shipped("energy"), keys, "cost model", optional)
    ranges.check(ranges.COST_MODEL, content, str(path))
    access = content["memory"].get("access")
    if access not in MEMORY:
        raise UserError(f"{path}: memory: access is {access!r}", f"one of {', '.join(MEMORY)}")
    tables = {"operations": ranges.OPERATIONS, "memory": MEMORY[access]}
    tables |= {"accumulator": ranges.ACCUMULATOR} if "accumulator" in content else {}
    for part, table in tables.items():
        ranges.check(table, content[part], f"{path}: {part}")
        if missing := sorted(table.keys() - content[part].keys()):
            raise UserError(f"{path}: {part}: missing keys: {', '.join(missing)}")
    rules = content.pop("rules", {})
    ranges.check(ranges.RULES, rules, f"{path}: rules")
    return CostModel(path.stem, **content, rules=Rules(**rules))


def describe_model(model: CostModel) -> dict[str, Any]:
    """Return all that a result has to say about its cost model, in plain values."""
    return asdict(model) | {"prices": model.prices}


def ratio_interval(
    ours: Sequence[float], twin: Sequence[float], speakers: Sequence[str], seed: int = 0
) -> tuple[float, Interval]:
    """Return how many times less energy we need than the twin, with a 95 % interval.

    The ratio is of sums over utterances; utterances, or speakers where there are enough, are
    drawn with replacement, both networks on the same draws.

    Args:
        ours, twin: energy of each utterance, the same order.
        speakers: the speaker of each utterance.
        seed: of the draws.
    """
    unit, index = sampling_unit(speakers)
    columns = [np.asarray(twin, dtype=float), np.asarray(ours, dtype=float)]
    table = np.stack([np.bincount(index, weights=column) for column in columns], axis=1)
    sums = draw_sums(table, seed=seed)
    ratios = sums[:, 0] / sums[:, 1]
    half = Z95 * float(ratios.std())
    interval = Interval(
        low=float(ratios.mean()) - half,
        high=float(ratios.mean()) + half,
        unit=unit,
        units=int(index.max()) + 1,
        meaningful=len(speakers) >= MIN_UTTERANCES,
    )
    return float(columns[0].sum() / columns[1].sum()), interval
