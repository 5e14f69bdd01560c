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

Both directions of an utterance go in one launch: programs of the second half of the rows take the
second direction's tensors. Those are in its own order, the last valid frame first, as what made
them (a convolution, neurons) runs in that order; y and its gradient are in the utterance's, so
that nothing has to be turned round. Results are those of two launches, to the bit.

Tensors may be views. Inputs are in half or single precision, all sums and states fp32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch
from espnet_spike.nn.ops.triton.launch import constexpr

CHUNK = 256  # frames between stored states, whole steps of AHEAD
SPLIT = 256  # channels that share a place for the gradients of B and C
STATES = 1024  # that a program of 4 warps holds while it walks
# Frames times channels of a program on a chunk. B, C and their gradients are read and written once
# for all its channels, so many save traffic; of half precision they are converted in registers.
TILE, HALF_TILE = 2048, 1024
WARPS = 8  # of such a program
MOST_STATES = 256  # N
AHEAD = tl.constexpr(4)  # frames loaded at once
LOG2_E = tl.constexpr(1.4426950408889634)


class Direction(NamedTuple):
    """The inputs of a scan.

    Attributes:
        u, delta: ``(B, D, L)``.
        A: ``(D, N)``, N at most ``MOST_STATES``.
        B, C: ``(B, N, L)``.
        D: ``(D,)``.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


@triton.jit
def follow(a, x, later_a, later_x):
    """Return the pair (a, x), h -> a h + x, of one stretch of frames and then a later one."""
    return a * later_a, later_a * x + later_x


@triton.jit
def row_of(row, rows, BOTH: tl.constexpr):
    """Return the utterance of a row, and whether the row is of the second direction."""
    if BOTH:
        second = row >= rows // 2
        b = tl.where(second, row - rows // 2, row)
    else:
        second, b = row < 0, row
    return b, second


@triton.jit
def in_utterance(t, length, second, BOTH: tl.constexpr):
    """Return where a direction's frame t is in the utterance; padding stays where it is."""
    if BOTH:
        t = tl.where(second & (t < length), length.to(tl.int32) - 1 - t, t)
    return t


@triton.jit
def walk(
    u, delta, A, B, C, D, u_2, delta_2, A_2, B_2, C_2, D_2, lengths, first, y, last, states,
    u_b, u_d, u_t, delta_b, delta_d, delta_t, B_b, B_n, B_t, C_b, C_n, C_t,
    L: constexpr, DIM: tl.constexpr, N: tl.constexpr, STARTED: tl.constexpr, KEEP: tl.constexpr,
    BOTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write y ``(B, L, D)``, the last state, with ``KEEP`` those before chunks ``(B, c, D, N)``.

    With ``BOTH`` there are twice as many rows of results, those of the second direction last.
    """
    row, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    b, second = row_of(row, tl.num_programs(1), BOTH)
    if BOTH:
        u, delta, A = (
            tl.where(second, u_2, u),
            tl.where(second, delta_2, delta),
            tl.where(second, A_2, A),
        )
        B, C, D = tl.where(second, B_2, B), tl.where(second, C_2, C), tl.where(second, D_2, D)
    d, n = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_N)
    inside_d, inside_n = d < DIM, n < N
    inside = inside_d[:, None] & inside_n[None]
    place = d[:, None] * N + n[None]
    rate = tl.load(A + place, mask=inside, other=0.0) * LOG2_E
    skip = tl.load(D + d, mask=inside_d, other=0.0)
    length = tl.load(lengths + b)
    if STARTED:
        h = tl.load(first + row * DIM * N + place, mask=inside, other=0.0)
    else:
        h = tl.zeros((BLOCK, BLOCK_N), tl.float32)
    kept = (L + CHUNK - 1) // CHUNK - 1
    u += b * u_b + d * u_d
    delta += b * delta_b + d * delta_d
    B += b * B_b + n * B_n
    C += b * C_b + n * C_n
    y += row * L * DIM + d
    last += row * DIM * N
    for begin in range(0, L, CHUNK):
        for start in range(begin, min(begin + CHUNK, L), AHEAD):
            us, deltas, Bs, Cs = (), (), (), ()
            for k in tl.static_range(AHEAD):
                t = start + k
                of_d, of_n = inside_d & (t < length), inside_n & (t < length)
                us += (tl.load(u + t * u_t, mask=of_d, other=0.0).to(tl.float32),)
                deltas += (tl.load(delta + t * delta_t, mask=of_d, other=0.0).to(tl.float32),)
                Bs += (tl.load(B + t * B_t, mask=of_n, other=0.0).to(tl.float32),)
                Cs += (tl.load(C + t * C_t, mask=of_n, other=0.0).to(tl.float32),)
            for k in tl.static_range(AHEAD):
                t = start + k
                x = deltas[k] * us[k]
                h = tl.exp2(deltas[k][:, None] * rate) * h + x[:, None] * Bs[k][None]
                out = tl.sum(h * Cs[k][None], 1) + skip * us[k]
                out = tl.where(t < length, out, 0.0)
                to = in_utterance(t, length, second, BOTH)
                tl.store(y + to * DIM, out, mask=inside_d & (t < L))
        if KEEP:  # before the next chunk, or the last state of all
            of_chunk = states + (row * kept + begin // CHUNK) * DIM * N
            tl.store(tl.where(begin + CHUNK < L, of_chunk, last) + place, h, mask=inside)
    if not KEEP:
        tl.store(last + place, h, mask=inside)


@triton.jit
def walk_back(
    delta, A, C, grad_y, delta_2, A_2, C_2, grad_y_2, lengths, grad_last, ends, grad_first,
    delta_b, delta_d, delta_t, C_b, C_n, C_t, y_b, y_d, y_t,
    L: constexpr, DIM: tl.constexpr, N: tl.constexpr, BOTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the first state, and of that at each chunk's end ``(B, c, D, N)``.

    With p_t the gradient of h_{t-1}: p_t = exp(delta_t A) (C_t dy_t + p_{t+1}).
    """
    row, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    b, second = row_of(row, tl.num_programs(1), BOTH)
    if BOTH:
        delta, A = tl.where(second, delta_2, delta), tl.where(second, A_2, A)
        C, grad_y = tl.where(second, C_2, C), tl.where(second, grad_y_2, grad_y)
    d, n = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_N)
    inside_d, inside_n = d < DIM, n < N
    inside = inside_d[:, None] & inside_n[None]
    place = d[:, None] * N + n[None]
    rate = tl.load(A + place, mask=inside, other=0.0) * LOG2_E
    length = tl.load(lengths + b)
    p = tl.load(grad_last + row * DIM * N + place, mask=inside, other=0.0)
    chunks = (L + CHUNK - 1) // CHUNK
    delta += b * delta_b + d * delta_d
    C += b * C_b + n * C_n
    grad_y += b * y_b + d * y_d
    for begin in range((L - 1) // CHUNK * CHUNK, -1, -CHUNK):
        tl.store(ends + (row * chunks + begin // CHUNK) * DIM * N + place, p, mask=inside)
        for start in range((min(begin + CHUNK, L) - 1) // AHEAD * AHEAD, begin - 1, -AHEAD):
            deltas, dys, Cs = (), (), ()
            for k in tl.static_range(AHEAD):
                t = start + k
                of_d, of_n = inside_d & (t < length), inside_n & (t < length)
                of_y = in_utterance(t, length, second, BOTH) * y_t
                deltas += (tl.load(delta + t * delta_t, mask=of_d, other=0.0).to(tl.float32),)
                dys += (tl.load(grad_y + of_y, mask=of_d, other=0.0).to(tl.float32),)
                Cs += (tl.load(C + t * C_t, mask=of_n, other=0.0).to(tl.float32),)
            for k in tl.static_range(AHEAD - 1, -1, -1):
                p = tl.exp2(deltas[k][:, None] * rate) * (Cs[k][None] * dys[k][:, None] + p)
    tl.store(grad_first + row * DIM * N + place, p, mask=inside)


@triton.jit
def chunk_gradients(
    u, delta, A, B, C, D, grad_y, u_2, delta_2, A_2, B_2, C_2, D_2, grad_y_2,
    lengths, first, states, ends, grad_u, grad_delta, grad_B, grad_C, grad_D,
    u_b, u_d, u_t, delta_b, delta_d, delta_t, B_b, B_n, B_t, C_b, C_n, C_t, y_b, y_d, y_t,
    L, DIM: tl.constexpr, N: tl.constexpr, STARTED: tl.constexpr, BOTH: tl.constexpr,
    CHUNK: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a chunk and of the channels of a split.

    Those of u and delta ``(B, L, D)``; of B and C ``(2, splits, B, N, L)`` in two pointers; of D
    ``(B, c, D)``; of A in place of ``ends``.
    """
    chunk, split = tl.program_id(0), tl.program_id(1)
    row, rows = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    b, second = row_of(row, rows, BOTH)
    if BOTH:
        u, delta, A = (
            tl.where(second, u_2, u),
            tl.where(second, delta_2, delta),
            tl.where(second, A_2, A),
        )
        B, C, D = tl.where(second, B_2, B), tl.where(second, C_2, C), tl.where(second, D_2, D)
        grad_y = tl.where(second, grad_y_2, grad_y)
    chunks = tl.num_programs(0)
    t = chunk * CHUNK + tl.arange(0, FRAMES)
    length = tl.load(lengths + b)
    valid = t < length
    is_first, is_last = tl.arange(0, FRAMES) == 0, tl.arange(0, FRAMES) == FRAMES - 1
    # no frame follows inside of the chunk: its state's gradient comes from ``ends``
    follows = (t + 1 < length) & (tl.arange(0, FRAMES) < FRAMES - 1)
    sums = ((split * rows + row) * N) * L + t
    t_y = in_utterance(t, length, second, BOTH)
    for step in range(SPLIT // BLOCK):
        d = split * SPLIT + step * BLOCK + tl.arange(0, BLOCK)
        inside_d = d < DIM
        inside = inside_d[:, None] & valid[None]
        of_u = u + b * u_b + d[:, None] * u_d + t[None] * u_t
        of_delta = delta + b * delta_b + d[:, None] * delta_d + t[None] * delta_t
        of_y = grad_y + b * y_b + d[:, None] * y_d + t_y[None] * y_t
        us = tl.load(of_u, mask=inside, other=0.0).to(tl.float32)
        deltas = tl.load(of_delta, mask=inside, other=0.0).to(tl.float32)
        dys = tl.load(of_y, mask=inside, other=0.0).to(tl.float32)
        next_delta = inside_d[:, None] & follows[None]
        later = tl.load(of_delta + delta_t, mask=next_delta, other=0.0).to(tl.float32)
        skip = tl.load(D + d, mask=inside_d, other=0.0)
        tl.store(grad_D + (row * chunks + chunk) * DIM + d, tl.sum(dys * us, 1), mask=inside_d)
        x = deltas * us
        dx = tl.zeros((BLOCK, FRAMES), tl.float32)
        d_delta = tl.zeros((BLOCK, FRAMES), tl.float32)
        for n in range(N):
            a = tl.load(A + d * N + n, mask=inside_d, other=0.0)
            rate = a * LOG2_E
            of_state = (row * (chunks - 1) + (chunk - 1)) * DIM * N + d * N + n
            before = tl.load(states + of_state, mask=inside_d & (chunk > 0), other=0.0)
            if STARTED:
                of_first = inside_d & (chunk == 0)
                before += tl.load(first + (row * DIM + d) * N + n, mask=of_first, other=0.0)
            of_end = ends + (row * chunks + chunk) * DIM * N + d * N + n
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
        at = (row * L + t[None]) * DIM + d[:, None]
        # read again: in registers all the while they would be too many
        us = tl.load(of_u, mask=inside, other=0.0).to(tl.float32)
        dys = tl.load(of_y, mask=inside, other=0.0).to(tl.float32)
        du = tl.where(inside, dx * deltas + skip[:, None] * dys, 0.0)
        tl.store(grad_u + at, du, mask=written)
        tl.store(grad_delta + at, tl.where(inside, dx * us + d_delta, 0.0), mask=written)
        tl.debug_barrier()  # the next channels' threads see the sums of these


def forward(
    directions: Sequence[Direction], lengths: Tensor, state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan in one launch; no axis is empty.

    Args:
        directions: one, or two (S) of the same shapes and types, see the module.
        lengths: ``(B,)``, int64.
        state: before the first frame ``(S, B, D, N)``; None for zeros.
        keep: whether a backward pass follows.

    Returns:
        y ``(S, B, D, L)`` typed as ``u``, stored as ``(S, B, L, D)``; the last states
        ``(S, B, D, N)``; the states before all chunks but the first ``(S, B, chunks - 1, D, N)``,
        empty without ``keep``.
    """
    S, (batch, dim, length) = len(directions), directions[0].u.shape
    N = directions[0].A.shape[1]
    u, delta, A, B, C, D = (_alike(x) for x in zip(*map(_prepared, directions), strict=True))
    first = None if state is None else _single(state)
    y, last = u[0].new_empty(S, batch, length, dim), A[0].new_empty(S, batch, dim, N)
    kept = launch.blocks(length, CHUNK) - 1 if keep else 0
    states = A[0].new_empty(S, batch, kept, dim, N)
    block, block_n = _sizes(dim, N)
    walk[(launch.blocks(dim, block), S * batch)](
        *(x[0] for x in (u, delta, A, B, C, D)), *(x[-1] for x in (u, delta, A, B, C, D)),
        lengths, last if first is None else first, y, last, states if kept else last,
        *u[0].stride(), *delta[0].stride(), *B[0].stride(), *C[0].stride(),
        length, dim, N, first is not None, kept > 0, S == 2, CHUNK, block, block_n, num_warps=4,
    )  # fmt: skip
    return y.mT, last, states


def backward(
    directions: Sequence[Direction],
    lengths: Tensor,
    state: Tensor | None,
    states: Tensor,
    grad_y: Sequence[Tensor],
    grad_last: Tensor,
) -> tuple[list[Direction], Tensor]:
    """Return the gradients of each direction's inputs, and those of the first states.

    Args:
        states: of the forward pass.
        grad_y: ``(B, D, L)`` of each direction.
        grad_last: ``(S, B, D, N)``.
        directions, lengths, state: as of ``forward``.
    """
    S, (batch, dim, length) = len(directions), directions[0].u.shape
    N = directions[0].A.shape[1]
    u, delta, A, B, C, D = (_alike(x) for x in zip(*map(_prepared, directions), strict=True))
    dy, first = _alike(grad_y), None if state is None else _single(state)
    chunks, splits = launch.blocks(length, CHUNK), launch.blocks(dim, SPLIT)
    ends, grad_first = A[0].new_empty(S, batch, chunks, dim, N), A[0].new_empty(S, batch, dim, N)
    block, block_n = _sizes(dim, N)
    walk_back[(launch.blocks(dim, block), S * batch)](
        *(x[0] for x in (delta, A, C, dy)), *(x[-1] for x in (delta, A, C, dy)), lengths,
        _single(grad_last), ends, grad_first,
        *delta[0].stride(), *C[0].stride(), *dy[0].stride(),
        length, dim, N, S == 2, CHUNK, block, block_n, num_warps=4,
    )  # fmt: skip
    grad_u, grad_delta = (x[0].new_empty(S, batch, length, dim) for x in (u, delta))
    grad_B, grad_C = A[0].new_empty(2, splits, S, batch, N, length)
    grad_D = A[0].new_empty(S, batch, chunks, dim)
    frames = launch.power_of_2(length, CHUNK)
    single = all(x[0].dtype == torch.float32 for x in (u, delta, B, C, dy))
    tile = TILE if single else HALF_TILE
    block = max(1, min(tile // frames, launch.power_of_2(dim, SPLIT)))
    chunk_gradients[(chunks, splits, S * batch)](
        *(x[0] for x in (u, delta, A, B, C, D, dy)), *(x[-1] for x in (u, delta, A, B, C, D, dy)),
        lengths, ends if first is None else first, states if states.numel() else ends, ends,
        grad_u, grad_delta, grad_B, grad_C, grad_D,
        *u[0].stride(), *delta[0].stride(), *B[0].stride(), *C[0].stride(), *dy[0].stride(),
        length, dim, N, first is not None, S == 2, CHUNK,
        min(SPLIT, launch.power_of_2(dim, SPLIT)), block, frames, num_warps=WARPS,
    )  # fmt: skip
    found = [
        Direction(
            grad_u[s].mT,
            grad_delta[s].mT,
            ends[s].sum((0, 1)).to(of.A.dtype),
            grad_B[:, s].sum(0).to(of.B.dtype),
            grad_C[:, s].sum(0).to(of.C.dtype),
            grad_D[s].sum((0, 1)).to(of.D.dtype),
        )
        for s, of in enumerate(directions)
    ]
    return found, grad_first


def _prepared(of: Direction) -> Direction:
    return of._replace(A=_single(of.A), D=_single(of.D))


def _alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one stride, copies where theirs differ."""
    if len({x.stride() for x in tensors}) == 1:
        return list(tensors)
    return [x.contiguous() for x in tensors]


def _single(x: Tensor) -> Tensor:
    return x.float().contiguous()


def _sizes(dim: int, N: int) -> tuple[int, int]:
    """Return channels and states of a program that walks."""
    block_n = launch.power_of_2(N, MOST_STATES)
    # eight channels at least, so that a row of them is a whole sector of memory
    return min(max(8, STATES // block_n), launch.power_of_2(dim, STATES)), block_n
