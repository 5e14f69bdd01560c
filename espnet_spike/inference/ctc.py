"""Connectionist temporal classification (Graves et al., 2006): best path and alignment."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def best_path(log_probs: np.ndarray, blank: int = 0) -> list[int]:
    """Return the tokens of greedy CTC for ``log_probs`` ``(T', V)``."""
    best = log_probs.argmax(-1)
    keep = np.append(True, best[1:] != best[:-1]) & (best != blank)
    return best[keep].tolist() if len(best) else []


def greedy(ctc: nn.Module, xs: Tensor) -> list[int]:
    """Return the tokens of the best path of one utterance ``(1, N, D)``."""
    best = torch.unique_consecutive(ctc.argmax(xs)[0])
    return best[best != 0].tolist()


def quietest(log_posteriors: np.ndarray, earliest: float) -> float:
    """Return where to cut, in frames: the middle of the longest run of blanks.

    Only frames after the share ``earliest`` count. Of runs of the same length the later is taken.
    Where no frame is blank the frame with the most probable blank is.

    Args:
        log_posteriors: ``(T, V)``, blank first.
        earliest: share of the frames.
    """
    first = int(len(log_posteriors) * earliest)
    blank = log_posteriors[first:].argmax(axis=1) == 0
    if not blank.any():
        return first + int(log_posteriors[first:, 0].argmax()) + 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], blank.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    longest = np.flatnonzero(ends - starts == (ends - starts).max())[-1]
    return first + (starts[longest] + ends[longest]) / 2


def align(log_posteriors: np.ndarray, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """Return the frames ``(first, last + 1)`` in which the best CTC path says each token.

    None when there are too few frames for the tokens.

    Args:
        log_posteriors: ``(T, V)``, blank first.
        ids: the tokens.
    """
    states = np.zeros(2 * len(ids) + 1, dtype=np.int64)
    states[1::2] = ids
    emitted = log_posteriors[:, states]  # (T, S)
    frames, count = emitted.shape
    # from the state before the blank between them, unless the tokens are the same
    skip = np.zeros(count, dtype=bool)
    skip[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(count, -np.inf)
    best[:2] = emitted[0, :2]
    came = np.zeros((frames, count), dtype=np.int8)
    for t in range(1, frames):
        choices = np.stack([best, np.append(-np.inf, best[:-1]), np.full(count, -np.inf)])
        choices[2, 2:] = np.where(skip[2:], best[:-2], -np.inf)
        came[t] = choices.argmax(axis=0)
        best = choices[came[t], np.arange(count)] + emitted[t]
    state = count - 1 if best[-1] >= best[-2] else count - 2
    if not np.isfinite(best[state]):
        return None
    spans = [[frames, 0] for _ in ids]
    for t in range(frames - 1, -1, -1):
        if state % 2:
            span = spans[state // 2]
            span[0], span[1] = min(span[0], t), max(span[1], t + 1)
        state -= int(came[t, state])
    return [(first, last) for first, last in spans]
