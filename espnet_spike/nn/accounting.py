"""How a layer says what it costs, where its tensor operations do not show it.

Compiled kernels, binary spikes that are physically there and weights that are prepared ahead look
like other work than they are, or like none. Who knows better tells a ledger (``CostLedger``), by
one of two ways; the operations inside are hidden from the counter then:

* a module that is ``Counted`` has a method ``count``, called after each forward pass;
* a function behind ``counted(rule)`` has a rule, called after it.

Without an open ledger both cost nothing but a look. ``counting.counter`` opens one.
"""

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch


@dataclass(slots=True)
class Cost:
    """Running sums of one operator kind in one layer.

    Attributes:
        dense_macs: multiply-accumulates if nothing is skipped.
        macs: multiply-accumulates of real values, zeros skipped.
        acs: accumulates (synaptic operations) caused by spikes.
        event_macs: products that events take part in; an event, a value of spikes that is not zero,
            is one for each output it reaches, whatever its count.
        multiplies: element-wise multiplications.
        additions: element-wise additions and comparisons.
        special: exponentials, roots, divisions and the like.
        updates: updates of a neuron's membrane potential, or its one decision.
        values_read, values_written: real numbers read and written, each operand of an operator
            once, its result once.
        spike_bits_read, spike_bits_written: the same for spikes, ceil(log2(levels + 1)) bits each.
        weights_read: how many of ``values_read`` are weights.
        partial_read, partial_written, partial_additions: how many of ``values_read``,
            ``values_written`` and ``additions`` are of sums that are not complete yet (over the
            slots of binary spikes) and could stay in an accumulator.
        repeated_macs: how many of ``dense_macs`` are with an operand that stood there for the slot
            before.
        event_bits_read, event_bits_written: bits of the same spikes as a list of events, each with
            its channel and, with more than one level, its count.
        events_read: events that products read.
        state_multiplies: multiplications of a scan's input, Delta B, where the input is spikes;
            not among ``multiplies``, and so the next three.
        channel_multiplies: by the unit per channel of spikes that are summed over frames.
        unit_multiplies: by the second factor of a threshold that has one per frame and per channel.
        statistic_read: values read once more, for the statistic that a threshold follows.
        inputs: activations that products read, or that a neuron or activation emits.
        nonzeros: how many of them are not zero.
        spikes: how many spikes they are.
        slots: how many spikes they could be at most.
        weight_size, input_size, output_size: numbers that lie in each memory at once: the weights
            of an operator, all of them although it may meet them tap by tap, or the other operand
            of a product of activations; an input frame; an output frame; the largest seen.
    """

    dense_macs: float = 0.0
    macs: float = 0.0
    acs: float = 0.0
    event_macs: float = 0.0
    multiplies: float = 0.0
    additions: float = 0.0
    special: float = 0.0
    updates: float = 0.0
    values_read: float = 0.0
    values_written: float = 0.0
    spike_bits_read: float = 0.0
    spike_bits_written: float = 0.0
    weights_read: float = 0.0
    partial_read: float = 0.0
    partial_written: float = 0.0
    partial_additions: float = 0.0
    repeated_macs: float = 0.0
    event_bits_read: float = 0.0
    event_bits_written: float = 0.0
    events_read: float = 0.0
    state_multiplies: float = 0.0
    channel_multiplies: float = 0.0
    unit_multiplies: float = 0.0
    statistic_read: float = 0.0
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
            if amount := getattr(other, name):
                setattr(self, name, getattr(self, name) + amount)
        self.sizes(other.weight_size, other.input_size, other.output_size)


SIZES = ("weight_size", "input_size", "output_size")
COLUMNS = tuple(f.name for f in fields(Cost) if f.name not in SIZES)


@dataclass(slots=True)
class Spikes:
    """What is known of a tensor that holds spikes times their unit.

    Attributes:
        counts: spikes of each value, with size and strides of the tensor's storage, float; None
            where the values are the counts themselves.
        levels: spikes a value can hold at most.
        scaled: whether the unit differs from frame to frame (a factor cannot go into weights).
        per_channel: whether it differs from channel to channel.
        total: sum of ``counts``.
        nonzeros: how many are not zero.
        size: how many values there are.
    """

    counts: Tensor | None
    levels: int
    scaled: bool
    per_channel: bool = field(default=False, kw_only=True)
    total: float = -1.0
    nonzeros: float = -1.0
    size: int = -1

    def __post_init__(self) -> None:
        counts = self.counts
        if counts is None:  # of a copy: the sums are known
            return
        if self.total < 0:
            self.total = count_sum(counts)
        if self.nonzeros < 0:
            binary = self.levels == 1
            self.nonzeros = self.total if binary else float(torch.count_nonzero(counts))
        if self.size < 0:
            self.size = counts.numel()

    @classmethod
    def of_itself(
        cls, x: Tensor, levels: int, scaled: bool = False, per_channel: bool = False
    ) -> "Spikes":
        """Return what is to be known of counts without a unit, without holding them."""
        found = cls(x, levels, scaled, per_channel=per_channel)
        found.counts = None  # a tensor that is known by its storage would live as long as we do
        return found

    @property
    def bits(self) -> int:
        """Bits that hold one count."""
        return self.levels.bit_length()

    def event_bits(self, channels: float) -> float:
        """Return the bits of one event among ``channels``: which, and how many spikes it is."""
        return max(1, math.ceil(math.log2(max(channels, 1)))) + (
            self.bits if self.levels > 1 else 0
        )


def count_sum(counts: Tensor) -> float:
    """Return the sum of a tensor of counts, exact below 2^53."""
    # rows in the tensor's own precision are exact below 2^24, and much faster
    rows = counts.sum(-1) if counts.dim() and counts.shape[-1] <= 65536 else counts
    return float(rows.sum(dtype=torch.float64))


class CostLedger(Protocol):
    """What a layer may tell a ledger, and ask of it.

    Attributes:
        dense: every value is to be taken for one that is not zero, and not to be looked at.
    """

    dense: bool

    def cost(self, kind: str) -> Cost:
        """Return the running sums of a kind of operator in the current layer."""
        ...

    def read(self, cost: Cost, x: Tensor) -> None:
        """Note that a product reads ``x``: values or spikes, and how many there are."""
        ...

    def nonzeros(self, x: Tensor) -> float:
        """Return how many values of ``x`` are not zero."""
        ...

    def counts(self, x: Tensor) -> Tensor | None:
        """Return the spike counts of ``x``, of its shape; None for real values."""
        ...

    def set_spikes(self, x: Tensor, spikes: Spikes) -> Spikes:
        """Note that ``x``, a tensor with a storage of its own, holds spikes."""
        ...

    def set_constant(self, x: Tensor) -> None:
        """Note that ``x`` depends on weights and lengths only, so it is ready before the input."""
        ...

    def lose(self, name: str) -> None:
        """Note that an operation made real values of spikes."""
        ...

    def accumulating(self, run: Callable[[], Tensor]) -> Tensor:
        """Run what makes a result of partial sums; note which reads and writes are theirs."""
        ...


class Counted:
    """Base of modules that know what a forward pass costs as a whole."""

    def count(self, ledger: CostLedger, inputs: tuple, output: object) -> None:
        """Tell a ledger what a forward pass has cost, and which spikes it made.

        Args:
            ledger: takes the sums, in the name of this module.
            inputs: arguments of the forward pass.
            output: its result.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method count")


class _Open(threading.local):
    ledger: CostLedger | None = None


_OPEN = _Open()


def open_ledger() -> CostLedger | None:
    """Return the ledger that is open in this thread, None if none is or its view is hidden."""
    return _OPEN.ledger


@contextmanager
def opened(ledger: CostLedger | None) -> Iterator[None]:
    """Let layers tell ``ledger`` what they cost, within the context and in this thread."""
    before, _OPEN.ledger = _OPEN.ledger, ledger
    try:
        yield
    finally:
        _OPEN.ledger = before


@contextmanager
def unseen() -> Iterator[None]:
    """Hide what happens within the context from the counter: it is counted as a whole."""
    before, _OPEN.ledger = _OPEN.ledger, None
    try:
        with no_dispatch():
            yield
    finally:
        _OPEN.ledger = before


Rule = Callable[..., None]
"""Called as ``rule(ledger, output, *args, **kwargs)`` with the arguments of what is counted."""


def counted(rule: Rule) -> Callable[[Callable], Callable]:
    """Let a rule count a function as a whole; its tensor operations are hidden from the counter."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            ledger = _OPEN.ledger
            if ledger is None:
                return function(*args, **kwargs)
            with unseen():
                out = function(*args, **kwargs)
                rule(ledger, out, *args, **kwargs)
            return out

        return run

    return decorate


def in_accumulators(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Note that a machine keeps what a function adds up in accumulators until it is complete.

    What is written and read again inside is counted as ever, and noted as ``partial_read``,
    ``partial_written`` and ``partial_additions``; so are further reads of the same operand. Its
    result is written once.
    """

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> Tensor:
        ledger = _OPEN.ledger
        if ledger is None:
            return function(*args, **kwargs)
        return ledger.accumulating(lambda: function(*args, **kwargs))

    return run


def count_activation(ledger: CostLedger, x: Tensor, out: Tensor) -> None:
    """Count an activation that compares with a threshold: one comparison, and what it leaves."""
    cost = ledger.cost("activation")
    cost.additions += out.numel()
    cost.inputs += out.numel()
    cost.nonzeros += ledger.nonzeros(out)
    cost.values_read += x.numel()
    cost.values_written += out.numel()
