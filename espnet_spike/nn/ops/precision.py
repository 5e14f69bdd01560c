"""Sums that stay in fp32 under autocast: those of many frames or of spike counts.

bf16 has 8 bits, so a sum of 300 spikes is 300 no more; in fp16 one over 65504 is inf.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Return a context in which tensors keep their precision; of any device, ``meta`` as well."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def full_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b``, computed and returned in fp32 at least, whatever the autocast state."""
    a, b = _promoted(a, b)
    with without_autocast(a.device.type):
        return a @ b


def full_einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """Return ``torch.einsum(equation, a, b)``, likewise."""
    a, b = _promoted(a, b)
    with without_autocast(a.device.type):
        return torch.einsum(equation, a, b)


def _promoted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype)
