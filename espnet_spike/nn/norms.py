"""Normalisation before a neuron: LayerNorm, batch norm over valid frames, dynamic tanh."""

from types import ModuleType

import torch
from torch import Tensor, nn

from espnet_spike.nn.checkpointing import is_recomputing
from espnet_spike.nn.distributed import all_reduce_sum, distributed
from espnet_spike.nn.ops import backends
from espnet_spike.utils.options import choose


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the valid frames of ``(B, N, ..., C)``; padding has no say.

    In evaluation it is one multiplication and addition per channel with running statistics, which
    fold into the next linear layer (see ``affine``). Under distributed training the statistics
    are summed over all processes.

    Args:
        dim: number of channels.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
    """

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.weight._no_weight_decay = True  # ESPnet's mark for exclude_weight_decay
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``x`` ``(B, N, ..., C)``; ``mask`` ``(B, N)`` is true on valid frames."""
        dtype = x.dtype
        if dtype in (torch.bfloat16, torch.float16):
            x = x.float()
        if self.training and not distributed():
            y, mean, var, count = _BatchNorm.apply(x, mask, self.weight, self.bias, self.eps)
            if not is_recomputing():
                self._update_running(mean, var, count)
            return y.to(dtype)
        if self.training:
            mean, var, count = masked_moments(x, mask)
            if not is_recomputing():
                self._update_running(mean.detach(), var.detach(), count)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul(self.bias - mean * scale, x, scale).to(dtype)

    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        unbiased = var * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return ``(scale, shift)``, each ``(C,)``, of the evaluation mode: y = x*scale + shift."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


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
        arrays = _numpy(_rows(x), valid, weight, bias)
        number = ctx.kernels.forward(*arrays, eps, *_numpy(_rows(y), mean, var, rstd))
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
            arrays = _numpy(_rows(x), valid, weight, mean, rstd)
            grads = _numpy(_rows(grad.contiguous()), _rows(grad_x), grad_weight, grad_bias)
            ctx.kernels.backward(*arrays, int(count), *grads)
            return grad_x, None, grad_weight, grad_bias, None
        normed, mask, weight, rstd, count = ctx.saved_tensors
        channels = normed.shape[-1]
        rows = grad.reshape(-1, channels)
        ones = rows.new_ones(len(rows))
        grad_bias = ones @ rows
        grad_weight = ones @ (rows * normed.view(-1, channels))
        shared = torch.addcmul(grad_bias, normed, grad_weight).div_(count)
        if mask is not None:
            shared = shared.mul_(mask.view(*mask.shape, *[1] * (shared.dim() - 2)))
        return (grad - shared).mul_(weight * rstd), None, grad_weight, grad_bias, None


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _valid_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return which rows of ``x`` ``(B, N, ..., C)`` are of valid frames."""
    positions = x[0, 0].numel() // x.shape[-1] if x.numel() else 1
    if mask is None:
        return torch.ones(x.shape[0] * x.shape[1] * positions, dtype=torch.bool)
    return mask.flatten().repeat_interleave(positions) if positions > 1 else mask.flatten()


def _numpy(*tensors: Tensor) -> list:
    return [tensor.detach().numpy() for tensor in tensors]


def _kernels(x: Tensor, weight: Tensor) -> ModuleType | None:
    """Return the compiled form where it can run; torch does the same, slower."""
    if x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return None
    usable = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64) and x.numel()
    if not usable or not backends.available():
        return None
    from espnet_spike.nn.ops import batch_norm_numba

    return batch_norm_numba


def masked_moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance ``(C,)`` and count (0-dim) of the valid frames of ``x``.

    Summed over all processes when ``torch.distributed`` runs; two passes, so that a large mean
    does not eat the variance.
    """
    weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
    weight = weight.flatten()
    frames, channels = x.flatten(0, 1).flatten(1), x.shape[-1]
    positions = frames.shape[1] // channels

    def total(values: Tensor) -> Tensor:
        # a matrix-vector product is the fastest weighted sum over rows
        return all_reduce_sum((weight @ values).view(positions, channels).sum(0))

    count = all_reduce_sum(weight.sum() * positions).clamp(min=1)
    mean = total(frames) / count
    var = total((frames - mean.repeat(positions)).square()) / count
    return mean, var, count


class DyT(nn.Module):
    """Dynamic tanh: y = weight * tanh(a * x) + bias, a norm without statistics."""

    def __init__(self, dim: int, a_init: float = 0.5) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a_init))
        self.weight = nn.Parameter(torch.ones(dim))
        for parameter in (self.a, self.weight):
            parameter._no_weight_decay = True
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Squash ``x`` ``(..., C)``; ``mask`` is not needed."""
        return torch.addcmul(self.bias, torch.tanh(self.a * x), self.weight)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over channels (eps as in ESPnet's), called like the masked norms."""

    def __init__(self, dim: int, eps: float = 1e-12) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise every frame of ``x`` ``(..., C)``; ``mask`` is not needed."""
        return super().forward(x)


NORMS = {"ln": LayerNorm, "bn": MaskedBatchNorm, "dyt": DyT}


def build_norm(norm: str, dim: int) -> nn.Module:
    """Return the norm named ``norm``.

    Raises:
        ValueError: for a name not in ``NORMS``.
    """
    return NORMS[choose("norm", norm, NORMS)](dim)
