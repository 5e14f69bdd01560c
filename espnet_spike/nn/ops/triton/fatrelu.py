"""FATReLU: values and their statistics per frame in one pass, gradients in another.

Rows are frames ``(R, C)``, one program each; ``ops.fatrelu`` says what is computed. The statistics
and the threshold's gradient are fp32, whatever the values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch

MOST = 4096  # values that a program holds at once


@triton.jit
def forward_kernel(
    x, threshold, y, kept, total, C: tl.constexpr, TWO_SIDED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write y, and of each row the number of kept values and the sum of their magnitudes."""
    row = tl.program_id(0).to(tl.int64)
    T = tl.load(threshold).to(tl.float32)
    count, size = 0.0, 0.0
    for start in tl.static_range(0, C, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < C
        value = tl.load(x + row * C + at, mask=inside, other=0.0).to(tl.float32)
        r = tl.abs(value) if TWO_SIDED else value
        passes = (r >= T) & (r > 0)
        out = tl.where(passes, value, 0.0)
        tl.store(y + row * C + at, out, mask=inside)
        count += tl.sum(passes.to(tl.float32), 0)
        size += tl.sum(tl.abs(out), 0)
    tl.store(kept + row, count)
    tl.store(total + row, size)


@triton.jit
def backward_kernel(
    x, threshold, slope, unit, grad_y, grad_total, grad_x, grad_T,
    C: tl.constexpr, TWO_SIDED: tl.constexpr, RATIONAL: tl.constexpr, LEARNT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the input and, of each row, of the threshold."""
    row = tl.program_id(0).to(tl.int64)
    T, k = tl.load(threshold).to(tl.float32), tl.load(slope).to(tl.float32)
    g_total = tl.load(grad_total + row)
    own_unit = tl.load(unit).to(tl.float32)
    whole = 0.0
    for start in tl.static_range(0, C, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < C
        value = tl.load(x + row * C + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_y + row * C + at, mask=inside, other=0.0).to(tl.float32)
        r = tl.abs(value) if TWO_SIDED else value
        passes = (r >= T) & (r > 0)
        if TWO_SIDED:
            sign = tl.where(value > 0, 1.0, 0.0) - tl.where(value < 0, 1.0, 0.0)
            # the surrogate of the rational form reaches values that do not pass as well
            grad += g_total * (sign if RATIONAL else tl.where(passes, sign, 0.0))
        else:
            grad += g_total
        out = tl.where(passes, grad, 0.0)
        if LEARNT:
            if RATIONAL:
                v = value if TWO_SIDED else tl.where(value > 0, value, 0.0)
                up = v / (1 + k * (v - T) * (v - T)) / own_unit
                if TWO_SIDED:
                    down = v / (1 + k * (v + T) * (v + T)) / own_unit
                else:
                    down = 0.0 * v
                out += grad * (up - down)
                pull = grad * (up + down)
            else:
                size = tl.where(r > 0, r, 0.0)
                e = tl.exp(-tl.abs(k * (size - T)))
                pull = (value if TWO_SIDED else size) * e / ((1 + e) * (1 + e)) * grad * k
            whole += tl.sum(tl.where(inside, pull, 0.0), 0)
        tl.store(grad_x + row * C + at, out, mask=inside)
    if LEARNT:
        tl.store(grad_T + row, -whole)


def forward(x: Tensor, T: Tensor, two_sided: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, how many values of each frame pass, the sum of their magnitudes.

    Args:
        x: ``(B, N, ..., C)``, contiguous, not empty.
        T: threshold, 0-dim.
        two_sided: compare the magnitude.

    Returns:
        y, shaped as ``x``; the others ``(B, N)``, fp32.
    """
    C = x[0, 0].numel()
    y, (kept, total) = torch.empty_like(x), x.new_empty(2, *x.shape[:2], dtype=torch.float32)
    block = launch.power_of_2(C, MOST)
    forward_kernel[(kept.numel(),)](
        x, T, y, kept, total, C, two_sided, block, num_warps=launch.warps(block)
    )
    return y, kept, total


def backward(
    x: Tensor,
    T: Tensor,
    k: Tensor,
    unit: Tensor,
    two_sided: bool,
    rational: bool,
    learnt: bool,
    grad: Tensor,
    grad_total: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of ``x`` and, 0-dim, of T where it is ``learnt``.

    Args:
        x: ``(B, N, ..., C)``, contiguous.
        T, two_sided: as of ``forward``.
        k: slope of the surrogate of ``u``, 0-dim: k / unit, or k / unit^2 if ``rational``.
        unit: 0-dim.
        rational: which surrogate.
        learnt: whether T is learnt.
        grad: of y, shaped as ``x``.
        grad_total: of the sums of magnitudes, ``(B, N)``.
    """
    C = x[0, 0].numel()
    grad_x, grad_T = torch.empty_like(x), x.new_empty(x.shape[:2], dtype=torch.float32)
    block = launch.power_of_2(C, MOST)
    backward_kernel[(grad_T.numel(),)](
        x, T, k, unit, grad.contiguous(), grad_total.float().contiguous(), grad_x, grad_T,
        C, two_sided, rational, learnt, block, num_warps=launch.warps(block),
    )  # fmt: skip
    return grad_x, grad_T.sum().to(T.dtype) if learnt else None
