"""Build a model from a configuration without weights, to check or describe it."""

import argparse
import copy
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import quiet

# when neither spike_meta nor the command line says
VOCAB_SIZE = 30
INPUT_SIZE = 80


def build_on_meta(task: type, args: argparse.Namespace) -> Any:
    """Build a task's model without memory for its parameters; ``args`` stay as they are."""
    import torch

    with quiet(), torch.device("meta"):
        return task.build_model(copy.deepcopy(args))


def token_names(vocab_size: int) -> list[str]:
    """Return a token list of a given size, to build a model with.

    Raises:
        UserError: too small for the three tokens every model has.
    """
    if vocab_size < 3:
        raise UserError(f"vocab_size {vocab_size} is too small", "a model has at least 3 tokens")
    return ["<blank>", "<unk>", *(f"t{i}" for i in range(2, vocab_size - 1)), "<sos/eos>"]
