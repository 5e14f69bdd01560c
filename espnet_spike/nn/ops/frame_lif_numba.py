"""The LIF recurrence over frames for CPUs, compiled by numba; ``frame_lif`` is the way in.

Arrays are ``(B, L, C)``, the membrane potential ``(B, C)``.
"""

import numpy as np

from espnet_spike.nn.ops.lif_numba import atan_slope, step, step_backward, total
from espnet_spike.nn.ops.numba_jit import jit


@jit()
def forward(  # noqa: ANN201
    x, lengths, v, h, spikes, counts, tau, v_th, v_reset, soft, decay_input  # noqa: ANN001
):  # fmt: skip
    """Write potentials before the reset, spikes and their number in each frame ``(B, L)``.

    ``v`` goes from the first to the last potential.
    """
    kind = x.dtype.type
    tau, v_th, v_reset = kind(tau), kind(v_th), kind(v_reset)
    for b in range(x.shape[0]):
        v_b = v[b]
        for t in range(lengths[b]):
            s_t = spikes[b, t]
            step(x[b, t], v_b, h[b, t], s_t, tau, v_th, v_reset, soft, decay_input)
            counts[b, t] = total(s_t)


@jit()
def backward(  # noqa: ANN201
    grad, grad_counts, grad_v, slope, h, lengths, grad_x, atan,  # noqa: ANN001
    tau, v_th, v_reset, soft, decay_input, detach,  # noqa: ANN001
):  # fmt: skip
    """Write the gradient of the input; ``grad_v`` goes from the last potential to the first.

    ``slope`` and ``atan`` are as in ``lif_numba.backward``.
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
