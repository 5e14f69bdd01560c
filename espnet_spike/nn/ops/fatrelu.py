"""FATReLU_T(x) = x if x >= T else 0: values, their statistics per frame, gradients.

On CPUs and CUDA GPUs one pass of compiled kernels does all of it; torch does the same, slower.

The step at T has no useful derivative; with u = r - T, where r is x (or |x| in the two-sided form),
a surrogate stands in for it:

* ``sigmoid`` (our choice), S'(u) = k s (1 - s) with s = sigmoid(k u): dy/dT = -x S'(u) where r > 0.
  The input keeps the true derivative, 1[r >= T].
* ``rational``, S'(u) = 1 / (1 + k u^2) with k = 5, that of the hard shrinkage in the code of
  arXiv 2501.16337. The two-sided form is a step on each side, y = x H(x - T) + x H(-x - T), and S'
  flows to both: dy/dT = -x (S'(x - T) + S'(-x - T)), dy/dx = 1[|x| >= T] + x (S'(x - T) - S'(-x -
  T)). That code has no one-sided form; ours is one of the two steps behind a ReLU: dy/dT = -r S'(u)
  and dy/dx = 1[x >= T] + r S'(u) with r = max(x, 0). A threshold that is not learnt has the true
  derivative alone (ours), so that a plain ReLU is one backwards too.

With ``unit`` both are functions of u / unit (ours): S'(u / unit) / unit.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.precision import at_least_fp32
from espnet_spike.nn.ops.surrogate import rational
from espnet_spike.utils.options import choose

# surrogate of the step at the threshold -> its usual k
SURROGATES = {"sigmoid": 10.0, "rational": 5.0}


def fatrelu(
    x: Tensor,
    T: Tensor,
    k: float | None = None,
    two_sided: bool = False,
    surrogate: str = "sigmoid",
) -> Tensor:
    """Return x where x >= T (|x| >= T if ``two_sided``), else 0; differentiable by ``x`` and ``T``.

    Args:
        x: any shape.
        T: threshold, 0-dim, not negative.
        k: slope of the surrogate; None for its usual one.
        two_sided: compare the magnitude.
        surrogate: ``sigmoid`` or ``rational``, see above.

    Raises:
        ValueError: an unknown surrogate.
    """
    frames = x[None, None] if x.dim() < 3 else x
    y, _, _ = frame_fatrelu(frames, T, k, two_sided, surrogate)
    return y.view(x.shape)


def frame_fatrelu(
    x: Tensor,
    T: Tensor,
    k: float | None = None,
    two_sided: bool = False,
    surrogate: str = "sigmoid",
    unit: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``fatrelu`` of ``x`` ``(B, N, ..., C)``, and of each frame what passes ``(B, N)``.

    Args:
        x, T, k, two_sided, surrogate: as of ``fatrelu``; values in half precision are compared
            with T in fp32.
        unit: what the surrogate measures u in, 0-dim, without gradient; None for 1.

    Returns:
        y, shaped and typed as ``x``; how many values pass, without gradient; the sum of their
        magnitudes; both in fp32 at least.
    """
    T = T.to(torch.promote_types(x.dtype, torch.float32))
    usual = SURROGATES[choose("surrogate", surrogate, SURROGATES)]
    slope = torch.full((), usual if k is None else k, dtype=T.dtype, device=x.device)
    unit = torch.ones_like(slope) if unit is None else unit
    rational = surrogate == "rational"
    kernels = backends.fused(x, "fatrelu")
    if kernels is not None:
        return _Fused.apply(x, T, slope, unit, two_sided, rational, kernels)
    single = at_least_fp32(x)
    y, kept, total = _FATReLU.apply(single, T, slope, unit, two_sided, rational)
    return y.to(x.dtype), kept, total


def _least(T: Tensor) -> Tensor:
    """Return the smallest value that passes: T, but more than 0, so that T = 0 is ReLU."""
    return T.clamp(min=math.ulp(0.0) if T.dtype == torch.float64 else 1.4e-45)


def passing(x: Tensor, T: Tensor, two_sided: bool) -> Tensor:
    """Return x where it passes, else 0, as torch and a graph can write it; see ``fatrelu``."""
    # r >= T and r > 0 at once
    return torch.where((x.abs() if two_sided else x) >= _least(T), x, torch.zeros_like(x))


class _FATReLU(torch.autograd.Function):
    """y = x 1[r >= T], with r = x, or |x| in the two-sided form, and the sums of |y|."""

    @staticmethod
    def forward(ctx, x, T, k, unit, two_sided, rational):  # noqa: ANN001
        ctx.kernels = backends.compiled(x, "fatrelu")
        ctx.two_sided = two_sided
        ctx.rational = rational
        if ctx.kernels is None:
            y = passing(x, T, two_sided)
            kept = torch.count_nonzero(y.flatten(2), -1).to(x.dtype)
            total = (y.abs() if two_sided else y).flatten(2).sum(-1)
        else:
            x = x.contiguous()
            y, (kept, total) = torch.empty_like(x), x.new_empty(2, *x.shape[:2])
            arrays = [*_rows(x), float(_least(T)), two_sided, *_rows(y, kept, total)]
            backends.in_ranges(ctx.kernels.forward, arrays, kept.numel(), x.numel())
        ctx.save_for_backward(x, y, T, k, unit)
        ctx.mark_non_differentiable(kept)
        return y, kept, total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _kept, grad_total):  # noqa: ANN001
        x, y, T, k, unit = ctx.saved_tensors
        learnt, grad_T = ctx.needs_input_grad[1], None
        rational = ctx.rational and learnt
        k = k / unit.square() if rational else unit.reciprocal() * k
        if ctx.kernels is not None:
            grad_x, grad_T = torch.empty_like(x), x.new_zeros(x.shape[:2])
            arrays = [*_rows(x, y, grad, grad_total), float(T), float(k), ctx.two_sided]
            if rational:
                kernel, arrays = ctx.kernels.backward_rational, [*arrays, 1 / float(unit)]
            else:
                kernel, arrays = ctx.kernels.backward, [*arrays, learnt]
            arrays += _rows(grad_x, grad_T)
            backends.in_ranges(kernel, arrays, grad_T.numel(), x.numel())
            grad_T = grad_T if learnt else None
        else:
            grad_total = grad_total.view(*grad_total.shape, *[1] * (x.dim() - 2))
            if rational:
                grad_x, grad_T = _rational(x, y, T, k, unit, ctx.two_sided, grad, grad_total)
            else:
                grad = grad + (grad_total * y.sign() if ctx.two_sided else grad_total)
                grad_x = torch.where(y != 0, grad, 0)
                grad_T = _sigmoid(x, T, k, ctx.two_sided, grad) if learnt else None
        return grad_x, grad_T.sum() if grad_T is not None else None, None, None, None, None


class _Fused(torch.autograd.Function):
    """``_FATReLU`` on a GPU; the statistics are fp32, and only the input is kept."""

    @staticmethod
    def forward(ctx, x, T, k, unit, two_sided, rational, kernels):  # noqa: ANN001
        x = x.contiguous()
        y, kept, total = kernels.forward(x, T, two_sided)
        ctx.save_for_backward(x, T, k, unit)
        ctx.two_sided, ctx.rational, ctx.kernels = two_sided, rational, kernels
        ctx.mark_non_differentiable(kept)
        return y, kept, total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _kept, grad_total):  # noqa: ANN001
        x, T, k, unit = ctx.saved_tensors
        learnt = ctx.needs_input_grad[1]
        rational = ctx.rational and learnt
        k = (k / unit.square() if rational else k / unit).float()
        conf = (k, unit, ctx.two_sided, rational, learnt)
        grad_x, grad_T = ctx.kernels.backward(x, T, *conf, grad, grad_total)
        return grad_x, grad_T, None, None, None, None, None


def _sigmoid(x: Tensor, T: Tensor, k: Tensor, two_sided: bool, grad: Tensor) -> Tensor:
    """Return the gradient of T, 0-dim, from that of y."""
    r = x.abs() if two_sided else x.clamp(min=0)
    s = torch.sigmoid((r - T).mul_(k))
    slope = (1 - s).mul_(s).mul_(x if two_sided else r)
    return -(slope.mul_(grad).sum() * k)


def _rational(
    x: Tensor,
    y: Tensor,
    T: Tensor,
    k: Tensor,
    unit: Tensor,
    two_sided: bool,
    grad: Tensor,
    grad_total: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and, 0-dim, of T."""
    r = x if two_sided else x.clamp(min=0)
    grad = grad + (grad_total * x.sign() if two_sided else grad_total)
    up = r * rational(r - T, k) / unit
    down = r * rational(r + T, k) / unit if two_sided else torch.zeros_like(r)
    return torch.where(y != 0, grad, 0) + grad * (up - down), -(grad * (up + down)).sum()


def _rows(*tensors: Tensor) -> list:
    """Return arrays with one row per frame, or one value for a tensor without channels."""
    contiguous = (x.detach().contiguous().flatten(0, 1) for x in tensors)
    return backends.arrays(*(x.flatten(1 if x.dim() > 1 else 0) for x in contiguous))
