"""Batch norm over valid rows for CPUs, compiled by numba; ``batch_norm`` is the way in.

Rows ``(R, C)``, ``valid`` ``(R,)``. Sums over rows are kept in float64, in a fixed order.
"""

import numpy as np

from espnet_spike.nn.ops.numba_jit import jit


@jit()
def forward(x, valid, weight, bias, eps, y, mean, var, rstd):  # noqa: ANN001, ANN201
    """Write y, mean, biased variance and 1 / std of the valid rows; return their number."""
    kind = x.dtype.type
    channels = x.shape[1]
    total = np.zeros(channels)
    count = 0
    for r in range(x.shape[0]):
        if valid[r]:
            count += 1
            x_r = x[r]
            for c in range(channels):
                total[c] += x_r[c]
    n = max(count, 1)
    for c in range(channels):
        mean[c] = total[c] / n
        total[c] = 0.0
    for r in range(x.shape[0]):
        if valid[r]:
            x_r = x[r]
            for c in range(channels):
                away = x_r[c] - mean[c]
                total[c] += away * away
    for c in range(channels):
        var[c] = total[c] / n
        rstd[c] = kind(1) / np.sqrt(var[c] + kind(eps))
    for r in range(x.shape[0]):
        x_r, y_r = x[r], y[r]
        for c in range(channels):
            y_r[c] = (x_r[c] - mean[c]) * rstd[c] * weight[c] + bias[c]
    return n


@jit()
def backward(x, valid, weight, mean, rstd, count, grad, grad_x, grad_weight, grad_bias):  # noqa: ANN001, ANN201
    """Write the gradients; see ``batch_norm._BatchNorm``."""
    channels = x.shape[1]
    sum_g, sum_gx = np.zeros(channels), np.zeros(channels)
    for r in range(x.shape[0]):
        x_r, g_r = x[r], grad[r]
        for c in range(channels):
            sum_g[c] += g_r[c]
            sum_gx[c] += g_r[c] * ((x_r[c] - mean[c]) * rstd[c])
    for c in range(channels):
        grad_bias[c], grad_weight[c] = sum_g[c], sum_gx[c]
    shared_g, shared_gx = grad_bias / count, grad_weight / count
    scale = weight * rstd
    for r in range(x.shape[0]):
        x_r, g_r, out = x[r], grad[r], grad_x[r]
        if valid[r]:
            for c in range(channels):
                normed = (x_r[c] - mean[c]) * rstd[c]
                out[c] = (g_r[c] - shared_g[c] - normed * shared_gx[c]) * scale[c]
        else:
            for c in range(channels):
                out[c] = g_r[c] * scale[c]
