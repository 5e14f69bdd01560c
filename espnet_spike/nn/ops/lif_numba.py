"""LIF over time steps and over frames for CPUs, compiled by numba; ``lif`` is the way in.

Time steps come first in ``(T, R, K)``, R frames of K activations; over frames arrays are
``(B, L, C)`` and the membrane potential ``(B, C)``. ``step`` and ``step_backward`` work on one row
at one time. Products and sums are not fused, so the potentials are bit for bit those of the torch
loop.
"""

import numpy as np

from espnet_spike.nn.ops.numba_jit import jit


@jit(inline="always")
def step(x, v, h, spikes, tau, v_th, v_reset, soft, decay_input):  # noqa: ANN001, ANN201
    """Write potentials before the reset and spikes; ``v`` goes on to after the reset."""
    kind = x.dtype.type
    one, zero = kind(1), kind(0)
    for c in range(x.shape[0]):
        if decay_input:
            potential = v[c] + (x[c] - (v[c] - v_reset)) / tau
        else:
            potential = v[c] - (v[c] - v_reset) / tau + x[c]
        spike = one if potential - v_th >= zero else zero
        h[c] = potential
        spikes[c] = spike
        if soft:
            v[c] = potential - v_th * spike
        else:
            v[c] = potential * (one - spike) + v_reset * spike


@jit(fastmath={"contract", "reassoc"})
def total(x):  # noqa: ANN001, ANN201
    """Return the sum of a row."""
    result = x.dtype.type(0)
    for value in x:
        result += value
    return result


@jit(inline="always")
def atan_slope(h, v_th, atan, slope):  # noqa: ANN001, ANN201
    """Write the derivative of ``surrogate.atan`` with the parameter ``atan``."""
    kind = h.dtype.type
    height, width, one = kind(atan / 2), kind(np.pi / 2 * atan), kind(1)
    for c in range(h.shape[0]):
        away = width * (h[c] - v_th)
        slope[c] = height / (one + away * away)


@jit(inline="always")
def step_backward(  # noqa: ANN201
    grad, grad_count, grad_v, slope, h, grad_x, tau, v_th, v_reset, soft, decay_input, detach  # noqa: ANN001
):  # fmt: skip
    """Write the gradient of the input; ``grad_v`` goes back to before the step.

    ``grad`` is that of the spikes, ``grad_count`` that of their sum, ``slope`` the surrogate
    derivative of a spike by its potential.
    """
    one, zero = grad.dtype.type(1), grad.dtype.type(0)
    keep = one - one / tau
    into = one / tau if decay_input else one
    for c in range(grad.shape[0]):
        g_s = grad[c] + grad_count
        if not detach:
            g_s -= grad_v[c] * (v_th if soft else h[c] - v_reset)
        spike = one if h[c] - v_th >= zero else zero
        g_h = g_s * slope[c] + grad_v[c] * (one if soft else one - spike)
        grad_x[c] = g_h * into
        grad_v[c] = g_h * keep


@jit()
def forward_steps(x, h, spikes, counts, tau, v_th, v_reset, soft, decay_input):  # noqa: ANN001, ANN201
    """Write potentials before the reset, spikes and their number in each frame ``(T, R)``."""
    kind = x.dtype.type
    tau, v_th, v_reset = kind(tau), kind(v_th), kind(v_reset)
    v = np.empty(x.shape[2], x.dtype)
    for r in range(x.shape[1]):
        v[:] = v_reset
        for t in range(x.shape[0]):
            s_t = spikes[t, r]
            step(x[t, r], v, h[t, r], s_t, tau, v_th, v_reset, soft, decay_input)
            counts[t, r] = total(s_t)


@jit()
def backward_steps(  # noqa: ANN201
    grad, slope, h, grad_x, atan, tau, v_th, v_reset, soft, decay_input, detach  # noqa: ANN001
):  # fmt: skip
    """Write the gradient of the input.

    ``slope`` is the surrogate derivative of the spikes by the potentials; if ``atan``, the
    parameter of that surrogate, is not 0, it is computed here and ``slope`` not read.
    """
    kind = grad.dtype.type
    tau, v_th, v_reset, none = kind(tau), kind(v_th), kind(v_reset), kind(0)
    row, grad_v = np.empty((2, grad.shape[2]), grad.dtype)
    for r in range(grad.shape[1]):
        grad_v[:] = none
        for t in range(grad.shape[0] - 1, -1, -1):
            h_t, slope_t = h[t, r], slope[t, r]
            if atan:
                atan_slope(h_t, v_th, atan, row)
                slope_t = row
            step_backward(
                grad[t, r], none, grad_v, slope_t, h_t, grad_x[t, r],
                tau, v_th, v_reset, soft, decay_input, detach,
            )  # fmt: skip


@jit()
def forward_frames(  # noqa: ANN201
    x, lengths, v, h, spikes, counts, tau, v_th, v_reset, soft, decay_input  # noqa: ANN001
):  # fmt: skip
    """Write potentials before the reset, spikes and their number in each frame ``(B, L)``.

    Padding has no spikes, and its potentials are not written. ``v`` goes from first to last.
    """
    kind = x.dtype.type
    tau, v_th, v_reset = kind(tau), kind(v_th), kind(v_reset)
    for b in range(x.shape[0]):
        v_b = v[b]
        for t in range(lengths[b]):
            s_t = spikes[b, t]
            step(x[b, t], v_b, h[b, t], s_t, tau, v_th, v_reset, soft, decay_input)
            counts[b, t] = total(s_t)
        spikes[b, lengths[b] :] = 0
        counts[b, lengths[b] :] = 0


@jit()
def backward_frames(  # noqa: ANN201
    grad, grad_counts, grad_v, slope, h, lengths, grad_x, atan,  # noqa: ANN001
    tau, v_th, v_reset, soft, decay_input, detach,  # noqa: ANN001
):  # fmt: skip
    """Write the gradient of the input, 0 on padding; ``grad_v`` goes from last to first potential.

    ``slope`` and ``atan`` are as in ``backward_steps``.
    """
    kind = grad.dtype.type
    tau, v_th, v_reset = kind(tau), kind(v_th), kind(v_reset)
    row = np.empty(grad.shape[2], grad.dtype)
    for b in range(grad.shape[0]):
        g_v = grad_v[b]
        for t in range(lengths[b] - 1, -1, -1):
            h_t, slope_t = h[b, t], slope[b, t]
            if atan:
                atan_slope(h_t, v_th, atan, row)
                slope_t = row
            step_backward(
                grad[b, t], grad_counts[b, t], g_v, slope_t, h_t, grad_x[b, t],
                tau, v_th, v_reset, soft, decay_input, detach,
            )  # fmt: skip
        grad_x[b, lengths[b] :] = 0


@jit(fastmath={"contract", "reassoc"})
def moved(grad_x, h, before):  # noqa: ANN001, ANN201
    """Return the sum of ``grad_x (h - before)`` over a row, in float64."""
    result = 0.0
    for c in range(h.shape[0]):
        result += grad_x[c] * (h[c] - before[c])
    return result


@jit()
def rate_gradient(grad_x, h, first, lengths, tau, v_th, v_reset, soft, decay_input):  # noqa: ANN001, ANN201
    """Return the gradient of 1 / tau over frames, from that of the input, a float.

    With H = V + (X - (V - v_reset)) / tau it is X's times tau^2 (H - V), V before the frame; with
    H = V - (V - v_reset) / tau + X it is X's times v_reset - V. ``first`` ``(B, C)`` are the
    potentials before the first frames.
    """
    kind = h.dtype.type
    zero, v_th, v_reset = kind(0), kind(v_th), kind(v_reset)
    before, rest = np.empty((2, h.shape[2]), h.dtype)
    rest[:] = v_reset
    result = 0.0
    for b in range(h.shape[0]):
        before[:] = first[b]
        for t in range(lengths[b]):
            h_t = h[b, t]
            result += moved(grad_x[b, t], h_t if decay_input else rest, before)
            for c in range(h_t.shape[0]):
                fires = h_t[c] - v_th >= zero
                before[c] = (h_t[c] - v_th if soft else v_reset) if fires else h_t[c]
    return result * tau * tau if decay_input else result
