"""The selective scan: states in registers, forward and backward.

``ops.selective_scan`` says what is computed. A program of the forward pass holds all states of some
channels of an utterance and walks through its frames. For the backward pass it leaves the states
before every chunk of ``CHUNK`` frames but the first. That pass has two kernels. ``walk_back`` goes
from the last frame to the first, again with all states in registers, and leaves the gradient of the
state at the end of every chunk. Then each chunk stands alone: ``chunk_gradients`` runs it again,
one state of some channels at a time, by a parallel scan over its frames forwards and another one
backwards, so that states of all its frames are in registers at once.

Beyond inputs and outputs this takes ``B D N (2 chunks - 1)`` floats for the states, their gradients
and those of A, and ``2 splits B N L`` for those of B and C, a split having ``SPLIT`` channels: for
more than 300 frames and whole splits less than ``B D N L / 64``. Every sum has its one place and
order, so runs are equal to the bit.

Tensors may be views. Inputs are in half or single precision, all sums and states fp32.
"""

import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch
from espnet_spike.nn.ops.triton.launch import constexpr

CHUNK = 256  # frames between stored states
SPLIT = 256  # channels that share a place for the gradients of B and C
STATES = 1024  # that a program of 4 warps holds while it walks
TILE = 512  # frames times channels of a program on a chunk
MOST_STATES = 256  # N
AHEAD = tl.constexpr(4)  # frames loaded at once
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def follow(a, x, later_a, later_x):
    """Return the pair (a, x), h -> a h + x, of one stretch of frames and then a later one."""
    return a * later_a, later_a * x + later_x


@triton.jit
def walk(
    u, delta, A, B, C, D, lengths, first, y, last, states,
    u_b, u_d, u_t, delta_b, delta_d, delta_t, B_b, B_n, B_t, C_b, C_n, C_t,
    L: constexpr, DIM: tl.constexpr, N: tl.constexpr, STARTED: tl.constexpr, KEEP: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write y ``(B, L, D)``, the last state, with ``KEEP`` those before chunks ``(B, c, D, N)``."""
    b, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    d, n = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_N)
    inside_d, inside_n = d < DIM, n < N
    inside = inside_d[:, None] & inside_n[None]
    place = d[:, None] * N + n[None]
    rate = tl.load(A + place, mask=inside, other=0.0) * LOG2_E
    skip = tl.load(D + d, mask=inside_d, other=0.0)
    length = tl.load(lengths + b)
    if STARTED:
        h = tl.load(first + b * DIM * N + place, mask=inside, other=0.0)
    else:
        h = tl.zeros((BLOCK, BLOCK_N), tl.float32)
    kept = (L + CHUNK - 1) // CHUNK - 1
    u += b * u_b + d * u_d
    delta += b * delta_b + d * delta_d
    B += b * B_b + n * B_n
    C += b * C_b + n * C_n
    for start in range(0, L, AHEAD):
        if KEEP:
            at = (b * kept + (start // CHUNK - 1)) * DIM * N
            tl.store(states + at + place, h, mask=inside & (start % CHUNK == 0) & (start > 0))
        us, deltas, Bs, Cs = (), (), (), ()
        for k in tl.static_range(AHEAD):
            t = start + k
            of_d, of_n = inside_d & (t < length), inside_n & (t < length)
            us += (tl.load(u + t * u_t, mask=of_d, other=0.0).to(tl.float32),)
            deltas += (tl.load(delta + t * delta_t, mask=of_d, other=0.0).to(tl.float32),)
            Bs += (tl.load(B + t * B_t, mask=of_n, other=0.0).to(tl.float32),)
            Cs += (tl.load(C + t * C_t, mask=of_n, other=0.0).to(tl.float32),)
        for k in tl.static_range(AHEAD):
            x = deltas[k] * us[k]
            h = tl.exp2(deltas[k][:, None] * rate) * h + x[:, None] * Bs[k][None]
            out = tl.sum(h * Cs[k][None], 1) + skip * us[k]
            out = tl.where(start + k < length, out, 0.0)
            tl.store(y + (b * L + start + k) * DIM + d, out, mask=inside_d & (start + k < L))
    tl.store(last + b * DIM * N + place, h, mask=inside)


@triton.jit
def walk_back(
    delta, A, C, lengths, grad_y, grad_last, ends, grad_first,
    delta_b, delta_d, delta_t, C_b, C_n, C_t, y_b, y_d, y_t,
    L: constexpr, DIM: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the first state, and of that at each chunk's end ``(B, c, D, N)``.

    With p_t the gradient of h_{t-1}: p_t = exp(delta_t A) (C_t dy_t + p_{t+1}).
    """
    b, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    d, n = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_N)
    inside_d, inside_n = d < DIM, n < N
    inside = inside_d[:, None] & inside_n[None]
    place = d[:, None] * N + n[None]
    rate = tl.load(A + place, mask=inside, other=0.0) * LOG2_E
    length = tl.load(lengths + b)
    p = tl.load(grad_last + b * DIM * N + place, mask=inside, other=0.0)
    chunks = (L + CHUNK - 1) // CHUNK
    tl.store(ends + (b * chunks + chunks - 1) * DIM * N + place, p, mask=inside)
    delta += b * delta_b + d * delta_d
    C += b * C_b + n * C_n
    grad_y += b * y_b + d * y_d
    for back in range(0, L, AHEAD):
        start = (L + AHEAD - 1) // AHEAD * AHEAD - back - AHEAD
        deltas, dys, Cs = (), (), ()
        for k in tl.static_range(AHEAD):
            t = start + k
            of_d, of_n = inside_d & (t < length), inside_n & (t < length)
            deltas += (tl.load(delta + t * delta_t, mask=of_d, other=0.0).to(tl.float32),)
            dys += (tl.load(grad_y + t * y_t, mask=of_d, other=0.0).to(tl.float32),)
            Cs += (tl.load(C + t * C_t, mask=of_n, other=0.0).to(tl.float32),)
        for k in tl.static_range(AHEAD - 1, -1, -1):
            p = tl.exp2(deltas[k][:, None] * rate) * (Cs[k][None] * dys[k][:, None] + p)
        at = (b * chunks + (start // CHUNK - 1)) * DIM * N
        tl.store(ends + at + place, p, mask=inside & (start % CHUNK == 0) & (start > 0))
    tl.store(grad_first + b * DIM * N + place, p, mask=inside)


@triton.jit
def chunk_gradients(
    u, delta, A, B, C, D, lengths, first, states, ends, grad_y,
    grad_u, grad_delta, grad_B, grad_C, grad_D,
    u_b, u_d, u_t, delta_b, delta_d, delta_t, B_b, B_n, B_t, C_b, C_n, C_t, y_b, y_d, y_t,
    L, DIM: tl.constexpr, N: tl.constexpr, STARTED: tl.constexpr, CHUNK: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a chunk and of the channels of a split.

    Those of u and delta ``(B, L, D)``; of B and C ``(2, splits, B, N, L)`` in two pointers; of D
    ``(B, c, D)``; of A in place of ``ends``.
    """
    chunk, split = tl.program_id(0), tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    chunks = tl.num_programs(0)
    t = chunk * CHUNK + tl.arange(0, FRAMES)
    length = tl.load(lengths + b)
    valid = t < length
    is_first, is_last = tl.arange(0, FRAMES) == 0, tl.arange(0, FRAMES) == FRAMES - 1
    # no frame follows inside of the chunk: its state's gradient comes from ``ends``
    follows = (t + 1 < length) & (tl.arange(0, FRAMES) < FRAMES - 1)
    sums = ((split * tl.num_programs(2) + b) * N) * L + t
    for step in range(SPLIT // BLOCK):
        d = split * SPLIT + step * BLOCK + tl.arange(0, BLOCK)
        inside_d = d < DIM
        inside = inside_d[:, None] & valid[None]
        of_u = u + b * u_b + d[:, None] * u_d + t[None] * u_t
        of_delta = delta + b * delta_b + d[:, None] * delta_d + t[None] * delta_t
        of_y = grad_y + b * y_b + d[:, None] * y_d + t[None] * y_t
        us = tl.load(of_u, mask=inside, other=0.0).to(tl.float32)
        deltas = tl.load(of_delta, mask=inside, other=0.0).to(tl.float32)
        dys = tl.load(of_y, mask=inside, other=0.0).to(tl.float32)
        next_delta = inside_d[:, None] & follows[None]
        later = tl.load(of_delta + delta_t, mask=next_delta, other=0.0).to(tl.float32)
        skip = tl.load(D + d, mask=inside_d, other=0.0)
        tl.store(grad_D + (b * chunks + chunk) * DIM + d, tl.sum(dys * us, 1), mask=inside_d)
        x = deltas * us
        dx = tl.zeros((BLOCK, FRAMES), tl.float32)
        d_delta = tl.zeros((BLOCK, FRAMES), tl.float32)
        for n in range(N):
            a = tl.load(A + d * N + n, mask=inside_d, other=0.0)
            rate = a * LOG2_E
            of_state = (b * (chunks - 1) + (chunk - 1)) * DIM * N + d * N + n
            before = tl.load(states + of_state, mask=inside_d & (chunk > 0), other=0.0)
            if STARTED:
                of_first = inside_d & (chunk == 0)
                before += tl.load(first + (b * DIM + d) * N + n, mask=of_first, other=0.0)
            of_end = ends + (b * chunks + chunk) * DIM * N + d * N + n
            end = tl.load(of_end, mask=inside_d, other=0.0)
            Bs = tl.load(B + b * B_b + n * B_n + t * B_t, mask=valid, other=0.0).to(tl.float32)
            Cs = tl.load(C + b * C_b + n * C_n + t * C_t, mask=valid, other=0.0).to(tl.float32)
            decay = tl.exp2(deltas * rate[:, None])
            into = x * Bs[None]
            carried = tl.where(is_first[None], decay * before[:, None], 0.0)
            _, h = tl.associative_scan((decay, into + carried), 1, follow)
            decay = tl.exp2(later * rate[:, None])
            g = dys * Cs[None] + tl.where(is_last[None], end[:, None], 0.0)
            _, g = tl.associative_scan((decay, g), 1, follow, reverse=True)
            # sums over channels: added to those of the channels before
            seen = valid & (step > 0)
            dB = tl.load(grad_B + sums + n * L, mask=seen, other=0.0) + tl.sum(g * x, 0)
            dC = tl.load(grad_C + sums + n * L, mask=seen, other=0.0) + tl.sum(dys * h, 0)
            tl.store(grad_B + sums + n * L, tl.where(valid, dB, 0.0), mask=t < L)
            tl.store(grad_C + sums + n * L, tl.where(valid, dC, 0.0), mask=t < L)
            dx += g * Bs[None]
            pull = g * (h - into)  # g_t exp(delta_t A) h_{t-1}
            d_delta += pull * a[:, None]
            tl.store(of_end, tl.sum(pull * deltas, 1), mask=inside_d)
        written = inside_d[:, None] & (t < L)[None]
        at = (b * L + t[None]) * DIM + d[:, None]
        du = tl.where(inside, dx * deltas + skip[:, None] * dys, 0.0)
        tl.store(grad_u + at, du, mask=written)
        tl.store(grad_delta + at, tl.where(inside, dx * us + d_delta, 0.0), mask=written)
        tl.debug_barrier()  # the next channels' threads see the sums of these


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Tensor,
    state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan; shapes as of ``ops.selective_scan``, no axis empty.

    Args:
        u, delta: ``(B, D, L)``.
        A: ``(D, N)``, N at most ``MOST_STATES``.
        B, C: ``(B, N, L)``.
        D: ``(D,)``.
        lengths: ``(B,)``, int64.
        state: before the first frame ``(B, D, N)``; None for zeros.
        keep: whether a backward pass follows.

    Returns:
        y ``(B, D, L)`` typed as ``u``, stored as ``(B, L, D)``; the last state ``(B, D, N)``; the
        states before all chunks but the first ``(B, chunks - 1, D, N)``, empty without ``keep``.
    """
    batch, dim, length = u.shape
    N = A.shape[1]
    A, D, first = _single(A), _single(D), None if state is None else _single(state)
    y, last = u.new_empty(batch, length, dim), A.new_empty(batch, dim, N)
    kept = launch.blocks(length, CHUNK) - 1 if keep else 0
    states = A.new_empty(batch, kept, dim, N)
    block, block_n = _sizes(dim, N)
    walk[(launch.blocks(dim, block), batch)](
        u, delta, A, B, C, D, lengths, last if first is None else first, y, last,
        states if kept else last, *u.stride(), *delta.stride(), *B.stride(), *C.stride(),
        length, dim, N, first is not None, kept > 0, CHUNK, block, block_n, num_warps=4,
    )  # fmt: skip
    return y.transpose(1, 2), last, states


def backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Tensor,
    state: Tensor | None,
    states: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of u, delta, A, B, C, D and of the first state.

    Args:
        states: of the forward pass.
        grad_y: ``(B, D, L)``.
        grad_last: ``(B, D, N)``.
        u, delta, A, B, C, D, lengths, state: as of ``forward``.
    """
    batch, dim, length = u.shape
    N = A.shape[1]
    rates, skip, first = _single(A), _single(D), None if state is None else _single(state)
    chunks, splits = launch.blocks(length, CHUNK), launch.blocks(dim, SPLIT)
    ends, grad_first = rates.new_empty(batch, chunks, dim, N), rates.new_empty(batch, dim, N)
    block, block_n = _sizes(dim, N)
    walk_back[(launch.blocks(dim, block), batch)](
        delta, rates, C, lengths, grad_y, _single(grad_last), ends, grad_first,
        *delta.stride(), *C.stride(), *grad_y.stride(), length, dim, N, CHUNK, block, block_n,
        num_warps=4,
    )  # fmt: skip
    grad_u, grad_delta = (x.new_empty(batch, length, dim) for x in (u, delta))
    grad_B, grad_C = rates.new_empty(2, splits, batch, N, length)
    grad_D = rates.new_empty(batch, chunks, dim)
    frames = launch.power_of_2(length, CHUNK)
    block = max(1, min(TILE // frames, launch.power_of_2(dim, SPLIT)))
    chunk_gradients[(chunks, splits, batch)](
        u, delta, rates, B, C, skip, lengths, ends if first is None else first,
        states if states.numel() else ends, ends, grad_y, grad_u, grad_delta, grad_B, grad_C,
        grad_D, *u.stride(), *delta.stride(), *B.stride(), *C.stride(), *grad_y.stride(),
        length, dim, N, first is not None, CHUNK, min(SPLIT, launch.power_of_2(dim, SPLIT)),
        block, frames, num_warps=4,
    )  # fmt: skip
    return (
        grad_u.transpose(1, 2),
        grad_delta.transpose(1, 2),
        ends.sum((0, 1)).to(A.dtype),
        grad_B.sum(0).to(B.dtype),
        grad_C.sum(0).to(C.dtype),
        grad_D.sum((0, 1)).to(D.dtype),
        grad_first,
    )


def _single(x: Tensor) -> Tensor:
    return x.float().contiguous()


def _sizes(dim: int, N: int) -> tuple[int, int]:
    """Return channels and states of a program that walks."""
    block_n = launch.power_of_2(N, MOST_STATES)
    # eight channels at least, so that a row of them is a whole sector of memory
    return min(max(8, STATES // block_n), launch.power_of_2(dim, STATES)), block_n
