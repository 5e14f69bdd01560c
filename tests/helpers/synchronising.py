"""What a GPU would have to be waited for: values that Python reads, sizes that depend on values.

On a CPU the operations are the same, so a step can be watched there. What reaches past torch's
dispatcher on a CPU (``tolist``, ``numpy``, ``cpu``) is seen as a call of Python.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from typing import get_args

import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_spike.nn.ops import backends

CALLS = {
    "tolist", "numpy", "cpu", "item", "nonzero", "__bool__", "__int__", "__float__", "__index__",
    "__complex__", "__array__", "__contains__",
}  # fmt: skip
# lift_fresh: a tensor of Python's numbers, which is copied from memory that is not pinned;
# CTC copies lengths to the CPU
OPERATIONS = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh",
    "_ctc_loss", "unique_dim", "_unique2", "unique_consecutive", "bincount",
}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
OURS, ESPNET = "/espnet_spike/", "/site-packages/espnet2/"


def _place() -> tuple[str, str]:
    """Return who makes the operation, and the place in its code, without lines."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        for owner in (ESPNET, OURS):
            if owner in path and "/tests/" not in path:
                return owner, f"{path.rpartition(owner)[2]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "", "torch itself"


def _depends_on_values(name: str, args: tuple, kwargs: dict) -> bool:
    if name in OPERATIONS:
        return True
    if name in INDEXED:
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        # one number for all places of a mask is filled in without an index
        return bool(masks) and not (name != "index" and args[2].numel() == 1)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return False


class _Launch:
    """Stands for a kernel: ``kernel[grid](...)`` is noted."""

    def __init__(self, launches: Counter, name: str) -> None:
        self.launches, self.name = launches, name

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.launches[self.name] += 1

        return launch


class Watch(TorchDispatchMode):
    """Notes, within the context, what waits and how many operations there are.

    Attributes:
        waits: (owner, place, operation) -> how often.
        operations: by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter = Counter()
        self.operations: Counter = Counter()
        self.calls = _Calls(self)

    def note(self, name: str) -> None:
        self.waits[*_place(), name] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.operations[name] += 1
        if _depends_on_values(name, args, kwargs):
            self.note(name)
        return func(*args, **kwargs)

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.calls.__exit__(*error)


class _Calls(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = (resolve_name(func) or "").rpartition(".")[2]
        if name in CALLS:
            self.watch.note(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def the_way_of_a_gpu():
    """Let tensors of a CPU go the way of those of a GPU, up to the launches, which do nothing.

    So values are whatever the memory held; what is launched, and what waits, does not depend on
    them. numba's kernels, which read memory, are none of that way.
    """
    kernels = [backends.fused_kernels(name) for name in get_args(backends.FusedOperation)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "on_gpu", lambda x: True)
        patch.setattr(backends, "fusing", lambda device: True)
        patch.setattr(backends, "compiled", lambda x, operation: None)
        patch.setattr(backends, "arrays", None)
        launches = Counter()
        for module in kernels:
            for name, kernel in vars(module).items():
                if type(kernel).__name__ in ("JITFunction", "InterpretedFunction"):
                    patch.setattr(module, name, _Launch(launches, name))
        yield launches
