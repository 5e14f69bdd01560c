"""The ledger of a running network: what it costs, and which of its tensors hold spikes.

The rules (``counting.operator_rules``, ``product_rules``) write into it, and the layers that know
what they cost (``nn.accounting``); who sees the operations is ``counting.counter``.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from espnet_spike.counting.costs import Costs
from espnet_spike.nn.accounting import Cost, CostLedger, Spikes, count_sum


def is_real_valued(x: Tensor) -> bool:
    """Return whether ``x`` holds values to calculate with: no integers, no truth values."""
    return x.is_floating_point() or x.is_complex()


def counts_of(x: Tensor, found: Spikes) -> Tensor:
    """Return the spike counts of ``x``, or of what it is a view of, shaped as ``x``."""
    if found.counts is None:
        return x
    return found.counts.as_strided(x.shape, x.stride(), x.storage_offset())


def is_whole(x: Tensor, found: Spikes) -> bool:
    """Return whether a view holds each value of its storage once."""
    return x.numel() == found.size and 0 not in x.stride()


def storage_key(x: Tensor) -> int:
    """Return what names the storage of ``x`` as long as a reference to it exists."""
    return x.untyped_storage()._cdata


def view_key(x: Tensor) -> tuple:
    """Return what names the values of ``x``, whatever their order, as long as they exist."""
    return storage_key(x), x.storage_offset(), x.numel()


class Ledger(CostLedger):
    """Running sums of operations, and what is known of the tensors that they were done on.

    Args:
        name: of the layer that runs at first.
        module: that layer.
        dense: take every value for one that is not zero; the values are not looked at, so the
            model may be on the meta device.

    Attributes:
        costs: running sums, (dotted name of the innermost module, kind) -> ``Cost``.
        uncovered: operation without a rule -> [calls, numbers it made].
        lost: operation that made real values of spikes -> calls; a hint at what a rule could add.
        layers: (name, module) of the forward passes that are running, innermost last.
    """

    def __init__(self, name: str, module: nn.Module, dense: bool = False) -> None:
        self.dense = dense
        self.costs: Costs = defaultdict(Cost)
        self.uncovered: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self.lost: dict[str, int] = defaultdict(int)
        self.layers: list[tuple[str, nn.Module]] = [(name, module)]
        self._spikes: dict[int, tuple[StorageWeakRef, Spikes]] = {}
        self._constants: dict[int, StorageWeakRef] = {}
        self._parameters: set[int] = set()
        self._last: tuple[tuple[Tensor, float], ...] = ()
        self._sums: set[tuple] | None = None
        self._operands: set[tuple] = set()
        self._blocks: dict[int, dict[tuple, float]] = defaultdict(dict)
        self._last_sum: tuple[Cost, float] | None = None
        self._full = 16  # look for tensors that are gone when that many are known

    # --- sums

    def cost(self, kind: str) -> Cost:
        """Return the running sums of a kind of operator in the current layer."""
        return self.costs[self.layers[-1][0], kind]

    def uncover(self, name: str, numbers: float) -> None:
        """Note that an operation has no rule; it made that many numbers."""
        self.uncovered[name][0] += 1
        self.uncovered[name][1] += numbers

    def lose(self, name: str) -> None:
        """Note that an operation made real values of spikes."""
        self.lost[name] += 1

    def read(self, cost: Cost, x: Tensor) -> None:
        """Note that an operator reads ``x``; what it reads as a product says how sparse it is."""
        self.read_as(cost, x, self.spikes(x))

    def read_as(
        self, cost: Cost, x: Tensor, found: Spikes | None, channels: float | None = None
    ) -> None:
        """Note that a product reads ``x``, of which ``found`` is known.

        Args:
            cost: of the product.
            x: ``(..., C)``.
            found: its spikes; None for real values.
            channels: among which an event is one, where it is not C.
        """
        if found is None:
            self.read_values(cost, x)
            if not self.is_constant(x):
                cost.inputs += x.numel()
                cost.nonzeros += self.nonzeros(x)
            return
        cost.spike_bits_read += x.numel() * found.bits
        cost.inputs += x.numel()
        cost.slots += x.numel() * found.levels
        if is_whole(x, found):
            spikes, events = found.total, found.nonzeros
        else:
            counts = counts_of(x, found)
            spikes, events = count_sum(counts), float(torch.count_nonzero(counts))
        cost.spikes += spikes
        cost.nonzeros += events
        cost.events_read += events
        cost.event_bits_read += events * found.event_bits(channels or x.shape[-1])

    def read_values(self, cost: Cost, x: Tensor) -> None:
        """Note that an operator reads real values ``x``; of a sum, whether it had them already."""
        cost.values_read += x.numel()
        if self.is_constant(x):
            cost.weights_read += x.numel()
        if self._sums is None:
            return
        if view_key(x) in self._sums:
            cost.partial_read += x.numel()
            if self.is_constant(x):
                cost.weights_read -= x.numel()
        self._sums.add(view_key(x))

    def write(self, cost: Cost, out: Tensor) -> None:
        """Note that an operator writes ``out``."""
        cost.values_written += out.numel()
        if self._sums is not None:
            cost.partial_written += out.numel()
            self._last_sum = cost, out.numel()
            self._sums.add(view_key(out))

    def are_partial(self, tensors: Iterable[object]) -> bool:
        """Return whether all tensors are sums that stand in accumulators."""
        sums = self._sums
        return sums is not None and all(
            view_key(x) in sums for x in tensors if isinstance(x, Tensor)
        )

    def again(self, x: Tensor) -> bool:
        """Return whether a product of the same sum had ``x`` as an operand before."""
        if self._sums is None:
            return False
        key = view_key(x)
        seen = key in self._operands
        self._operands.add(key)
        return seen

    def weights_held(self, cost: Cost, weight: Tensor) -> float:
        """Return how many weights an operator holds, of which ``weight`` is all or one block.

        Sums that are made tap by tap, or slot by slot, meet one block after the other, but a frame
        needs all of them, so they lie in memory together.
        """
        # what is broadcast is there once
        size = math.prod(
            n for n, step in zip(weight.shape, weight.stride(), strict=True) if step or n < 1
        )
        if self._sums is None:
            return size
        blocks = self._blocks[id(cost)]
        blocks[view_key(weight)] = size
        return sum(blocks.values())

    def hold(self, x: Tensor) -> None:
        """Note that ``x`` stands in an accumulator, if there is one."""
        if self._sums is not None:
            self._sums.add(view_key(x))

    def accumulating(self, run: Callable[[], Tensor]) -> Tensor:
        """Run what makes a result of partial sums, see ``nn.accounting.in_accumulators``."""
        if self._sums is not None:
            return run()
        self._sums = set()
        try:
            return run()
        finally:
            if self._last_sum is not None:  # the result itself is written
                cost, numel = self._last_sum
                cost.partial_written -= numel
            self._sums = self._last_sum = None
            self._operands.clear()
            self._blocks.clear()

    @property
    def module(self) -> nn.Module:
        """The module whose forward pass is running."""
        return self.layers[-1][1]

    @contextmanager
    def layer(self, name: str, module: nn.Module) -> Iterator[None]:
        """Name, within the context, the layer that runs without a forward pass of its own."""
        self.layers.append((name, module))
        try:
            yield
        finally:
            self.layers.pop()

    def reset(self) -> None:
        """Start new sums; forget what is known of tensors that are gone."""
        self.costs = defaultdict(Cost)
        self._spikes.clear()
        self._last = ()
        for key in [key for key, ref in self._constants.items() if ref.expired()]:
            del self._constants[key]

    # --- what is known of tensors

    def forget(self) -> None:
        """Forget what is known of tensors; sums stay."""
        self._spikes.clear()
        self._constants.clear()
        self._last = ()

    def spikes(self, x: Tensor) -> Spikes | None:
        """Return the spikes that ``x`` or what it is a view of holds; None for real values."""
        found = self._spikes.get(storage_key(x)) if self._spikes else None
        return None if found is None else found[1]

    @property
    def knows_spikes(self) -> bool:
        """Whether any tensor is known to hold spikes."""
        return bool(self._spikes)

    def counts(self, x: Tensor) -> Tensor | None:
        """Return the spike counts of ``x``, of its shape; None for real values."""
        found = self.spikes(x)
        return None if found is None else counts_of(x, found)

    def set_spikes(self, x: Tensor, spikes: Spikes) -> Spikes:
        """Note that ``x``, a tensor with a storage of its own, holds spikes."""
        if len(self._spikes) >= self._full:
            for key in [key for key, (ref, _) in self._spikes.items() if ref.expired()]:
                del self._spikes[key]
            self._full = 2 * len(self._spikes) + 16
        if spikes.counts is not None and spikes.counts.stride() != x.stride():
            laid_out = torch.empty_strided(x.shape, x.stride(), dtype=spikes.counts.dtype)
            spikes = replace(spikes, counts=laid_out.copy_(spikes.counts))
        self._spikes[storage_key(x)] = StorageWeakRef(x.untyped_storage()), spikes
        return spikes

    def drop_spikes(self, x: Tensor) -> None:
        """Note that ``x`` holds real values now."""
        self._spikes.pop(storage_key(x), None)

    def set_parameter(self, x: Tensor) -> None:
        """Note that ``x`` is a parameter or buffer."""
        self._parameters.add(storage_key(x))
        self.set_constant(x)

    def is_parameter(self, x: Tensor) -> bool:
        """Return whether ``x`` is a parameter or buffer, or a view of one."""
        return storage_key(x) in self._parameters

    def set_constant(self, x: Tensor) -> None:
        """Note that ``x`` depends on weights and lengths only."""
        self._constants[storage_key(x)] = StorageWeakRef(x.untyped_storage())

    def is_constant(self, x: object) -> bool:
        """Return whether ``x`` does not depend on activations; true of numbers and integers."""
        if not isinstance(x, Tensor) or not is_real_valued(x):
            return True
        return storage_key(x) in self._constants

    def all_constant(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether no tensor that has real values depends on activations."""
        constants = self._constants
        return all(
            x.untyped_storage()._cdata in constants  # this is asked of every operation
            for x in tensors
            if x.is_floating_point() or x.is_complex()
        )

    def changed(self, x: Tensor) -> None:
        """Note that ``x`` was written to in place."""
        self._constants.pop(storage_key(x), None)
        self._last = ()

    def nonzeros(self, x: Tensor) -> float:
        """Return how many values of ``x`` are not zero; of the same tensor again without a look."""
        if self.dense:
            return float(x.numel())
        for known, nonzeros in self._last:
            if known is x:
                return nonzeros
        nonzeros = float(torch.count_nonzero(x))
        self._last = (*self._last[-1:], (x, nonzeros))
        return nonzeros
