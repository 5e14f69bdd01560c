"""ESPnet's tasks and its inference, imported late: see `late_imports`."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from espnet_spike.tasks.late_imports import late_imports

if TYPE_CHECKING:
    from espnet2.bin import asr_inference

with late_imports():
    from espnet2.tasks.asr import ASRTask, decoder_choices, encoder_choices, model_choices
    from espnet2.tasks.lm import LMTask

__all__ = [
    "ASRTask",
    "LMTask",
    "asr_inference",
    "decoder_choices",
    "encoder_choices",
    "model_choices",
]


def __getattr__(name: str) -> ModuleType:
    """Import ``asr_inference``, a module, when it is asked for."""
    if name != "asr_inference":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with late_imports():
        return importlib.import_module("espnet2.bin.asr_inference")
