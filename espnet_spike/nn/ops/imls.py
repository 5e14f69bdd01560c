"""The element-wise work of the IMLS neuron, fused: one pass over memory forward, one backward.

The threshold of row r and channel c is ``V = level[r] * scale[c]``. Inputs are viewed as
``(R, K, C)``: R frames, K positions per frame (1, or the frequency bins of a convolution's map), C
channels. On CPUs the passes are compiled by numba, on CUDA GPUs by Triton; without them and under
tracing they are ordinary torch operations with the same rounding (the sums differ in order only).

``rounding``: ``half_up`` floor(r + 1/2), what an integrate-and-fire neuron pre-charged by half a
threshold emits; ``even`` torch.round of the ancestors' code; ``off`` no rounding (warm start).
"""

from types import ModuleType

import torch
from torch import Tensor

from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.precision import full_matmul
from espnet_spike.nn.ops.surrogate import window

ROUNDINGS = ("half_up", "even", "off")


def spike_counts(ratio: Tensor, levels: int, rounding: str = "half_up") -> Tensor:
    """Turn ``ratio`` = X/V into spike counts in 0..levels, in place."""
    if rounding == "half_up":
        ratio = ratio.add_(0.5).floor_()
    elif rounding == "even":
        ratio = ratio.round_()
    return ratio.clamp_(0, levels)


def integrate_and_fire(x: Tensor, threshold: Tensor | float, levels: int) -> Tensor:
    """Return the spikes of membranes that fire in slots 1..T, ``(T, *x.shape)`` uint8.

    A membrane starts at X + V/2; in each slot it fires if it has reached V, and V is subtracted.
    The counts are those of ``half_up``, a spike less at most where rounding meets a tie.

    Args:
        x: input, any shape.
        threshold: V, broadcastable to ``x``.
        levels: T.
    """
    potential = x + 0.5 * threshold
    slots = []
    for _ in range(levels):
        fires = potential >= threshold
        potential = potential - fires * threshold
        slots.append(fires.to(torch.uint8))
    return torch.stack(slots)


def forward(
    x: Tensor, level: Tensor, scale: Tensor, weight: Tensor, levels: int, rounding: str
) -> tuple[Tensor, Tensor]:
    """Return Y = V * counts ``(R, K, C)`` and the row-weighted sum of counts, 0-dim float64.

    Args:
        x: ``(R, K, C)``.
        level: ``(R,)``.
        scale: ``(C,)``.
        weight: ``(R,)``, 1 for rows that count, 0 for padding.
        levels: T.
        rounding: one of ``ROUNDINGS``.
    """
    fused = _fused(x)
    if fused is not None:
        y, counts, _ = fused.forward(x, level, scale, levels, ROUNDINGS.index(rounding), 0.0)
        return y, (counts.double() * weight).sum()
    kernels = _kernels(x)
    if kernels is None:
        threshold = level[:, None, None] * scale
        counts = spike_counts(x / threshold, levels, rounding)
        total = (counts.sum((1, 2)).double() * weight).sum()
        return counts.mul_(threshold), total
    y = torch.empty_like(x)
    per_channel = torch.zeros_like(scale, dtype=torch.float64)
    mode = ROUNDINGS.index(rounding)
    kernels.forward(*backends.arrays(x, level, scale, weight, y, per_channel), levels, mode)
    return y, per_channel.sum()


def in_one_pass(x: Tensor) -> bool:
    """Return whether ``levelled_forward`` can take ``x``, in half or single precision."""
    return backends.fused(x, "imls") is not None


def levelled_forward(
    x: Tensor, scale: Tensor, weight: Tensor, levels: int, rounding: str, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``forward`` does and the level of each row, the mean of its |x|, ``(R,)``.

    Args:
        x: ``(R, K, C)``, of which ``in_one_pass`` holds.
        scale, weight, levels, rounding: as of ``forward``, in fp32.
        eps: smallest level.
    """
    fused = backends.fused_kernels("imls")
    y, counts, level = fused.forward(x, None, scale, levels, ROUNDINGS.index(rounding), eps)
    return y, (counts.double() * weight).sum(), level


def output(x: Tensor, level: Tensor, scale: Tensor, levels: int, rounding: str) -> Tensor:
    """Return Y alone, bit for bit that of ``forward``."""
    fused = _fused(x)
    if fused is not None:
        return fused.output(x, level, scale, levels, ROUNDINGS.index(rounding))
    kernels = _kernels(x)
    if kernels is None:
        threshold = level[:, None, None] * scale
        return spike_counts(x / threshold, levels, rounding).mul_(threshold)
    y = torch.empty_like(x)
    kernels.output(*backends.arrays(x, level, scale, y), levels, ROUNDINGS.index(rounding))
    return y


def recount(y: Tensor, level: Tensor, scale: Tensor) -> tuple[Tensor, int]:
    """Return the spike counts behind Y ``(R, K, C)``, and how many of them are not zero."""
    kernels = _kernels(y)
    if kernels is None:
        counts = (y / (level[:, None, None] * scale)).round_()
        return counts, int(torch.count_nonzero(counts))
    counts = torch.empty_like(y)
    return counts, int(kernels.recount(*backends.arrays(y, level, scale, counts)))


def backward(
    x: Tensor,
    grad: Tensor,
    level: Tensor,
    scale: Tensor,
    weight: Tensor,
    levels: int,
    rounding: str,
    tail: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return dX ``(R, K, C)`` and e_c = sum over r, k of weight_r * (dV * V) ``(C,)``.

    dX = g * w and dV = g * (s - X/V * I) with I = [0 <= X/V <= T]; dV * V = g * (Y - X * I). The
    window w is I, or has a tail outside, see ``surrogate.window``.
    """
    fused = _fused(x)
    if fused is not None:
        mode = ROUNDINGS.index(rounding)
        return fused.backward(x, grad, level, scale, weight, levels, mode, tail)
    kernels = _kernels(x)
    if kernels is None:
        grad_x, e = backward_terms(x, grad, level, scale, levels, rounding, tail)
        return grad_x, full_matmul(e.flatten(1).t(), weight).view(e.shape[1:]).sum(0)
    grad_x = torch.empty_like(x)
    e = torch.zeros_like(scale)
    mode = ROUNDINGS.index(rounding)
    arrays = backends.arrays(x, grad.contiguous(), level, scale, weight, grad_x, e)
    kernels.backward(*arrays, levels, mode, tail)
    return grad_x, e


def backward_terms(
    x: Tensor,
    grad: Tensor,
    level: Tensor,
    scale: Tensor,
    levels: int,
    rounding: str,
    tail: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return dX and dV * V, both ``(R, K, C)``; the readable form of ``backward``."""
    threshold = level[:, None, None] * scale
    ratio = x / threshold
    inside = (ratio >= 0).logical_and_(ratio <= levels)
    slope = window(ratio, levels, tail) if tail else inside
    y = spike_counts(ratio, levels, rounding).mul_(threshold)
    return grad * slope, (grad * y).sub_(grad * inside * x)


def mean_abs(x: Tensor) -> Tensor:
    """Return the mean of |x| of every row of ``(R, K, C)``, ``(R,)``."""
    fused = _fused(x)
    if fused is not None:
        return fused.mean_abs(x)
    kernels = _kernels(x)
    if kernels is None:
        return x.abs().mean((1, 2))
    mean = x.new_empty(x.shape[0])
    kernels.mean_abs(*backends.arrays(x.flatten(1), mean))
    return mean


def _fused(x: Tensor) -> ModuleType | None:
    """Return the Triton functions where they can take ``x``."""
    return backends.fused(x, "imls") if x.is_contiguous() else None


def _kernels(x: Tensor) -> ModuleType | None:
    """Return the numba functions where they can take ``x``; their rows lie one after another."""
    return backends.compiled(x, "imls") if x.is_contiguous() else None
