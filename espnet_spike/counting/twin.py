"""The dense twin of an encoder: the same size without spikes or thresholds, and what it costs."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from espnet_spike.counting.costs import Costs
from espnet_spike.counting.counter import Counter


def twin_config(encoder: str, conf: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return name and options of the twin's encoder; None for an encoder that is its own twin.

    IML-Spikeformer gets ``neuron: relu`` and its training form (no merged matrices); the
    event-driven and the spiking SpeechMamba get the dense SpeechMamba.
    """
    if encoder == "iml_spikeformer":
        changed = {"neuron": "relu", "fold_qk": False, "reparameterized": False}
        return encoder, {**conf, **changed}
    if encoder in ("event_speech_mamba", "spiking_speech_mamba"):
        from espnet_spike.encoders.speech_mamba import Backbone

        shared = {f.name for f in fields(Backbone)}
        return "speech_mamba", {name: value for name, value in conf.items() if name in shared}
    return None


class Twin:
    """Counts the dense twin of an encoder, by the number of input frames.

    Its dense counts depend on the length alone, so it runs without weights on the meta device.

    Args:
        encoder: name of the encoder.
        conf: its options.
        input_size: feature dimension.
    """

    def __init__(self, encoder: str, conf: Mapping[str, Any], input_size: int) -> None:
        from espnet_spike.tasks.asr import SpikeASRTask

        config = twin_config(encoder, conf)
        self.encoder: nn.Module | None = None
        self._known: dict[int, Costs] = {}
        if config is None:
            return
        choices = {c.name: c for c in SpikeASRTask.class_choices_list}["encoder"]
        with torch.device("meta"):
            cls: Any = choices.get_class(config[0])
            self.encoder = cls(input_size=input_size, **config[1]).eval()
        self.input_size = input_size

    def costs(self, frames: int) -> Costs | None:
        """Return what ``frames`` frames cost; None for an encoder that is its own twin."""
        if self.encoder is None:
            return None
        if frames not in self._known:
            x = torch.zeros(1, frames, self.input_size, device="meta")
            with torch.inference_mode(), Counter(self.encoder, "encoder", dense=True) as counter:
                self.encoder(x, torch.full((1,), frames, device="meta"))
            self._known[frames] = dict(counter.costs)
        return self._known[frames]
