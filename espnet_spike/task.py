"""The public door to our ASR task; importing it registers our classes with ESPnet."""

from espnet_spike.tasks.asr import SpikeASRTask

__all__ = ["SpikeASRTask"]
