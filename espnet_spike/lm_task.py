"""The language model task of ESPnet with this package's trainer."""

from espnet_spike.batch_scan import RemembersShapes
from espnet_spike.espnet_tasks import LMTask
from espnet_spike.trainer import SpikeTrainer


class SpikeLMTask(RemembersShapes, LMTask):
    """``LMTask`` whose trainer records each epoch."""

    trainer = SpikeTrainer
