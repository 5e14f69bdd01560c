"""IMLS: level, counts, output and firing sums in one pass, gradients in another.

Inputs are ``(R, K, C)`` in half or single precision, all else is fp32; ``ops.imls`` says what is
computed. Divisions are those of IEEE 754, so that counts are those of the reference.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch

MOST = 8192  # values of a frame that a program holds at once
TILE = 1024  # values of a tile of the backward pass
STEPS = 32  # tiles of a program there: its share of the sums per channel

HALF_UP, EVEN, OFF = (tl.constexpr(n) for n in range(3))  # positions in ops.imls.ROUNDINGS


@triton.jit
def count_of(ratio, TOP: tl.constexpr, MODE: tl.constexpr):
    """Return the spike count of X / V; NaN stays NaN."""
    if MODE == HALF_UP:
        ratio = tl.floor(ratio + 0.5)
    ratio = tl.maximum(ratio, 0.0, propagate_nan=tl.PropagateNan.ALL)
    ratio = tl.minimum(ratio, 1.0 * TOP, propagate_nan=tl.PropagateNan.ALL)
    if MODE == EVEN:
        # 2^23 leaves no bits for a fraction, so that adding it rounds to the even neighbour
        ratio = (ratio + 8388608.0) - 8388608.0
    return ratio


@triton.jit
def forward_kernel(
    x, level, scale, y, total, rows, eps, K: tl.constexpr, C: tl.constexpr,
    TOP: tl.constexpr, MODE: tl.constexpr, FINDS_LEVEL: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write Y, with ``SUMS`` the counts of each row, and with ``FINDS_LEVEL`` its level.

    A program has some rows, so that it reads the channels' factors once for them.
    """
    SIZE: tl.constexpr = K * C
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside_row = row < rows
    x += (row * SIZE)[:, None]
    y += (row * SIZE)[:, None]
    if FINDS_LEVEL:
        mean = tl.zeros((ROWS,), tl.float32)
        for start in tl.static_range(0, SIZE, BLOCK):
            at = (start + tl.arange(0, BLOCK))[None]
            inside = inside_row[:, None] & (at < SIZE)
            first = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            mean += tl.sum(tl.abs(first), 1)
        m = tl.maximum(tl.div_rn(mean, 1.0 * SIZE), eps, propagate_nan=tl.PropagateNan.ALL)
        tl.store(level + row, m, mask=inside_row)
    else:
        m = tl.load(level + row, mask=inside_row, other=1.0)
    counts = tl.zeros((ROWS,), tl.float32)
    for start in tl.static_range(0, SIZE, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        at = channel[None]
        inside = inside_row[:, None] & (at < SIZE)
        if FINDS_LEVEL and SIZE <= BLOCK:
            value = first
        else:
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(scale + channel % C, mask=channel < SIZE, other=1.0)
        v = m[:, None] * factor[None]
        count = count_of(tl.div_rn(value, v), TOP, MODE)
        tl.store(y + at, v * count, mask=inside)
        counts += tl.sum(tl.where(inside, count, 0.0), 1)
    if SUMS:
        tl.store(total + row, counts, mask=inside_row)


@triton.jit
def mean_abs_kernel(x, mean, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Write the mean of |x| of each row."""
    row = tl.program_id(0).to(tl.int64)
    total = 0.0
    for start in tl.static_range(0, SIZE, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * SIZE + at, mask=at < SIZE, other=0.0).to(tl.float32)
        total += tl.sum(tl.abs(value), 0)
    tl.store(mean + row, tl.div_rn(total, 1.0 * SIZE))


@triton.jit
def backward_kernel(
    x, grad, level, scale, weight, grad_x, partial, rows, tail, K: tl.constexpr,
    C: tl.constexpr, TOP: tl.constexpr, MODE: tl.constexpr, TAILED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write dX, and per channel the weighted dV * V of the rows of this program, ``(parts, C)``."""
    part, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = column * BLOCK + tl.arange(0, BLOCK)
    inside_c = c < C
    factor = tl.load(scale + c, mask=inside_c, other=1.0)[None]
    e = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(STEPS):
        r = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside_r = r < rows
        at = r[:, None] * C + c[None]
        inside = inside_r[:, None] & inside_c[None]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(level + r // K, mask=inside_r, other=1.0)[:, None] * factor
        w = tl.load(weight + r // K, mask=inside_r, other=0.0)[:, None]
        ratio = tl.div_rn(value, v)
        open_window = (ratio >= 0.0) & (ratio <= 1.0 * TOP)
        gx = tl.where(open_window, g, 0.0)
        out = gx
        if TAILED:
            away = tl.where(ratio < 0.0, ratio, ratio - TOP)
            out = tl.where(open_window, g, g * (tail / (1.0 + away * away)))
        tl.store(grad_x + at, out, mask=inside)
        e += w * (g * (v * count_of(ratio, TOP, MODE)) - gx * value)
    tl.store(partial + part * C + c, tl.sum(e, 0), mask=inside_c)


def forward(
    x: Tensor, level: Tensor | None, scale: Tensor, levels: int, mode: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Y ``(R, K, C)``, the counts of each row and its level ``(R,)``.

    Args:
        x: ``(R, K, C)``, contiguous, not empty.
        level: ``(R,)``; None to take the mean of |x|, ``eps`` at least.
        scale: ``(C,)``.
        levels: T.
        mode: position in ``ops.imls.ROUNDINGS``.
        eps: smallest level.
    """
    y, total = torch.empty_like(x), x.new_empty(len(x), dtype=torch.float32)
    found = torch.empty_like(total) if level is None else level.contiguous()
    _forward(x, found, scale, y, total, levels, mode, level is None, eps)
    return y, total, found


def output(x: Tensor, level: Tensor, scale: Tensor, levels: int, mode: int) -> Tensor:
    """Return Y alone; arguments as of ``forward``."""
    y = torch.empty_like(x)
    _forward(x, level.contiguous(), scale, y, None, levels, mode, False, 0.0)
    return y


def _forward(x, level, scale, y, total, levels, mode, finds_level, eps) -> None:
    _, K, C = x.shape
    block = launch.power_of_2(K * C, MOST)
    height = max(1, min(4, MOST // 2 // block))
    sums = total is not None
    forward_kernel[(launch.blocks(len(x), height),)](
        x, level, scale.contiguous(), y, total if sums else y, len(x), eps, K, C, levels, mode,
        finds_level, sums, height, block, num_warps=launch.warps(height * block),
        enable_fp_fusion=False,
    )  # fmt: skip


def mean_abs(x: Tensor) -> Tensor:
    """Return the mean of |x| of every row of ``(R, K, C)``, ``(R,)``, fp32."""
    mean = x.new_empty(len(x), dtype=torch.float32)
    size = x[0].numel()
    block = launch.power_of_2(size, MOST)
    mean_abs_kernel[(len(x),)](x, mean, size, block, num_warps=launch.warps(block))
    return mean


def backward(
    x: Tensor,
    grad: Tensor,
    level: Tensor,
    scale: Tensor,
    weight: Tensor,
    levels: int,
    mode: int,
    tail: float,
) -> tuple[Tensor, Tensor]:
    """Return dX ``(R, K, C)`` and e ``(C,)``, see ``ops.imls.backward``."""
    _, K, C = x.shape
    rows = x.shape[0] * K
    block = launch.power_of_2(C, 256)
    height = max(1, TILE // block)
    parts = launch.blocks(rows, height * STEPS)
    grad_x, partial = torch.empty_like(x), x.new_empty(parts, C, dtype=torch.float32)
    backward_kernel[(parts, launch.blocks(C, block))](
        x, grad.contiguous(), level.contiguous(), scale.contiguous(), weight.contiguous(), grad_x,
        partial, rows, tail, K, C, levels, mode, tail > 0, height, block, STEPS, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
    return grad_x, partial.sum(0)
