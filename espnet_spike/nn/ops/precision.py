"""What stays in fp32 under autocast, whatever the precision of its inputs.

bf16 has 8 bits, so a sum of 300 spikes is 300 no more; in fp16 one over 65504 is inf. What is in
half precision, and what is not, is listed in docs/machines.md.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Return a context in which tensors keep their precision; of any device, ``meta`` as well."""
    if device_type == "meta":
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def at_least_fp32(x: Tensor) -> Tensor:
    """Return ``x`` in single precision at least: what a threshold or a sum of many is asked of."""
    return x.float() if x.dtype in HALVES else x


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
