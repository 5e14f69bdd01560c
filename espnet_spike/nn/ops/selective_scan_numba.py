"""The selective scan for CPUs, compiled by numba; ``selective_scan_cpu`` is the way in.

Channels lie last, so that one vector instruction serves neighbouring channels, and a block of at
most ``WIDTH`` of them is worked on at a time: its state stays in the first-level cache and nothing
of size (B, D, L, N) is ever stored. The backward pass walks the chunks from the last to the first,
runs each again from its stored first state into a scratch buffer, then steps back through it.

Arrays: u, delta, y and their gradients ``(B, L, D)``; A ``(N, D)``; B, C ``(B, L, N)``; D
``(D,)``; states ``(B, chunks + 1, N, D)``, the state before each chunk and after the last frame;
lengths ``(B,)``. A task is one utterance and one block of channels; a call works on a range of
tasks. Tasks write to places of their own, and sums inside a task run in a fixed order, so results
repeat bit for bit however the tasks are shared out among threads.
"""

import numpy as np

from espnet_spike.nn.ops.numba_jit import dot, exp, jit

WIDTH = 128  # most channels in a block
LANES = 16  # a block is padded to a multiple of this, one AVX-512 vector of float32


@jit(fastmath={"contract"})
def _load(block, rows, d0, d1):  # noqa: ANN001
    """Copy the channels d0..d1 of ``rows`` ``(N, D)`` into ``block`` ``(N, width)``, pad with 0."""
    for n in range(rows.shape[0]):
        row = rows[n, d0:d1]
        for j in range(row.shape[0]):
            block[n, j] = row[j]
        for j in range(row.shape[0], block.shape[1]):
            block[n, j] = 0


@jit(fastmath={"contract"})
def _store(block, rows, d0, d1):  # noqa: ANN001
    """Copy ``block`` ``(N, width)`` into the channels d0..d1 of ``rows`` ``(N, D)``."""
    for n in range(rows.shape[0]):
        row = rows[n, d0:d1]
        for j in range(row.shape[0]):
            row[j] = block[n, j]


@jit(fastmath={"contract"})
def forward(u, delta, A, B, C, D, lengths, y, states, chunk, width, first, last):  # noqa: ANN001, ANN201
    """Run the tasks first..last; write ``y`` and ``states``, whose first entry is read."""
    dims, blocks = u.shape[2], (u.shape[2] + width - 1) // width
    h, a = np.zeros((A.shape[0], width), u.dtype), np.zeros((A.shape[0], width), u.dtype)
    dt, x, out = np.zeros(width, u.dtype), np.zeros(width, u.dtype), np.zeros(width, u.dtype)
    for task in range(first, last):
        b, d0 = task // blocks, task % blocks * width
        d1 = min(d0 + width, dims)
        skip = D[d0:d1]
        _load(a, A, d0, d1)
        _load(h, states[b, 0], d0, d1)
        for t in range(lengths[b]):
            if t % chunk == 0:
                _store(h, states[b, t // chunk], d0, d1)
            u_t, delta_t, y_t = u[b, t, d0:d1], delta[b, t, d0:d1], y[b, t, d0:d1]
            for j in range(d1 - d0):
                dt[j] = delta_t[j]
                x[j] = delta_t[j] * u_t[j]
                out[j] = skip[j] * u_t[j]
            for n in range(A.shape[0]):
                b_t, c_t, h_n, a_n = B[b, t, n], C[b, t, n], h[n], a[n]
                for j in range(width):
                    h_t = exp(dt[j] * a_n[j]) * h_n[j] + x[j] * b_t
                    h_n[j] = h_t
                    out[j] += c_t * h_t
            for j in range(d1 - d0):
                y_t[j] = out[j]
        for t in range(lengths[b], u.shape[1]):
            y_t = y[b, t, d0:d1]
            for j in range(d1 - d0):
                y_t[j] = 0
        _store(h, states[b, states.shape[1] - 1], d0, d1)


@jit(fastmath={"contract"})
def backward(  # noqa: ANN201
    u, delta, A, B, C, D, lengths, states, grad_y, grad_state,  # noqa: ANN001
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, chunk, width, first, last,  # noqa: ANN001
):  # fmt: skip
    """Run the tasks first..last; write the gradients.

    Sums over blocks of channels and over utterances are left to the caller: grad_A ``(B, N, D)``,
    grad_D ``(B, D)``, grad_B and grad_C ``(blocks, B, L, N)``, zeros at first. ``grad_state``
    ``(B, N, D)`` comes in as the gradient of the last state and leaves as that of the first. With
    g_t the gradient of h_t:

        g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1}
        dB_t = sum_d g_t delta_t u_t             dC_t = sum_d dy_t h_t
        d(delta_t A) = g_t exp(delta_t A) h_{t-1}
    """
    dims, blocks = u.shape[2], (u.shape[2] + width - 1) // width
    N, zero = A.shape[0], u.dtype.type(0)
    h, e = np.zeros((chunk + 1, N, width), u.dtype), np.zeros((chunk, N, width), u.dtype)
    a, da, g = np.zeros((N, width), u.dtype), np.zeros((N, width), u.dtype), np.zeros_like(h[0])
    dt, x, dy = np.zeros(width, u.dtype), np.zeros(width, u.dtype), np.zeros(width, u.dtype)
    g_t, d_dt, dx = np.zeros(width, u.dtype), np.zeros(width, u.dtype), np.zeros(width, u.dtype)
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        d0 = block * width
        d1 = min(d0 + width, dims)
        skip, d_skip = D[d0:d1], grad_D[b, d0:d1]
        _load(a, A, d0, d1)
        _load(g, grad_state[b], d0, d1)
        for j in range(width):  # the padding of a narrower block has to stay out of the sums
            dt[j] = x[j] = dy[j] = zero
        for n in range(N):
            for j in range(width):
                da[n, j] = zero
        for t in range(lengths[b], u.shape[1]):
            du_t, ddelta_t = grad_u[b, t, d0:d1], grad_delta[b, t, d0:d1]
            for j in range(d1 - d0):
                du_t[j] = ddelta_t[j] = zero
        for c in range((lengths[b] - 1) // chunk, -1, -1):
            t0, t1 = c * chunk, min(lengths[b], (c + 1) * chunk)
            _load(h[0], states[b, c], d0, d1)
            for t in range(t0, t1):
                u_t, delta_t = u[b, t, d0:d1], delta[b, t, d0:d1]
                for j in range(d1 - d0):
                    dt[j] = delta_t[j]
                    x[j] = delta_t[j] * u_t[j]
                for n in range(N):
                    b_t, a_n, e_n = B[b, t, n], a[n], e[t - t0, n]
                    h_old, h_new = h[t - t0, n], h[t - t0 + 1, n]
                    for j in range(width):
                        e_n[j] = exp(dt[j] * a_n[j])
                        h_new[j] = e_n[j] * h_old[j] + x[j] * b_t
            for t in range(t1 - 1, t0 - 1, -1):
                u_t, delta_t, dy_t = u[b, t, d0:d1], delta[b, t, d0:d1], grad_y[b, t, d0:d1]
                for j in range(d1 - d0):
                    dt[j] = delta_t[j]
                    x[j] = delta_t[j] * u_t[j]
                    dy[j] = dy_t[j]
                    d_skip[j] += dy_t[j] * u_t[j]
                for j in range(width):
                    d_dt[j] = zero
                    dx[j] = zero
                for n in range(N):
                    b_t, c_t, a_n, e_n = B[b, t, n], C[b, t, n], a[n], e[t - t0, n]
                    h_old, g_n, da_n = h[t - t0, n], g[n], da[n]
                    grad_C[block, b, t, n] = dot(dy, h[t - t0 + 1, n])
                    for j in range(width):
                        g_t[j] = g_n[j] + c_t * dy[j]
                    grad_B[block, b, t, n] = dot(g_t, x)
                    for j in range(width):
                        dx[j] += g_t[j] * b_t
                        g_j = g_t[j] * e_n[j]
                        g_n[j] = g_j
                        g_j = g_j * h_old[j]
                        da_n[j] += g_j * dt[j]
                        d_dt[j] += g_j * a_n[j]
                du_t, ddelta_t = grad_u[b, t, d0:d1], grad_delta[b, t, d0:d1]
                for j in range(d1 - d0):
                    du_t[j] = dx[j] * dt[j] + skip[j] * dy[j]
                    ddelta_t[j] = d_dt[j] + dx[j] * u_t[j]
        _store(da, grad_A[b], d0, d1)
        _store(g, grad_state[b], d0, d1)
