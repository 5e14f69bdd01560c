"""Sums that stay in fp32 under autocast: those of many frames or of spike counts.

bf16 has 8 bits, so a sum of 300 spikes is 300 no more; in fp16 one over 65504 is inf.
"""

import torch
from torch import Tensor


def full_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b``, computed and returned in fp32 at least, whatever the autocast state."""
    a, b = _promoted(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def full_einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """Return ``torch.einsum(equation, a, b)``, likewise."""
    a, b = _promoted(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return torch.einsum(equation, a, b)


def _promoted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype)
