"""Normalisation before a neuron: LayerNorm, batch norm over valid frames, dynamic tanh."""

import torch
from torch import Tensor, nn

from espnet_spike.nn.accounting import CostLedger, Counted
from espnet_spike.nn.checkpointing import is_recomputing
from espnet_spike.nn.distributed import all_reduce_sum, distributed
from espnet_spike.nn.ops.batch_norm import batch_norm, masked_moments
from espnet_spike.nn.ops.precision import at_least_fp32, without_autocast
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose


class MaskedBatchNorm(Counted, nn.Module):
    """Batch normalisation over the valid frames of ``(B, N, ..., C)``; padding has no say.

    In evaluation it is one multiplication and addition per channel with running statistics, which
    fold into the next linear layer (see ``affine``). Under distributed training the statistics
    are summed over all processes.

    Args:
        dim: number of channels.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = without_weight_decay(nn.Parameter(torch.ones(dim)))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``x`` ``(B, N, ..., C)``; ``mask`` ``(B, N)`` is true on valid frames."""
        dtype = x.dtype
        x = at_least_fp32(x)
        if self.training and not distributed():
            y, mean, var, count = batch_norm(x, mask, self.weight, self.bias, self.eps)
            if not is_recomputing():
                self._update_running(mean, var, count)
            return y.to(dtype)
        if self.training:
            mean, var, count = masked_moments(x, mask, all_reduce_sum)
            if not is_recomputing():
                self._update_running(mean.detach(), var.detach(), count)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul(self.bias - mean * scale, x, scale).to(dtype)

    def count(self, ledger: CostLedger, inputs: tuple, output: Tensor) -> None:
        """Count one multiplication and one addition each; merged weights are ready."""
        cost = ledger.cost("norm")
        cost.multiplies += output.numel()
        cost.additions += output.numel()
        cost.values_read += output.numel()
        cost.values_written += output.numel()

    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        unbiased = var * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return ``(scale, shift)``, each ``(C,)``, of the evaluation mode: y = x*scale + shift."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class DyT(nn.Module):
    """Dynamic tanh: y = weight * tanh(a * x) + bias, a norm without statistics."""

    def __init__(self, dim: int, a_init: float = 0.5) -> None:
        super().__init__()
        self.a = without_weight_decay(nn.Parameter(torch.tensor(a_init)))
        self.weight = without_weight_decay(nn.Parameter(torch.ones(dim)))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Squash ``x`` ``(..., C)``; ``mask`` is not needed."""
        return torch.addcmul(self.bias, torch.tanh(self.a * at_least_fp32(x)), self.weight)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over channels (eps as in ESPnet's), called like the masked norms.

    Args:
        dim: number of channels, or sizes of the last axes.
        eps: added to the variance.
    """

    def __init__(self, dim: int | list[int], eps: float = 1e-12) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise every frame of ``x`` ``(..., C)``, in fp32 at least; ``mask`` is not needed."""
        with without_autocast(x.device.type):
            return super().forward(at_least_fp32(x))


NORMS = {"ln": LayerNorm, "bn": MaskedBatchNorm, "dyt": DyT}


def build_norm(norm: str, dim: int) -> nn.Module:
    """Return the norm named ``norm``.

    Raises:
        ValueError: for a name not in ``NORMS``.
    """
    return NORMS[choose("norm", norm, NORMS)](dim)
