"""Batch normalisation over valid frames in one process: values, moments and gradients.

On CPUs and CUDA GPUs the passes are compiled; torch does the same, slower.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.precision import full_matmul


def batch_norm(
    x: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``x`` normalised by its valid frames, and their moments, which have no gradient.

    Args:
        x: ``(B, N, ..., C)``.
        mask: ``(B, N)``, true on valid frames; None when all are.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: added to the variance.

    Returns:
        y, shaped as ``x``; mean and biased variance ``(C,)``; count, 0-dim.
    """
    single = x.dtype == weight.dtype == bias.dtype == torch.float32
    if single and backends.fused(x, "batch_norm") is not None:
        return _FusedBatchNorm.apply(x, mask, weight, bias, eps)
    return _BatchNorm.apply(x, mask, weight, bias, eps)


def masked_moments(
    x: Tensor, mask: Tensor | None, all_reduce: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance ``(C,)`` and count (0-dim) of the valid frames of ``x``.

    Two passes, so that a large mean does not eat the variance.

    Args:
        x: ``(B, N, ..., C)``.
        mask: ``(B, N)``, true on valid frames; None when all are.
        all_reduce: sums a tensor over all processes; by default there is one process.
    """
    weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
    weight = weight.flatten()
    frames, channels = x.flatten(0, 1).flatten(1), x.shape[-1]
    positions = frames.shape[1] // channels

    def total(values: Tensor) -> Tensor:
        # a matrix-vector product is the fastest weighted sum over rows; autocast would halve it
        return all_reduce(full_matmul(weight, values).view(positions, channels).sum(0))

    count = all_reduce(weight.sum() * positions).clamp(min=1)
    mean = total(frames) / count
    var = total((frames - mean.repeat(positions)).square()) / count
    return mean, var, count


class _BatchNorm(torch.autograd.Function):
    """Training mode in one process: few operations and a gradient in closed form.

    With the weights w (1 on the n valid rows, else 0), x^ = (x - mean) / std and G = gamma g:
    dL/dx = (G - w/n (sum G + x^ sum(G x^))) / std; the sums run over all rows, since every output
    depends on mean and variance.
    """

    @staticmethod
    def forward(ctx, x, mask, weight, bias, eps):  # noqa: ANN001
        ctx.kernels = _kernels(x, weight)
        if ctx.kernels is None:
            mean, var, count = masked_moments(x, mask)
            rstd = (var + eps).rsqrt()
            normed = (x - mean).mul_(rstd)
            ctx.save_for_backward(normed, mask, weight, rstd, count)
            ctx.mark_non_differentiable(mean, var, count)
            return torch.addcmul(bias, normed, weight), mean, var, count
        x = x.contiguous()
        y = torch.empty_like(x)
        mean, var, rstd = x.new_empty(3, x.shape[-1])
        valid = _valid_rows(x, mask)
        arrays = backends.arrays(_rows(x), valid, weight, bias)
        number = ctx.kernels.forward(*arrays, eps, *backends.arrays(_rows(y), mean, var, rstd))
        count = x.new_tensor(number)
        ctx.save_for_backward(x, valid, weight, mean, rstd, count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # noqa: ANN001
        if ctx.kernels is not None:
            x, valid, weight, mean, rstd, count = ctx.saved_tensors
            grad_x, grad_weight, grad_bias = (torch.empty_like(t) for t in (x, weight, weight))
            arrays = backends.arrays(_rows(x), valid, weight, mean, rstd)
            grads = backends.arrays(_rows(grad.contiguous()), _rows(grad_x), grad_weight, grad_bias)
            ctx.kernels.backward(*arrays, int(count), *grads)
            return grad_x, None, grad_weight, grad_bias, None
        normed, mask, weight, rstd, count = ctx.saved_tensors
        channels = normed.shape[-1]
        rows = grad.reshape(-1, channels)
        ones = rows.new_ones(len(rows))
        grad_bias = full_matmul(ones, rows)
        grad_weight = full_matmul(ones, rows * normed.reshape(-1, channels))
        shared = torch.addcmul(grad_bias, normed, grad_weight).div_(count)
        if mask is not None:
            shared = shared.mul_(mask.view(*mask.shape, *[1] * (shared.dim() - 2)))
        return (grad - shared).mul_(weight * rstd), None, grad_weight, grad_bias, None


class _FusedBatchNorm(torch.autograd.Function):
    """The same by Triton kernels, which compute normalised values again in the backward pass."""

    @staticmethod
    def forward(ctx, x, mask, weight, bias, eps):  # noqa: ANN001
        ctx.kernels = backends.fused_kernels("batch_norm")
        y, mean, var, rstd, count = ctx.kernels.forward(x, mask, weight, bias, eps)
        ctx.save_for_backward(x, mask, weight, mean, rstd, count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # noqa: ANN001
        grad_x, grad_weight, grad_bias = ctx.kernels.backward(*ctx.saved_tensors, grad)
        return grad_x, None, grad_weight, grad_bias, None


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _valid_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return which rows of ``x`` ``(B, N, ..., C)`` are of valid frames."""
    positions = x[0, 0].numel() // x.shape[-1] if x.numel() else 1
    if mask is None:
        return torch.ones(x.shape[0] * x.shape[1] * positions, dtype=torch.bool)
    return mask.flatten().repeat_interleave(positions) if positions > 1 else mask.flatten()


def _kernels(x: Tensor, weight: Tensor) -> ModuleType | None:
    usable = x.dtype == weight.dtype and x.numel()
    return backends.compiled(x, "batch_norm") if usable else None
