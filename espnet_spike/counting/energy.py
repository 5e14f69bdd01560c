"""Energy of counted operations under published cost models.

A cost model is a YAML file of ``conf/energy``: prices of operations and of memory in pJ, with its
source, technology and warnings, all of which go into every result. Two columns:

* ``compute``: products only, E = macs * E_MAC + acs * E_AC. What papers on spiking networks print.
* ``total``: besides, what products leave out (neurons, norms, softmax, gates, biases) and memory.

Memory by ``operands``: every operator reads each operand once and writes its result once, spikes
packed into ceil(log2(levels + 1)) bits; an upper bound on what a memory hierarchy can reuse.
Memory by ``operations`` (Lemaire et al. 2022): a multiply-accumulate reads its weight; so does an
accumulate, which also reads and writes the potential; inputs are read and results written once,
spikes one access each; prices follow the size of the memory.

The dense twin is the network of the same size without spikes, every product a MAC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike import ranges
from espnet_spike.counting.costs import PRODUCTS, Costs, total
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost
from espnet_spike.ranges import MEMORY
from espnet_spike.results.bootstrap import MIN_UTTERANCES, Z95, Interval, draw_sums, sampling_unit
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_named

DEFAULT = "horowitz45_fp32"
PICO = 1e-12


@dataclass(frozen=True)
class CostModel:
    """Prices of operations; see the files of ``conf/energy``.

    Attributes:
        name: of the file.
        title, source, technology, precision: what it is.
        operations: pJ of ``mac``, ``ac``, ``multiply``, ``add`` and ``special``.
        memory: ``access`` (``operands`` or ``operations``), ``bytes_per_value`` and
            ``pj_per_byte`` or ``sram``.
        warnings: what a reader has to know.
    """

    name: str
    title: str
    source: str
    technology: str
    precision: str
    operations: Mapping[str, float]
    memory: Mapping[str, Any]
    warnings: Sequence[str]

    def compute(self, cost: Cost, dense: bool = False) -> float:
        """Return the energy of the products of a cost, pJ; ``dense``: with nothing skipped."""
        if dense:
            return cost.dense_macs * self.operations["mac"]
        return cost.macs * self.operations["mac"] + cost.acs * self.operations["ac"]

    def elements(self, cost: Cost) -> float:
        """Return the energy of what is done element by element, pJ."""
        return (
            cost.multiplies * self.operations["multiply"]
            + cost.additions * self.operations["add"]
            + cost.special * self.operations["special"]
        )

    def traffic(self, cost: Cost, dense: bool = False) -> float:
        """Return the energy of memory, pJ."""
        width = self.memory["bytes_per_value"]
        if self.memory["access"] == "operands":
            values = cost.values_read + cost.values_written
            bits = cost.spike_bits_read + cost.spike_bits_written
            return (values * width + bits / 8) * self.memory["pj_per_byte"]
        weight, inputs, outputs = (
            self._access(size * width)
            for size in (cost.weight_size, cost.input_size, cost.output_size)
        )
        macs = cost.dense_macs if dense else cost.macs
        activations = cost.nonzeros if cost.slots and not dense else cost.inputs
        energy = (macs + cost.acs) * weight + activations * inputs
        return energy + cost.acs * 2 * outputs + cost.values_written * outputs

    def _access(self, size: float) -> float:
        """Return pJ of an access to a memory of ``size`` bytes."""
        sizes, prices = zip(*self.memory["sram"], strict=True)
        return float(np.interp(size, sizes, prices))


def energy(model: CostModel, costs: Costs, dense: bool = False) -> dict[str, float]:
    """Return the energy of counted operations, J.

    Args:
        model: the prices.
        costs: of a ``Counter``.
        dense: with nothing skipped, as in the dense twin.
    """
    compute = everything = 0.0
    by_access = model.memory["access"] == "operations"
    products = [cost for (_, kind), cost in costs.items() if kind in PRODUCTS]
    others = [cost for (_, kind), cost in costs.items() if kind not in PRODUCTS]
    compute = model.compute(total(products), dense)
    # prices that do not depend on the size of a memory hold for the sums as well
    for cost in [*products, *others] if by_access else [total([*products, *others])]:
        everything += model.elements(cost) + model.traffic(cost, dense)
    return {"compute": PICO * compute, "total": PICO * (compute + everything)}


def read_cost_model(name: str, folder: Path | None = None) -> CostModel:
    """Read a cost model by the name of its file, or by a path.

    Args:
        name: ``horowitz45_fp32``, say, or the path of a YAML file.
        folder: where names are looked up; the package's ``conf/energy`` if None.

    Raises:
        UserError: there is none, it is incomplete, or a value of it is none that can be.
    """
    keys = set(CostModel.__dataclass_fields__) - {"name"}
    path, content = read_named(name, folder or shipped("energy"), keys, "cost model")
    ranges.check(ranges.COST_MODEL, content, str(path))
    access = content["memory"].get("access")
    if access not in MEMORY:
        raise UserError(f"{path}: memory: access is {access!r}", f"one of {', '.join(MEMORY)}")
    for part, table in (("operations", ranges.OPERATIONS), ("memory", MEMORY[access])):
        ranges.check(table, content[part], f"{path}: {part}")
        if missing := sorted(table.keys() - content[part].keys()):
            raise UserError(f"{path}: {part}: missing keys: {', '.join(missing)}")
    return CostModel(path.stem, **content)


def describe_model(model: CostModel) -> dict[str, Any]:
    """Return all that a result has to say about its cost model, in plain values."""
    return asdict(model)


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
