"""Energy of memory: how often numbers are fetched, and what a fetch costs.

Three ways to see it, the key ``access`` of a cost model's ``memory``:

* ``operands``: every operator reads each operand once and writes its result once, at one price a
  byte, whatever lies where: an upper bound on what a machine can reuse.
* ``operations`` (Lemaire et al. 2022): a multiply-accumulate reads its weight; so does an
  accumulate, which also reads and writes the potential; inputs are read and results written once;
  the larger a memory, the dearer.
* ``levels`` (ours; prices of an access of 64 bits by Horowitz 2014): the weights of an operator lie
  in the smallest memory that holds them, in DRAM if none does, and so do a scan's states. What an
  operation moves depends on the ``dataflow``, the same for dense network, twin and spikes:

  ``output_stationary``
      a sum stays in its accumulator until it is complete, and each operation fetches its weight;
  ``weight_stationary``
      a weight is fetched once an utterance, and each operation reads its sum and writes it back.

  One fetch serves ``reuse`` operations: frames that share a weight, or channels that are added up
  at once. A network that skips zeros fetches for the operations that are left, or as the dense one
  does, whichever is less. An event is one operation, whatever its count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from espnet_spike.nn.accounting import Cost

DATAFLOWS = ("output_stationary", "weight_stationary")
WEIGHTED = ("linear", "conv", "depthwise_conv", "attention")
"""Kinds of operators that use one operand again and again."""


@dataclass(frozen=True)
class Traffic:
    """What one kind of operator in one layer moves.

    Attributes:
        read, written: values, each operand and each result once.
        bits: of spikes, read and written.
        weights: how many of ``read`` are weights.
        operations: products done.
        dense: products if nothing were skipped.
        sums: additions of spikes, each of which reads and writes a potential.
        activations: inputs that are fetched.
    """

    read: float
    written: float
    bits: float
    weights: float
    operations: float
    dense: float
    sums: float
    activations: float


def traffic(
    cost: Cost, dense: bool, kept: bool, listed: bool, statistic: bool, merged: bool
) -> Traffic:
    """Return what an operator moves.

    Args:
        cost: of it.
        dense: with nothing skipped.
        kept: sums over the slots of binary spikes stay in accumulators.
        listed: spikes are a list of events with addresses.
        statistic: what a threshold follows is read before the neuron reads it.
        merged: an event is one multiplication, whatever its count.
    """
    return Traffic(
        read=cost.values_read - kept * cost.partial_read + statistic * cost.statistic_read,
        written=cost.values_written - kept * cost.partial_written,
        bits=cost.event_bits_read + cost.event_bits_written
        if listed  # where nothing spikes, the list is empty
        else cost.spike_bits_read + cost.spike_bits_written,
        weights=cost.weights_read,
        operations=cost.dense_macs if dense else cost.macs + cost.event_macs,
        dense=cost.dense_macs - kept * cost.repeated_macs,
        sums=cost.event_macs if merged else cost.acs,
        activations=(cost.nonzeros if cost.slots and not dense else cost.inputs)
        + statistic * cost.statistic_read,
    )


def by_operands(memory: Mapping[str, Any], moved: Traffic) -> float:
    """Return the energy where each operand is fetched once, pJ."""
    values = moved.read + moved.written
    return (values * memory["bytes_per_value"] + moved.bits / 8) * memory["pj_per_byte"]


def by_operations(memory: Mapping[str, Any], cost: Cost, moved: Traffic, dense: bool) -> float:
    """Return the energy as Lemaire et al. (2022) have it, pJ."""
    sizes, prices = zip(*memory["sram"], strict=True)
    weight, inputs, outputs = (
        float(np.interp(size * memory["bytes_per_value"], sizes, prices))
        for size in (cost.weight_size, cost.input_size, cost.output_size)
    )
    macs = cost.dense_macs if dense else cost.macs
    energy = (macs + moved.sums) * weight + moved.activations * inputs
    return energy + moved.sums * 2 * outputs + moved.written * outputs


def by_levels(
    memory: Mapping[str, Any], kind: str, cost: Cost, moved: Traffic, dataflow: str, bits: float
) -> float:
    """Return the energy where memories have levels, pJ.

    Args:
        memory: the keys of ``access: levels``.
        kind: of the operator.
        cost: of it.
        moved: by it.
        dataflow: a name in ``DATAFLOWS``.
        bits: of an accumulator.
    """
    width = memory["bytes_per_value"]
    activation = byte_price(memory, memory["activations"])
    if kind == "scan":  # its states are larger than a frame
        activation = byte_price(memory, max(memory["activations"], cost.weight_size * width))
    if kind not in WEIGHTED:
        return ((moved.read + moved.written) * width + moved.bits / 8) * activation
    weight = byte_price(memory, cost.weight_size * width)
    shared = moved.dense / memory["reuse"]
    energy = ((moved.read - moved.weights + moved.written) * width + moved.bits / 8) * activation
    if dataflow == "output_stationary":
        # fewer than `reuse` frames still need every weight
        fetched = min(moved.operations, max(shared, moved.weights))
        return energy + fetched * width * weight
    fetched = 2 * min(moved.operations, shared)
    return energy + moved.weights * width * weight + fetched * bits / 8 * activation


def byte_price(memory: Mapping[str, Any], size: float) -> float:
    """Return pJ a byte of the smallest memory that holds ``size`` bytes."""
    fitting = (price for capacity, price in memory["levels"] if size <= capacity)
    return next(fitting, memory["dram"]) / 8
