"""The kernels' arithmetic over all frames of an utterance at once.

What ``kernels.MODELS`` does to one frame, bit for bit, but for the scales of weights: here each
output channel has its own, as a requantisation with a multiplier for each channel allows.
"""

import numpy as np

from espnet_spike.simulator.kernels import MODELS, wrap
from espnet_spike.simulator.operations import INT16, Array

LEAST = 1e-12
SHIFTS = (1, 30)  # least and largest of a requantisation


def quantise_channels(w: Array, least: Array | float = 0.0) -> tuple[Array, Array]:
    """Return w ``(outputs, ...)`` as int8, and the scale of each output ``(outputs,)``.

    Args:
        w: weights.
        least: smallest scale of each output.
    """
    flat = np.abs(w).reshape(len(w), -1)
    scale = np.maximum(np.maximum(flat.max(1, initial=0), LEAST) / 127, least)
    return np.round(w / scale.reshape(-1, *[1] * (w.ndim - 1))).astype(np.int8), scale


def to_grid(x: Array, scale: float) -> Array:
    """Return real values as int16 numbers of steps, in int64; beyond the range it saturates."""
    return np.rint(x / scale).clip(-32768, 32767).astype(np.int64)


def rescale(sums: Array, factor: Array | float, largest: int) -> Array:
    """Return accumulators times a factor each, in int64, before they saturate to 16 bits.

    What the kernel ``requantize`` does: the factor is a multiplier of 31 bits and a shift. Sums
    that have room are shifted left before, by as many bits as keep the largest one in 32 bits:
    those of few spikes are small.

    Args:
        sums: integers, any shape.
        factor: positive, broadcastable to ``sums``.
        largest: magnitude that no sum exceeds; below 2^31.
    """
    room = 31 - max(largest.bit_length(), 1)
    wide = sums.astype(np.int64) << room
    factor = np.maximum(np.asarray(factor, np.float64) / 2.0**room, 2.0**-61)
    # multiplier in 2^30..2^31 - 1 with factor = multiplier / 2^(32 + shift)
    shift = np.clip(np.floor(-np.log2(factor)) - 2, *SHIFTS).astype(np.int64)
    multiplier = np.minimum(np.rint(factor * 2.0 ** (32 + shift)), 2**31 - 1).astype(np.int64)
    return (((wide * multiplier) >> 32) + (1 << (shift - 1))) >> shift


def spike_counts(x: Array, inverse_alpha: Array, levels: int, level: int) -> tuple[Array, Array]:
    """Return the counts of the kernel ``imls`` for x ``(frames, n)``, and each frame's level.

    Args:
        x: int16 numbers of steps.
        inverse_alpha: 1024 over the threshold's factor, ``(n,)``.
        levels: largest count.
        level: of every frame; 0: the frame's mean magnitude.
    """
    taken = np.abs(x).sum(1) // x.shape[1]
    m = np.full(len(x), level) if level else np.maximum(taken, 1)
    ratio = (wrap(x * inverse_alpha).astype(np.int64) * (0x7FFFFFFF // m)[:, None]) >> 32
    return np.clip((ratio + 256) >> 9, 0, levels), m


def thresholds(scale: Array, level: float, step: float) -> tuple[Array, int]:
    """Return what a neuron of a fixed level compares with: 1024 over its factors, and its level.

    The level is a whole number of steps; what it is off is made up by the factors.

    Args:
        scale: the threshold's factor of each channel, ``(n,)``.
        level: of every frame; 0: it is the frame's own mean magnitude, in steps as the input is.
        step: of the input.

    Raises:
        ValueError: a factor that 16 bits cannot hold.
    """
    fixed = max(round(level / step), 1) if level else 0
    off = fixed * step / level if level else 1.0
    inverse = np.round(1024 * off / scale)
    if not ((inverse >= 1) & (inverse <= 65535)).all():
        raise ValueError(
            f"factors of {scale.min():.3g} to {scale.max():.3g} at steps of {step:.3g} do not fit "
            "16 bits"
        )
    return inverse.astype(np.int64), fixed


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Return the kernel ``layernorm`` of x ``(frames, n)``, in steps of 2^-10."""
    n = x.shape[1]
    shift = int(np.clip(np.floor(np.log2(INT16 / max(np.abs(weight).max(), 1e-9))), 0, 14))
    factor = np.round(weight * 2.0**shift).astype(np.int16)
    offset = np.round(bias * 1024).clip(-32768, 32767).astype(np.int16)
    out = np.zeros(x.shape, np.int16)
    with np.errstate(over="ignore"):
        for row, y in zip(x.astype(np.int16), out, strict=True):
            MODELS["layernorm"](row, factor, offset, y, n, shift)
    return out.astype(np.int64)


def decayed(scores: Array, fading: Array, keys: Array, shift: int) -> Array:
    """Return the kernel ``decay_scores``: int16 weights ``(heads, frames, keys)``.

    Args:
        scores: ``(heads, frames, keys)``, int32.
        fading: of each pair, in 2^-15, shaped alike.
        keys: what each key counts, in 2^-15, ``(keys,)``.
        shift: bits that the scores lose before.
    """
    faded = ((scores >> shift) * fading) >> 15
    return wrap((faded * keys) >> 15).astype(np.int16).astype(np.int64)
