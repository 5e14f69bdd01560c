"""Batch norm over valid frames: moments in one pass over memory, values in another.

``ops.batch_norm`` says what is computed. Rows are ``(R, C)``. A program of the first pass merges
the moments of its tiles (Chan et al., 1979), and ``merge`` those of all programs, so that a large
mean does not eat the variance. The backward pass reads its input and gradient twice, for the sums
over rows and for the result; normalised values are computed again, not kept. All is fp32, every sum
has its order.
"""

import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch
from espnet_spike.nn.ops.triton.launch import constexpr

MOST = 128  # channels of a program
TILE = 2048  # rows times channels that it holds at once
STEPS = 8  # tiles whose sums it adds up


@triton.jit
def moments(
    x, valid, parts, counts, rows, stride, K: tl.constexpr, C: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write mean and sum of squared deviations of a program's rows ``(2, parts, C)``, counts."""
    part, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = column * BLOCK + tl.arange(0, BLOCK)
    inside_c = c < C
    count = 0.0
    mean, squares = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        r = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        keep = r < rows
        if MASKED:
            keep = keep & (tl.load(valid + r // K, mask=keep, other=0) != 0)
        inside = keep[:, None] & inside_c[None]
        value = tl.load(x + r[:, None] * stride + c[None], mask=inside, other=0.0)
        n = tl.sum(keep.to(tl.float32), 0)
        own = tl.sum(value, 0) / tl.maximum(n, 1.0)
        away = tl.where(inside, value - own[None], 0.0)
        share = n / tl.maximum(count + n, 1.0)
        between = own - mean
        squares += tl.sum(away * away, 0) + between * between * (count * share)
        mean += between * share
        count += n
    at = part * C + c
    tl.store(parts + at, mean, mask=inside_c)
    tl.store(parts + tl.num_programs(0).to(tl.int64) * C + at, squares, mask=inside_c)
    tl.store(counts + part, count, mask=column == 0)


@triton.jit
def merge(
    parts, counts, mean, var, rstd, number, eps, P: constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the moments of all rows ``(C,)``, 1 / std, and the count, 1 at least."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    count = 0.0
    middle, squares = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for part in range(0, P):
        n = tl.load(counts + part)
        own = tl.load(parts + part * C + c, mask=inside, other=0.0)
        own_squares = tl.load(parts + (P + part) * C + c, mask=inside, other=0.0)
        share = n / tl.maximum(count + n, 1.0)
        between = own - middle
        squares += own_squares + between * between * (count * share)
        middle += between * share
        count += n
    count = tl.maximum(count, 1.0)
    variance = squares / count
    tl.store(mean + c, middle, mask=inside)
    tl.store(var + c, variance, mask=inside)
    tl.store(rstd + c, 1.0 / tl.sqrt_rn(variance + eps), mask=inside)
    tl.store(number, count, mask=tl.program_id(0) == 0)


@triton.jit
def normalise(
    x, mean, rstd, weight, bias, y, rows, stride, C: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write y ``(R, C)``, padding as well."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside_c = c < C
    inside = (r < rows)[:, None] & inside_c[None]
    middle = tl.load(mean + c, mask=inside_c, other=0.0)[None]
    scale = tl.load(rstd + c, mask=inside_c, other=0.0)[None]
    gain = tl.load(weight + c, mask=inside_c, other=0.0)[None]
    shift = tl.load(bias + c, mask=inside_c, other=0.0)[None]
    value = tl.load(x + r[:, None] * stride + c[None], mask=inside, other=0.0)
    tl.store(y + r[:, None] * C + c[None], (value - middle) * scale * gain + shift, mask=inside)


@triton.jit
def sums(
    x, grad, mean, rstd, parts, rows, stride, C: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write sums of the gradient, and of it times the normalised value, ``(2, parts, C)``."""
    part = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside_c = c < C
    middle = tl.load(mean + c, mask=inside_c, other=0.0)[None]
    scale = tl.load(rstd + c, mask=inside_c, other=0.0)[None]
    total, weighted = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for step in range(STEPS):
        r = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (r < rows)[:, None] & inside_c[None]
        value = tl.load(x + r[:, None] * stride + c[None], mask=inside, other=0.0)
        g = tl.load(grad + r[:, None] * C + c[None], mask=inside, other=0.0)
        total += tl.sum(g, 0)
        weighted += tl.sum(tl.where(inside, g * ((value - middle) * scale), 0.0), 0)
    at = part * C + c
    tl.store(parts + at, total, mask=inside_c)
    tl.store(parts + tl.num_programs(0).to(tl.int64) * C + at, weighted, mask=inside_c)


@triton.jit
def gradient(
    x, valid, grad, mean, rstd, weight, total, weighted, number, grad_x, rows, stride,
    K: tl.constexpr, C: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write dX ``(R, C)``: (g - w/n (sum g + x^ sum(g x^))) gamma / std."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside_r, inside_c = r < rows, c < C
    inside = inside_r[:, None] & inside_c[None]
    middle = tl.load(mean + c, mask=inside_c, other=0.0)[None]
    scale = tl.load(rstd + c, mask=inside_c, other=0.0)[None]
    gain = tl.load(weight + c, mask=inside_c, other=0.0)[None]
    of_all = tl.load(total + c, mask=inside_c, other=0.0)[None]
    of_normed = tl.load(weighted + c, mask=inside_c, other=0.0)[None]
    n = tl.load(number)
    value = tl.load(x + r[:, None] * stride + c[None], mask=inside, other=0.0)
    g = tl.load(grad + r[:, None] * C + c[None], mask=inside, other=0.0)
    shared = (of_all + (value - middle) * scale * of_normed) / n
    if MASKED:
        keep = tl.load(valid + r // K, mask=inside_r, other=0) != 0
        shared = tl.where(keep[:, None], shared, 0.0)
    tl.store(grad_x + r[:, None] * C + c[None], (g - shared) * gain * scale, mask=inside)


def forward(
    x: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return y, shaped as ``x``, mean, variance and 1 / std ``(C,)``, and the count, 0-dim.

    Args:
        x: ``(B, N, ..., C)``, fp32, not empty.
        mask: ``(B, N)``, true on valid frames; None when all are.
        weight, bias: ``(C,)``.
        eps: added to the variance.
    """
    rows, C = _rows(x), x.shape[-1]
    block, height = _tile(C)
    P, columns = launch.blocks(len(rows), height * STEPS), launch.blocks(C, block)
    parts, counts, number = x.new_empty(2, P, C), x.new_empty(P), x.new_empty(())
    valid = x if mask is None else mask.contiguous()
    conf = {"num_warps": 4}
    moments[(P, columns)](
        rows, valid, parts, counts, len(rows), rows.stride(0), _positions(x), C, mask is not None,
        height, block, STEPS, **conf,
    )  # fmt: skip
    mean, var, rstd = x.new_empty(3, C)
    merge[(columns,)](parts, counts, mean, var, rstd, number, eps, P, C, block, **conf)
    y = x.new_empty(x.shape)
    normalise[(launch.blocks(len(rows), height), columns)](
        rows, mean, rstd, weight.contiguous(), bias.contiguous(), y, len(rows), rows.stride(0), C,
        height, block, **conf,
    )  # fmt: skip
    return y, mean, var, rstd, number


def backward(
    x: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    number: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; arguments as of and from ``forward``."""
    rows, C, grad = _rows(x), x.shape[-1], grad.contiguous()
    block, height = _tile(C)
    P, columns = launch.blocks(len(rows), height * STEPS), launch.blocks(C, block)
    parts, grad_x = x.new_empty(2, P, C), x.new_empty(x.shape)
    sizes, conf = (len(rows), rows.stride(0)), {"num_warps": 4}
    sums[(P, columns)](rows, grad, mean, rstd, parts, *sizes, C, height, block, STEPS, **conf)
    total, weighted = parts.sum(1)
    gradient[(launch.blocks(len(rows), height), columns)](
        rows, x if mask is None else mask.contiguous(), grad, mean, rstd, weight.contiguous(),
        total, weighted, number, grad_x, *sizes, _positions(x), C, mask is not None, height, block,
        **conf,
    )  # fmt: skip
    return grad_x, weighted, total


def _tile(channels: int) -> tuple[int, int]:
    """Return channels and rows of a program."""
    block = launch.power_of_2(channels, MOST)
    return block, max(1, TILE // block)


def _rows(x: Tensor) -> Tensor:
    """Return ``(R, C)`` with channels side by side: a view of what a split or a chunk gave."""
    rows = x.flatten(0, -2)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _positions(x: Tensor) -> int:
    return x[0, 0].numel() // x.shape[-1]
