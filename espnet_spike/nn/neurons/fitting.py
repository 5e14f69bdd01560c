"""Thresholds from the activations of a dense network: what each channel loses least at.

A threshold above the largest activation rounds small ones away, a low one clips large ones; the
best lies between (Rueckauer et al., 2017; Deng and Gu, 2021; Bu et al., 2022, QCFS, learn it).
Ours: for each channel apart, the one of a fixed row of shares of its largest activation at which
the squared error is least, measured by running the neuron itself, with its leak and its rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# of the largest activation over the number of levels, an octave in four steps
SHARES = tuple(2.0 ** (-step / 4) for step in range(-2, 32))
LEAST = 1e-4  # of a threshold: nothing is divided by zero where a channel is silent


class Piece(NamedTuple):
    """What a neuron reads, and what a dense activation would make of it."""

    x: Tensor
    """``(time_steps * B, N, ..., C)``"""
    mask: Tensor | None
    """``(time_steps * B, N)``, true on valid frames; None when all are"""
    target: Tensor
    """``(B, N, ..., C)``"""


def peaks(
    pieces: Sequence[Piece],
    level: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    quantile: float = 0.999,
) -> Tensor:
    """Return the largest target of each channel over valid frames, ``(C,)``, positive.

    The outermost are left out, as is usual (Rueckauer et al., 2017, 99.9 %). A channel that is
    silent gets the median of the others.

    Args:
        pieces: at least one.
        level: what targets are divided by, broadcastable to the input.
        quantile: of the positive targets of a channel that is the largest.
    """
    rows = []
    for x, mask, target in pieces:
        units = target if level is None else target / level(x, mask)
        valid = units if mask is None else units[mask[: len(units)]]
        rows.append(valid.reshape(-1, units.shape[-1]))
    ordered = torch.cat(rows).clamp(min=0).sort(0).values
    silent = (ordered > 0).logical_not().sum(0)
    place = silent + ((len(ordered) - 1 - silent).clamp(min=0) * quantile).round().long()
    found = ordered.gather(0, place.clamp(max=len(ordered) - 1)[None])[0]
    alive = found > LEAST
    usual = found[alive].median() if bool(alive.any()) else found.new_tensor(1.0)
    return torch.where(alive, found, usual)


def search(
    neuron: Any,
    pieces: Sequence[Piece],
    choose_threshold: Callable[[float], Tensor],
    free_worth: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Try the thresholds of ``SHARES``, each in all channels at once; keep each channel's best.

    Args:
        neuron: called as ``neuron(x, mask)``; a mean over its time steps is compared.
        pieces: at least one.
        choose_threshold: sets the thresholds to a share of what no activation exceeds, and returns
            the parameter that it set, ``(C,)``.
        free_worth: choose what a spike is worth, too, by least squares.

    Returns:
        the best of the parameter, what a spike is worth there (1 unless chosen), and what is lost
        of each channel (see ``Neuron.fit_thresholds``), each ``(C,)``.
    """
    best, worth, least = None, None, None
    for share in SHARES:
        parameter = choose_threshold(share).detach().clone()
        yy = ty = tt = 0.0
        for x, mask, target in pieces:
            y = neuron(x, mask)
            y = y.view(-1, len(target), *y.shape[1:]).mean(0)
            if mask is not None:
                y, target = y[mask[: len(target)]], target[mask[: len(target)]]
            y, target = (v.reshape(-1, v.shape[-1]).double() for v in (y, target))
            yy, ty, tt = yy + (y * y).sum(0), ty + (y * target).sum(0), tt + (target**2).sum(0)
        yy, ty, tt = (torch.as_tensor(v) for v in (yy, ty, tt))
        factor = torch.where(ty > 0, ty / yy.clamp(min=1e-12), 1.0) if free_worth else 1.0
        factor = torch.as_tensor(factor).expand_as(yy)
        loss = tt - 2 * factor * ty + factor**2 * yy
        if best is None or worth is None or least is None:
            best, worth, least = parameter, factor, loss
            continue
        better = loss < least
        best = torch.where(better, parameter, best)
        worth, least = torch.where(better, factor, worth), torch.where(better, loss, least)
    assert best is not None and worth is not None and least is not None  # there are shares
    silent = torch.as_tensor(tt) <= 0
    lost = torch.where(silent, 0.0, least.clamp(min=0) / tt.clamp(min=1e-12))
    return best, worth.to(best.dtype), lost


def inverse_softplus(y: Tensor) -> Tensor:
    """Return x with softplus(x) = y > 0."""
    return y + torch.log(-torch.expm1(-y.clamp(min=LEAST)))
