"""Binary spike trains, and how they are made again in the backward pass.

The spikes of a train are there already where it stands for hardware: making a slot of counts is no
work, and what a train gives out is told to the ledger (``nn.accounting``) as spikes.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from espnet_spike.nn.accounting import CostLedger, Spikes, counted
from espnet_spike.nn.ops import imls


def _slot_is_spikes(ledger: CostLedger, spikes: Tensor, train: "SpikeTrain", t: int) -> None:
    ledger.set_spikes(spikes, Spikes.of_itself(spikes, 1))


def _value_is_spikes(ledger: CostLedger, y: Tensor, train: "SpikeTrain") -> None:
    scaled = train.frame.numel() > 1
    per_channel = train.channel.numel() > 1
    counts = train.counts.clone()
    ledger.set_spikes(y, Spikes(counts, train.levels, scaled, per_channel=per_channel))


def _costs_nothing(ledger: CostLedger, out: object, *args: object) -> None:
    """Spikes that are left out cost nothing."""


@dataclass(frozen=True)
class SpikeTrain:
    """Binary spikes in thermometer code: slot t = 1..T is 1 where ``counts >= t``.

    Attributes:
        counts: integers in 0..levels, ``(B, N, ..., C)``, in a floating type.
        frame: the unit's factor per frame, broadcastable to ``counts`` with 1 for C: ``(B, N, 1)``,
            ``(B, 1, 1)`` for one per utterance or ``(1,)`` for none.
        channel: the unit's factor per channel, ``(C,)``.
        levels: T.
    """

    counts: Tensor
    frame: Tensor
    channel: Tensor
    levels: int

    @counted(_slot_is_spikes)
    def slot(self, t: int) -> Tensor:
        """Return the 0/1 spikes of slot ``t`` (1-based), shaped and typed as ``counts``."""
        return (self.counts >= t).to(self.counts.dtype)

    @counted(_value_is_spikes)
    def value(self) -> Tensor:
        """Return what integer mode would hand on, V * counts."""
        return self.frame * self.channel * self.counts

    @counted(_costs_nothing)
    def masked(self, mask: Tensor) -> "SpikeTrain":
        """Return the train without the spikes of frames where ``mask`` ``(B, N)`` is false."""
        keep = mask.view(mask.shape + (1,) * (self.counts.dim() - 2))
        return self.each(lambda spikes: spikes * keep)

    def each(self, change: Callable[[Tensor], Tensor]) -> "SpikeTrain":
        """Return the train whose spikes were moved, or left out, alike in every slot."""
        return replace(self, counts=change(self.counts))

    @property
    def shape(self) -> torch.Size:
        """Shape of the activations, ``(B, N, ..., C)``."""
        return self.counts.shape


@dataclass(frozen=True)
class FiredTrain(SpikeTrain):
    """Spikes that a membrane has fired slot by slot: they are what is there, counts their sum.

    Attributes:
        spikes: 0 or 1, ``(levels, B, N, ..., C)``, uint8.
    """

    spikes: Tensor

    @classmethod
    def of(cls, spikes: Tensor, frame: Tensor, channel: Tensor) -> "FiredTrain":
        """Return the train of spikes ``(T, B, N, ..., C)``, uint8."""
        counts = spikes.sum(0, dtype=torch.long).to(channel.dtype)
        return cls(counts, frame, channel, len(spikes), spikes)

    @counted(_slot_is_spikes)
    def slot(self, t: int) -> Tensor:
        """Return the 0/1 spikes of slot ``t`` (1-based), shaped and typed as ``counts``."""
        return self.spikes[t - 1].to(self.counts.dtype)

    def each(self, change: Callable[[Tensor], Tensor]) -> "FiredTrain":
        """Return the train whose spikes were moved, or left out, alike in every slot."""
        spikes = torch.stack([change(slot) for slot in self.spikes])
        return replace(self, counts=change(self.counts), spikes=spikes)


@dataclass(frozen=True)
class IMLSRecompute:
    """How an IMLS output follows from its input: what is kept for the backward pass instead."""

    x: Tensor
    level: Tensor
    scale: Tensor
    levels: int
    rounding: str
    dtype: torch.dtype

    def recompute(self) -> Tensor:
        """Return Y again, ``(R, K, C)``, bit for bit."""
        y = imls.output(self.x, self.level, self.scale, self.levels, self.rounding)
        return y.to(self.dtype)


@dataclass(frozen=True)
class LIFRecompute:
    """How the spikes of a LIF neuron follow from its potentials before the reset."""

    h: Tensor
    v_th: float
    dtype: torch.dtype

    def recompute(self) -> Tensor:
        """Return the spikes again, shaped as ``h``."""
        return (self.h >= self.v_th).to(self.dtype)


def real_values(x: Tensor | SpikeTrain) -> Tensor:
    """Return what integer mode hands on: of a train its values."""
    return x.value() if isinstance(x, SpikeTrain) else x


def keep_recipe(y: Tensor, recipe: IMLSRecompute | LIFRecompute) -> Tensor:
    """Note on a neuron's output how it is made again; return it."""
    kept: Any = y
    kept.recipe = recipe
    return y


def add_up(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of one tensor or more, in their order."""
    found: Any = sum(tensors)
    return found


def recomputing(y: Tensor) -> AbstractContextManager:
    """Let operations on a neuron's output keep its recipe instead of the output.

    The neuron keeps its input (LIF: its potentials) for its own gradient, so that keeping the
    output as well would double the memory of the activations; one element-wise pass makes it again.
    """
    recipe: IMLSRecompute | LIFRecompute | None = getattr(y, "recipe", None)
    if recipe is None:
        return nullcontext()
    address, size, dtype = y.data_ptr(), y.numel(), y.dtype

    def pack(t: Tensor) -> Tensor | tuple:
        if t.data_ptr() == address and t.numel() == size and t.dtype == dtype:
            return recipe, t.shape, t.stride()
        return t

    def unpack(packed: Tensor | tuple) -> Tensor:
        if isinstance(packed, tuple):
            recipe, shape, stride = packed
            return recipe.recompute().as_strided(shape, stride)
        return packed

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
