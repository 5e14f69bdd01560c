"""Build a model from a configuration without weights, to check or describe it."""

import argparse
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import quiet

# when neither spike_meta nor the command line says
VOCAB_SIZE = 30
INPUT_SIZE = 80


def build_on_meta(task: type, args: argparse.Namespace) -> Any:
    """Build a task's model without memory for its parameters; ``args`` stay as they are."""
    import torch

    with quiet():
        try:
            with parameters_on_meta():
                model = task.build_model(copy.deepcopy(args))
            return model.to("meta")
        except Exception:  # a constructor may compute with parameters: then all has to be there
            with torch.device("meta"):
                return task.build_model(copy.deepcopy(args))


def parameters_on_meta() -> AbstractContextManager[Any]:
    """Create parameters on the meta device, where they need no memory; other tensors on the CPU.

    ``torch.device("meta")`` puts all tensors there. Computing with them, as positional encodings
    do, makes torch import its compiler, which takes longer than to build a model.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class ParametersOnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty and kwargs.get("device") is None:  # as torch.nn's modules do
                kwargs = kwargs | {"device": "meta"}
            if func in (torch.Tensor.normal_, torch.nn.init.normal_):
                tensor = args[0] if args else kwargs["tensor"]
                if tensor.is_meta:  # there are no values to draw
                    return tensor
            return func(*args, **kwargs)

    return ParametersOnMeta()


def token_names(vocab_size: int) -> list[str]:
    """Return a token list of a given size, to build a model with.

    Raises:
        UserError: too small for the three tokens every model has.
    """
    if vocab_size < 3:
        raise UserError(f"vocab_size {vocab_size} is too small", "a model has at least 3 tokens")
    return ["<blank>", "<unk>", *(f"t{i}" for i in range(2, vocab_size - 1)), "<sos/eos>"]
