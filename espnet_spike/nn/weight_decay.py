"""Parameters that weight decay leaves alone."""

from typing import Any

from torch import nn


def without_weight_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a parameter as ESPnet's ``exclude_weight_decay`` looks for it; return it."""
    marked: Any = parameter
    marked._no_weight_decay = True
    return parameter
