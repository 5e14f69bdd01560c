"""Gradient checkpointing for layers with state: the second run of a layer must repeat the first.

A running statistic is updated in the first run only, so that the run that the backward pass makes
for its gradients sees the value of the first.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

_state = threading.local()


def inside_checkpoint() -> bool:
    """Tell whether a checkpointed layer is running, for the first or the second time."""
    return getattr(_state, "run", 0) > 0


def is_recomputing() -> bool:
    """Tell whether a checkpointed layer is running for its gradients only."""
    return getattr(_state, "run", 0) == 2


@contextmanager
def _run(number: int) -> Iterator[None]:
    before = getattr(_state, "run", 0)
    _state.run = number
    try:
        yield
    finally:
        _state.run = before


def checkpoint(function: Callable[..., Tensor], *args: object) -> Tensor:
    """Return ``function(*args)``, keeping its inputs only; the backward pass runs it again."""
    found: Any = torch_checkpoint(
        function, *args, use_reentrant=False, context_fn=lambda: (_run(1), _run(2))
    )
    return found
