"""The IMLS passes for CPUs, compiled by numba; ``imls`` is the way in.

Arrays: x, y, grad, grad_x ``(R, K, C)``; level, weight, mean ``(R,)``; scale, counts, e ``(C,)``.
No sum runs across rows except into ``counts`` and ``e``, in row order: results repeat bit for bit,
and a row's output does not depend on its neighbours.
"""

import numpy as np

from espnet_spike.nn.ops.numba_jit import jit

HALF_UP, EVEN, OFF = 0, 1, 2  # positions in imls.ROUNDINGS


@jit(inline="always")
def _count(ratio, half, zero, top, mode):  # noqa: ANN001
    if mode == HALF_UP:
        ratio = np.floor(ratio + half)
    elif mode == EVEN:
        ratio = np.rint(ratio)
    return min(max(ratio, zero), top)


@jit()
def forward(x, level, scale, weight, y, counts, levels, mode):  # noqa: ANN001, ANN201
    """Write Y and add the weighted spike counts per channel to ``counts``."""
    half, zero, top = x.dtype.type(0.5), x.dtype.type(0), x.dtype.type(levels)
    for r in range(x.shape[0]):
        m, w = level[r], weight[r]
        for k in range(x.shape[1]):
            for c in range(x.shape[2]):
                v = m * scale[c]
                s = _count(x[r, k, c] / v, half, zero, top, mode)
                y[r, k, c] = v * s
                counts[c] += w * s


@jit()
def output(x, level, scale, y, levels, mode):  # noqa: ANN001, ANN201
    """Write Y."""
    half, zero, top = x.dtype.type(0.5), x.dtype.type(0), x.dtype.type(levels)
    for r in range(x.shape[0]):
        m = level[r]
        for k in range(x.shape[1]):
            for c in range(x.shape[2]):
                v = m * scale[c]
                y[r, k, c] = v * _count(x[r, k, c] / v, half, zero, top, mode)


@jit()
def recount(y, level, scale, counts):  # noqa: ANN001, ANN201
    """Write the spike counts behind Y, and return how many are not zero."""
    nonzeros = 0
    for r in range(y.shape[0]):
        m = level[r]
        for k in range(y.shape[1]):
            for c in range(y.shape[2]):
                s = np.rint(y[r, k, c] / (m * scale[c]))
                counts[r, k, c] = s
                nonzeros += s != 0
    return nonzeros


@jit()
def backward(x, grad, level, scale, weight, grad_x, e, levels, mode, tail):  # noqa: ANN001, ANN201
    """Write dX and add the weighted dV * V per channel to ``e``."""
    half, zero, top = x.dtype.type(0.5), x.dtype.type(0), x.dtype.type(levels)
    one, outside = x.dtype.type(1), x.dtype.type(tail)
    for r in range(x.shape[0]):
        m, w = level[r], weight[r]
        for k in range(x.shape[1]):
            for c in range(x.shape[2]):
                v = m * scale[c]
                ratio = x[r, k, c] / v
                g = grad[r, k, c]
                gx = g if (ratio >= zero) and (ratio <= top) else zero
                if outside > zero and not (ratio >= zero and ratio <= top):
                    d = ratio - min(max(ratio, zero), top)
                    grad_x[r, k, c] = g * (outside / (one + d * d))
                else:
                    grad_x[r, k, c] = gx
                y = v * _count(ratio, half, zero, top, mode)
                e[c] += w * (g * y - gx * x[r, k, c])


@jit(fastmath={"reassoc"})
def mean_abs(x, mean):  # noqa: ANN001, ANN201
    """Write the mean of |x| over the columns of ``(R, C)``, summed in double."""
    for r in range(x.shape[0]):
        total = 0.0
        for c in range(x.shape[1]):
            total += abs(x[r, c])
        mean[r] = total / x.shape[1]
