"""The LIF recurrence over frames for CPUs, compiled by numba; ``frame_lif`` is the way in.

Arrays are ``(B, L, C)``, the membrane potential ``(B, C)``. Products and sums are not fused, so
the potentials are bit for bit those of the torch loop.
"""

import numpy as np

from espnet_spike.selective_scan_numba import jit


@jit()
def forward(  # noqa: ANN201
    x, lengths, v, h, spikes, counts, tau, v_th, v_reset, soft, decay_input  # noqa: ANN001
):  # fmt: skip
    """Write potentials before the reset, spikes and their number in each frame ``(B, L)``.

    ``v`` goes from the first to the last potential.
    """
    kind = x.dtype.type
    tau, v_th, v_reset = kind(tau), kind(v_th), kind(v_reset)
    one, zero = kind(1), kind(0)
    for b in range(x.shape[0]):
        v_b = v[b]
        for t in range(lengths[b]):
            x_t, h_t, s_t = x[b, t], h[b, t], spikes[b, t]
            for c in range(x.shape[2]):
                if decay_input:
                    potential = v_b[c] + (x_t[c] - (v_b[c] - v_reset)) / tau
                else:
                    potential = v_b[c] - (v_b[c] - v_reset) / tau + x_t[c]
                spike = one if potential - v_th >= zero else zero
                h_t[c] = potential
                s_t[c] = spike
                if soft:
                    v_b[c] = potential - v_th * spike
                else:
                    v_b[c] = potential * (one - spike) + v_reset * spike
            counts[b, t] = _sum(s_t)


@jit(fastmath={"contract", "reassoc"})
def _sum(x):  # noqa: ANN001
    total = x.dtype.type(0)
    for value in x:
        total += value
    return total


@jit()
def backward(  # noqa: ANN201
    grad, grad_counts, grad_v, slope, h, spikes, lengths, grad_x, atan,  # noqa: ANN001
    tau, v_th, v_reset, soft, decay_input, detach,  # noqa: ANN001
):  # fmt: skip
    """Write the gradient of the input; ``grad_v`` goes from the last potential to the first.

    ``slope`` is the surrogate derivative of the spike by the potential; if ``atan``, the parameter
    of that surrogate, is not 0, it is computed here and ``slope`` not read.
    """
    kind = grad.dtype.type
    tau, v_th, v_reset, one = kind(tau), kind(v_th), kind(v_reset), kind(1)
    height, width = kind(atan / 2), kind(np.pi / 2 * atan)
    keep = one - one / tau
    into = one / tau if decay_input else one
    row = np.empty(grad.shape[2], grad.dtype)
    for b in range(grad.shape[0]):
        g_v = grad_v[b]
        for t in range(lengths[b] - 1, -1, -1):
            g_t, h_t, s_t, g_x = grad[b, t], h[b, t], spikes[b, t], grad_x[b, t]
            g_count = grad_counts[b, t]
            if atan:
                for c in range(grad.shape[2]):
                    away = width * (h_t[c] - v_th)
                    row[c] = height / (one + away * away)
                slope_t = row
            else:
                slope_t = slope[b, t]
            for c in range(grad.shape[2]):
                g_s = g_t[c] + g_count
                if not detach:
                    g_s -= g_v[c] * (v_th if soft else h_t[c] - v_reset)
                g_h = g_s * slope_t[c] + g_v[c] * (one if soft else one - s_t[c])
                g_x[c] = g_h * into
                g_v[c] = g_h * keep
