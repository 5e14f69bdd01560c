"""FATReLU for CPUs, compiled by numba: values, their statistics and gradients in one pass.

Rows are frames ``(R, C)``; a call works on the rows from ``first`` to ``last``. ``fatrelu`` is the
way in, its docstring says what is computed.
"""

import numpy as np

from espnet_spike.nn.ops.numba_jit import dot, exp, jit


@jit()
def forward(x, least, two_sided, y, kept, total, first, last):  # noqa: ANN001, ANN201
    """Write y, and of each row the number of kept values and the sum of their magnitudes."""
    zero, least = x.dtype.type(0), x.dtype.type(least)
    for r in range(first, last):
        x_r, y_r = x[r], y[r]
        for c in range(x.shape[1]):
            size = abs(x_r[c]) if two_sided else x_r[c]
            y_r[c] = x_r[c] if size >= least else zero
        kept[r], total[r] = _count(y_r), _sum_of_magnitudes(y_r)


@jit(fastmath={"contract", "reassoc"})
def _count(y):  # noqa: ANN001
    # in the type of the values: a vector instruction serves several
    count = y.dtype.type(0)
    for value in y:
        count += y.dtype.type(value != 0)
    return count


@jit(fastmath={"contract", "reassoc"})
def _sum_of_magnitudes(y):  # noqa: ANN001
    total = y.dtype.type(0)
    for value in y:
        total += abs(value)
    return total


@jit()
def backward(  # noqa: ANN201
    x, y, grad_y, grad_total, T, k, two_sided, learnt, grad_x, grad_T, first, last  # noqa: ANN001
):  # fmt: skip
    """Write the gradients of the input and, of each row, of the threshold; surrogate sigmoid."""
    kind = x.dtype.type
    zero, one, T, k = kind(0), kind(1), kind(T), kind(k)
    slope, whole = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    for r in range(first, last):
        x_r, y_r, g_r, out = x[r], y[r], grad_y[r], grad_x[r]
        g_total = grad_total[r]
        for c in range(x.shape[1]):
            sign = -one if two_sided and y_r[c] < zero else one
            out[c] = g_r[c] + sign * g_total if y_r[c] != zero else zero
        if not learnt:
            continue
        for c in range(x.shape[1]):
            size = abs(x_r[c]) if two_sided else max(x_r[c], zero)
            e = exp(-abs(k * (size - T)))
            slope[c] = size * e / ((one + e) * (one + e))
            if two_sided and x_r[c] < zero:
                slope[c] = -slope[c]
        for c in range(x.shape[1]):
            counts = y_r[c] != zero or not two_sided
            sign = -one if two_sided and y_r[c] < zero else one
            whole[c] = g_r[c] + (sign * g_total if counts else zero)
        grad_T[r] = -k * dot(whole, slope)


@jit()
def backward_rational(  # noqa: ANN201
    x, y, grad_y, grad_total, T, k, two_sided, gain, grad_x, grad_T, first, last  # noqa: ANN001
):  # fmt: skip
    """Write what ``backward`` does; the surrogate gain / (1 + k u^2) flows to the input too."""
    kind = x.dtype.type
    zero, one, T, k, gain = kind(0), kind(1), kind(T), kind(k), kind(gain)
    slope, whole = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    for r in range(first, last):
        x_r, y_r, g_r, out = x[r], y[r], grad_y[r], grad_x[r]
        g_total = grad_total[r]
        for c in range(x.shape[1]):
            value = x_r[c] if two_sided else max(x_r[c], zero)
            sign = -one if value < zero else one
            grad = g_r[c] + sign * g_total
            up = gain * value / (one + k * (value - T) * (value - T))
            down = gain * value / (one + k * (value + T) * (value + T)) if two_sided else zero
            whole[c], slope[c] = grad, up + down
            out[c] = (grad if y_r[c] != zero else zero) + grad * (up - down)
        grad_T[r] = -dot(whole, slope)
