"""The running sums in which operations are counted."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

PRODUCTS = ("linear", "conv", "depthwise_conv", "attention", "scan")
"""Kinds of operators that have products; what the literature counts."""


@dataclass(slots=True)
class Cost:
    """Running sums of one operator kind in one layer.

    Attributes:
        dense_macs: multiply-accumulates if nothing is skipped.
        macs: multiply-accumulates of real values, zeros skipped.
        acs: accumulates (synaptic operations) caused by spikes.
        multiplies: element-wise multiplications.
        additions: element-wise additions and comparisons.
        special: exponentials, roots, divisions and the like.
        updates: updates of a neuron's membrane potential, or its one decision.
        values_read, values_written: real numbers read and written, each operand of an operator
            once, its result once.
        spike_bits_read, spike_bits_written: the same for spikes, ceil(log2(levels + 1)) bits each.
        inputs: activations that products read, or that a neuron or activation emits.
        nonzeros: how many of them are not zero.
        spikes: how many spikes they are.
        slots: how many spikes they could be at most.
        weight_size, input_size, output_size: numbers that lie in each memory at once: the other
            operand of a product, an input frame, an output frame; the largest seen.
    """

    dense_macs: float = 0.0
    macs: float = 0.0
    acs: float = 0.0
    multiplies: float = 0.0
    additions: float = 0.0
    special: float = 0.0
    updates: float = 0.0
    values_read: float = 0.0
    values_written: float = 0.0
    spike_bits_read: float = 0.0
    spike_bits_written: float = 0.0
    inputs: float = 0.0
    nonzeros: float = 0.0
    spikes: float = 0.0
    slots: float = 0.0
    weight_size: float = 0.0
    input_size: float = 0.0
    output_size: float = 0.0

    def sizes(self, weight: float, inputs: float, outputs: float) -> None:
        """Note how much an operator holds at once."""
        self.weight_size = max(self.weight_size, weight)
        self.input_size = max(self.input_size, inputs)
        self.output_size = max(self.output_size, outputs)

    def add(self, other: "Cost") -> None:
        """Add the sums of another cost; of sizes keep the larger."""
        for name in COLUMNS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sizes(other.weight_size, other.input_size, other.output_size)


SIZES = ("weight_size", "input_size", "output_size")
COLUMNS = tuple(f.name for f in fields(Cost) if f.name not in SIZES)
Costs = dict[tuple[str, str], Cost]
"""(layer, kind) -> cost."""


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of several costs."""
    result = Cost()
    for cost in costs:
        result.add(cost)
    return result
