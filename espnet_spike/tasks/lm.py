"""The language model task of ESPnet with this package's trainer."""

from espnet_spike.tasks.espnet import LMTask
from espnet_spike.tasks.loaders import BoundedLoaders
from espnet_spike.tasks.trainer import SpikeTrainer


class SpikeLMTask(BoundedLoaders, LMTask):
    """``LMTask`` whose trainer records each epoch."""

    trainer = SpikeTrainer
    # its loss is a mean over tokens, in nats
    has_perplexity = True
