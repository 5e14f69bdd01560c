"""ESPnet's tasks and its inference, imported late: see `late_imports`.

Their datasets read the features that ``kaldi_ark`` names by our reader, which runs no command and
no pickle, whatever the file says. All of ESPnet that reads data is imported here.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from espnet_spike.data.ark import FeatureTable, read_entry
from espnet_spike.tasks.late_imports import late_imports

if TYPE_CHECKING:
    from espnet2.bin import asr_inference

with late_imports():
    from espnet2.tasks.asr import ASRTask, decoder_choices, encoder_choices, model_choices
    from espnet2.tasks.lm import LMTask
    from espnet2.train import dataset, iterable_dataset

# by ESPnet's option --train_data_path_and_name_and_type feats.scp,speech,kaldi_ark and its like
dataset.DATA_TYPES["kaldi_ark"] |= {"func": FeatureTable, "kwargs": []}
iterable_dataset.DATA_TYPES["kaldi_ark"] = read_entry
ESPnetDataset = dataset.ESPnetDataset

__all__ = [
    "ASRTask",
    "ESPnetDataset",
    "LMTask",
    "asr_inference",
    "dataset",
    "decoder_choices",
    "encoder_choices",
    "iterable_dataset",
    "model_choices",
]


def __getattr__(name: str) -> ModuleType:
    """Import ``asr_inference``, a module, when it is asked for."""
    if name != "asr_inference":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with late_imports():
        return importlib.import_module("espnet2.bin.asr_inference")
