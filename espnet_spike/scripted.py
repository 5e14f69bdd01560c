"""Loops over frames in a traced graph.

``torch.jit.trace``, with which a model is exported, writes down the operations of one length. A
loop over frames that is compiled by TorchScript stays a loop in it, of any length.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` compiled by TorchScript, once a process."""
    with warnings.catch_warnings():
        # deprecated, and the only way into a graph of torch.onnx.export without onnxscript
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)
