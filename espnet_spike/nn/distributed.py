"""Sums over the processes of one training."""

import torch
from torch import Tensor


def distributed() -> bool:
    """Return whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, differentiably; ``x`` itself in a single process."""
    if not distributed():
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)
