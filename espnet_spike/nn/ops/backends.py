"""Which form of an operation can run here, and the threads that run compiled ones.

``ops/NAME.py`` asks ``compiled(x, NAME)`` for the numba kernels of the operation, which are in
``ops/NAME_numba.py``, and ``fused(x, NAME)`` for the Triton kernels in ``ops/triton/NAME.py``; it
computes the same in torch where it gets None. Kernels are imported here only, on first use: no
other module of ours loads numba or Triton.
"""

import functools
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

Operation = Literal["batch_norm", "fatrelu", "imls", "lif", "selective_scan"]
FusedOperation = Literal[
    "batch_norm", "decay_attention", "fatrelu", "imls", "lif", "selective_scan"
]
DTYPES = (torch.float32, torch.float64)
GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST_GPU = (8, 0)  # compute capability: before it there is no bf16, and our kernels are unproven
# An operation of fewer elementary steps than this is done before threads would have started.
SMALL = 1 << 19


def compiled(x: Tensor, operation: Operation) -> ModuleType | None:
    """Return the numba kernels of ``operation`` where they can take ``x``, else None.

    They can on a CPU, in float32 and float64, outside of tracing and of ``torch.compile`` (where
    they would be a constant), if numba is installed.
    """
    if x.device.type != "cpu" or x.dtype not in DTYPES:
        return None
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or not available():
        return None
    return kernels(operation)


@functools.cache
def available() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def kernels(operation: Operation) -> ModuleType:
    """Import the numba kernels of ``operation``; they compile on first use, cached on disk.

    Raises:
        ImportError: numba is not installed.
    """
    match operation:
        case "batch_norm":
            from espnet_spike.nn.ops import batch_norm_numba as found
        case "fatrelu":
            from espnet_spike.nn.ops import fatrelu_numba as found
        case "imls":
            from espnet_spike.nn.ops import imls_numba as found
        case "lif":
            from espnet_spike.nn.ops import lif_numba as found
        case "selective_scan":
            from espnet_spike.nn.ops import selective_scan_numba as found
    return found


def fused(x: Tensor, operation: FusedOperation) -> ModuleType | None:
    """Return the Triton kernels of ``operation`` where they can take ``x``, else None.

    They can on a CUDA GPU that Triton knows, in half and single precision, outside of tracing and
    of ``torch.compile``.
    """
    if not on_gpu(x) or x.dtype not in GPU_DTYPES or not x.numel():
        return None
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or not fusing(x.device.index or 0):
        return None
    return fused_kernels(operation)


def on_gpu(x: Tensor) -> bool:
    """Return whether ``x`` lies where Triton's kernels run."""
    return x.device.type == "cuda"


@functools.cache
def fusing(device: int) -> bool:
    """Return whether Triton can compile for a GPU; says so once in the log if it cannot."""
    why = None
    if importlib.util.find_spec("triton") is None:
        why = "Triton is not installed (it comes with torch's CUDA packages on Linux)"
    elif torch.cuda.get_device_capability(device) < OLDEST_GPU:
        why = f"the GPU {torch.cuda.get_device_name(device)} is older than Triton's oldest"
    if why:
        logging.warning(f"GPU kernels: {why}; scans, neurons and attention run in plain torch")
    return why is None


@functools.cache
def fused_kernels(operation: FusedOperation) -> ModuleType:
    """Import the Triton kernels of ``operation``; they compile on first use, cached on disk.

    Raises:
        ImportError: Triton is not installed.
    """
    match operation:
        case "batch_norm":
            from espnet_spike.nn.ops.triton import batch_norm as found
        case "decay_attention":
            from espnet_spike.nn.ops.triton import decay_attention as found
        case "fatrelu":
            from espnet_spike.nn.ops.triton import fatrelu as found
        case "imls":
            from espnet_spike.nn.ops.triton import imls as found
        case "lif":
            from espnet_spike.nn.ops.triton import lif as found
        case "selective_scan":
            from espnet_spike.nn.ops.triton import selective_scan as found
    return found


def arrays(*tensors: Tensor) -> list:
    """Return what kernels take: numpy arrays that share the memory of the tensors."""
    return [tensor.detach().numpy() for tensor in tensors]


@functools.cache
def scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` compiled by TorchScript, once per process."""
    with warnings.catch_warnings():
        # deprecated, and the only way into a graph of torch.onnx.export without onnxscript
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


def in_ranges(kernel: Callable[..., None], arguments: list, tasks: int, work: int) -> None:
    """Run all tasks of a compiled kernel in ranges, sharing them out among threads.

    Args:
        kernel: called as ``kernel(*arguments, first, last)``; releases the interpreter lock.
        arguments: of every call.
        tasks: how many there are.
        work: total of elementary operations, which tells whether threads pay.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1 or work < SMALL:
        kernel(*arguments, 0, tasks)
        return
    # some ranges more than threads, as not every thread gets a whole core
    step = -(-tasks // (4 * threads))
    starts = range(0, tasks, step)
    futures = [
        _pool(threads).submit(kernel, *arguments, at, min(at + step, tasks)) for at in starts
    ]
    for future in futures:
        future.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")


# a forked child inherits the pool but not its threads
os.register_at_fork(after_in_child=_pool.cache_clear)
