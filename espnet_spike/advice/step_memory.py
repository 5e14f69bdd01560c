"""What a training step of an encoder holds beside its weights, from shapes alone.

The step runs on the meta device, whose tensors have sizes and no memory, along the way of the
compiled CPU kernels, which do nothing there. What it allocates and frees is added up. On a CPU the
same sum is measured by running the step.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from espnet_spike.nn.ops import backends, selective_scan


class AllocatedMemory(TorchDispatchMode):
    """Adds up the bytes of tensors that are made within the context, and takes off freed ones.

    Attributes:
        held: bytes of tensors that live now.
        peak: the most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and note what it has made."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1  # a value that has no say in sizes
        found = func(*args, **(kwargs or {}))
        for before in tree_leaves((args, kwargs)):
            if isinstance(before, Tensor):
                self._known.setdefault(before.untyped_storage(), None)
        for made in tree_leaves(found):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = None
        size = storage.nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.held -= size


def step_memory(encoder: nn.Module, features: Tensor, lengths: Tensor) -> int:
    """Return the peak bytes of a training step beside weights and gradients.

    Args:
        encoder: in training; on its device.
        features: ``(B, F, D)``, on the same.
        lengths: ``(B,)``.
    """
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with AllocatedMemory() as memory:
        found = encoder(features, lengths)[0]
        # with intermediate CTC losses there are the outputs of other blocks besides
        outputs = [found[0], *(x for _, x in found[1])] if isinstance(found, tuple) else [found]
        torch.stack([x.square().mean() for x in outputs]).sum().backward()
    return memory.peak


def predicted_memory(encoder: nn.Module, batch: int, frames: int, features: int) -> int:
    """Return ``step_memory`` from shapes alone.

    Args:
        encoder: in training, on the meta device.
        batch: utterances, all of the same length.
        frames: of each.
        features: D, values of a frame.
    """
    x = torch.empty(batch, frames, features, device="meta")
    lengths = torch.full((batch,), frames, device="meta")
    with idle_kernels():
        with (
            torch.no_grad(),
            AllocatedMemory(),
        ):  # tables of positions come to the device at the first pass
            encoder(x, lengths)
        return step_memory(encoder, x, lengths)


class _Idle(ModuleType):
    """Stands for a module of kernels: its sizes, and functions that do nothing."""

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels.__name__)
        self.kernels = kernels

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.kernels, name)
        return (lambda *_: 0) if callable(found) else found


@contextmanager
def idle_kernels() -> Iterator[None]:
    """Let tensors without memory go the way of the CPU's kernels, which do nothing."""
    kernels = backends.kernels
    changes: list[tuple[ModuleType, str, Callable]] = [
        (backends, "compiled", lambda x, op: _Idle(kernels(op)) if x.is_meta else None),
        (backends, "kernels", lambda op: _Idle(kernels(op))),
        (backends, "arrays", lambda *tensors: []),
        (backends, "in_ranges", lambda *_: None),
        (
            selective_scan,
            "_choose_backend",
            lambda asked, *_: "torch" if asked == "torch" else "numba",
        ),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, function in changes:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
