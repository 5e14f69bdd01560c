"""The ASR task of ESPnet with this package's encoders, model and trainer.

Importing this module registers everything. ESPnet's multi-GPU training pickles the task class by
its name, so the spawned processes import this module and register as well.
"""

import argparse

from espnet_spike.tasks.espnet import ASRTask
from espnet_spike.tasks.loaders import BoundedLoaders
from espnet_spike.tasks.registry import register_all
from espnet_spike.tasks.trainer import SpikeTrainer

register_all()


class SpikeASRTask(BoundedLoaders, ASRTask):
    """``ASRTask`` whose default model logs firing rates and whose trainer records each epoch."""

    trainer = SpikeTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ESPnet's own arguments; the default of ``--model`` is ``spike_asr``."""
        super().add_task_arguments(parser)
        parser.set_defaults(model="spike_asr")
