"""What is known of the tensors of a running network: which hold spikes, and how many."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Spikes:
    """What is known of a tensor that holds spikes times their unit.

    Attributes:
        counts: spikes of each value, with size and strides of the tensor's storage, float; None
            where the values are the counts themselves.
        levels: spikes a value can hold at most.
        scaled: whether the unit differs from frame to frame (a factor cannot go into weights).
        total: sum of ``counts``.
        nonzeros: how many are not zero.
        size: how many values there are.
    """

    counts: Tensor | None
    levels: int
    scaled: bool
    total: float = -1.0
    nonzeros: float = -1.0
    size: int = -1

    def __post_init__(self) -> None:
        if self.total < 0:
            self.total = count_sum(self.counts)
        if self.nonzeros < 0:
            binary = self.levels == 1
            self.nonzeros = self.total if binary else float(torch.count_nonzero(self.counts))
        if self.size < 0:
            self.size = self.counts.numel()

    @classmethod
    def of_itself(cls, x: Tensor, levels: int, scaled: bool = False) -> "Spikes":
        """Return what is to be known of counts without a unit, without holding them."""
        found = cls(x, levels, scaled)
        found.counts = None  # a tensor that is known by its storage would live as long as we do
        return found

    @property
    def bits(self) -> int:
        """Bits that hold one count."""
        return self.levels.bit_length()


def count_sum(counts: Tensor) -> float:
    """Return the sum of a tensor of counts, exact below 2^53."""
    # rows in the tensor's own precision are exact below 2^24, and much faster
    rows = counts.sum(-1) if counts.dim() and counts.shape[-1] <= 65536 else counts
    return float(rows.sum(dtype=torch.float64))


def is_real_valued(x: Tensor) -> bool:
    """Return whether ``x`` holds values to calculate with: no integers, no truth values."""
    return x.is_floating_point() or x.is_complex()


def counts_of(x: Tensor, found: Spikes) -> Tensor:
    """Return the spike counts of ``x``, or of what it is a view of, shaped as ``x``."""
    if found.counts is None:
        return x
    return found.counts.as_strided(x.shape, x.stride(), x.storage_offset())


def _key(x: Tensor) -> int:
    """Return what names the storage of ``x`` as long as a reference to it exists."""
    return x.untyped_storage()._cdata


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute within the context."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
