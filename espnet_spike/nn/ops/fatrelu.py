"""FATReLU_T(x) = x if x >= T else 0: values, their statistics per frame, gradients.

On CPUs one pass of compiled kernels does all of it; torch does the same, slower.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from espnet_spike.nn.ops import backends


def fatrelu(x: Tensor, T: Tensor, k: float | Tensor = 10.0, two_sided: bool = False) -> Tensor:
    """Return x where x >= T (|x| >= T if ``two_sided``), else 0; differentiable by ``x`` and ``T``.

    Args:
        x: any shape.
        T: threshold, 0-dim, not negative.
        k: slope of the surrogate.
        two_sided: compare the magnitude.
    """
    frames = x[None, None] if x.dim() < 3 else x
    y, _, _ = frame_fatrelu(frames, T, k, two_sided)
    return y.view(x.shape)


def frame_fatrelu(
    x: Tensor, T: Tensor, k: float | Tensor = 10.0, two_sided: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``fatrelu`` of ``x`` ``(B, N, ..., C)``, and of each frame what passes ``(B, N)``.

    Returns:
        y, shaped as ``x``; how many values pass, without gradient; the sum of their magnitudes.
    """
    return _FATReLU.apply(x, T, torch.as_tensor(k, dtype=x.dtype, device=x.device), two_sided)


def _least(T: Tensor) -> Tensor:
    """Return the smallest value that passes: T, but more than 0, so that T = 0 is ReLU."""
    return T.clamp(min=math.ulp(0.0) if T.dtype == torch.float64 else 1.4e-45)


def passing(x: Tensor, T: Tensor, two_sided: bool) -> Tensor:
    """Return x where it passes, else 0, as torch and a graph can write it; see ``fatrelu``."""
    # r >= T and r > 0 at once
    return torch.where((x.abs() if two_sided else x) >= _least(T), x, torch.zeros_like(x))


class _FATReLU(torch.autograd.Function):
    """y = x 1[r >= T], with r = x, or |x| in the two-sided form; the sums of its |y| over a frame.

    The derivative by T is a delta at r = T; a sigmoid of slope k stands in for the step (our
    choice): dy/dT = -x k s (1 - s) with s = sigmoid(k (r - T)), where r > 0.
    """

    @staticmethod
    def forward(ctx, x, T, k, two_sided):  # noqa: ANN001
        ctx.kernels = backends.compiled(x, "fatrelu")
        ctx.two_sided = two_sided
        if ctx.kernels is None:
            y = passing(x, T, two_sided)
            kept = torch.count_nonzero(y.flatten(2), -1).to(x.dtype)
            total = (y.abs() if two_sided else y).flatten(2).sum(-1)
        else:
            x = x.contiguous()
            y, (kept, total) = torch.empty_like(x), x.new_empty(2, *x.shape[:2])
            arrays = [*_rows(x), float(_least(T)), two_sided, *_rows(y, kept, total)]
            backends.in_ranges(ctx.kernels.forward, arrays, kept.numel(), x.numel())
        ctx.save_for_backward(x, y, T, k)
        ctx.mark_non_differentiable(kept)
        return y, kept, total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _kept, grad_total):  # noqa: ANN001
        x, y, T, k = ctx.saved_tensors
        learnt = ctx.needs_input_grad[1]
        if ctx.kernels is not None:
            grad_x, grad_T = torch.empty_like(x), x.new_zeros(x.shape[:2])
            arrays = [*_rows(x, y, grad, grad_total), float(T), float(k), ctx.two_sided, learnt]
            arrays += _rows(grad_x, grad_T)
            backends.in_ranges(ctx.kernels.backward, arrays, grad_T.numel(), x.numel())
            return grad_x, grad_T.sum() if learnt else None, None, None
        grad_total = grad_total.view(*grad_total.shape, *[1] * (x.dim() - 2))
        grad = grad + (grad_total * y.sign() if ctx.two_sided else grad_total)
        grad_T = None
        if learnt:
            r = x.abs() if ctx.two_sided else x.clamp(min=0)
            s = torch.sigmoid((r - T).mul_(k))
            slope = (1 - s).mul_(s).mul_(x if ctx.two_sided else r)
            grad_T = -(slope.mul_(grad).sum() * k)
        return torch.where(y != 0, grad, 0), grad_T, None, None


def _rows(*tensors: Tensor) -> list:
    """Return arrays with one row per frame, or one value for a tensor without channels."""
    contiguous = (x.detach().contiguous().flatten(0, 1) for x in tensors)
    return backends.arrays(*(x.flatten(1 if x.dim() > 1 else 0) for x in contiguous))
