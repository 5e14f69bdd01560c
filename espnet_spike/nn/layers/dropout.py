"""Dropout whose masks are cheap to draw on CPUs."""

import torch
from torch import Tensor, nn

LEVELS = 1 << 16  # of a random number of 16 bits


class Dropout(nn.Dropout):
    """``nn.Dropout``; on CPUs four values share one random number of torch's generator.

    torch draws 64 bits a value there, which takes longer than the layer before it. Here a value
    has 16 bits: the rate is rounded to 1/65536, and what is kept is scaled by the rounded rate.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, of any shape, a share ``p`` of it zero, the rest times 1 / (1 - p)."""
        kept = round((1 - self.p) * LEVELS)
        plain = x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling()
        if plain or not self.training or not 0 < kept < LEVELS or not x.numel():
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        # as floats in place: comparing integers is no vector code in torch
        scale = draws.view(torch.int16)[: x.numel()].float().lt_(kept - LEVELS // 2)
        return x * scale.mul_(LEVELS / kept).view(x.shape).to(x.dtype)
