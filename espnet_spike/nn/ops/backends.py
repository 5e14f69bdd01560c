"""Which kernels can run here, and the threads that run compiled ones."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def can_compile(x: Tensor) -> bool:
    """Return whether compiled kernels can take ``x``; where not, torch loops do the same."""
    if x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return available()


@functools.cache
def scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` compiled by TorchScript, once a process."""
    with warnings.catch_warnings():
        # deprecated, and the only way into a graph of torch.onnx.export without onnxscript
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


# A scan with fewer state updates than this is done before threads would have started.
SMALL = 1 << 19


def available() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


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
    return ThreadPoolExecutor(threads, thread_name_prefix="selective_scan")


# a forked child inherits the pool but not its threads
os.register_at_fork(after_in_child=_pool.cache_clear)
