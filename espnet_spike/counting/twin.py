"""The dense twin of an encoder: the same size without spikes or thresholds, and what it costs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from espnet_spike.counting.costs import Costs
from espnet_spike.counting.counter import Counter


def find_twin(
    encoder: type, conf: Mapping[str, Any]
) -> tuple[Callable[..., nn.Module], dict[str, Any]] | None:
    """Return class and options of the twin of an encoder; None for one that is its own twin.

    The encoder's class says it: a method ``twin`` as that of ``BlockEncoder``. One that has none is
    taken for dense.

    Args:
        encoder: the class, ours, ESPnet's or a plugin's.
        conf: its options.
    """
    ask = getattr(encoder, "twin", None)
    return None if ask is None else ask(conf)


def encoder_input_size(model: Any, input_size: int | None) -> int:
    """Return the dimension of what the encoder of an ``ESPnetASRModel`` gets.

    Args:
        model: with its front end, if it has one.
        input_size: feature dimension; None of a model that takes audio.
    """
    for part in (model.preencoder, model.frontend):
        if part is not None:
            return part.output_size()
    if input_size is None:
        raise ValueError("neither features nor a front end")
    return input_size


class Twin:
    """Counts the dense twin of an encoder, by the number of input frames.

    Its dense counts depend on the length alone, so it runs without weights on the meta device.

    Args:
        encoder: name of the encoder.
        conf: its options.
        input_size: dimension of what the encoder gets, see `encoder_input_size`.
    """

    def __init__(self, encoder: str, conf: Mapping[str, Any], input_size: int) -> None:
        from espnet_spike.tasks.asr import SpikeASRTask

        choices = {c.name: c for c in SpikeASRTask.class_choices_list}["encoder"]
        cls: Any = choices.get_class(encoder)
        found = find_twin(cls, conf)
        self.encoder: nn.Module | None = None
        self._known: dict[int, Costs] = {}
        self.input_size = input_size
        if found is None:
            return
        dense, options = found
        with torch.device("meta"):
            self.encoder = dense(input_size=input_size, **options).eval()

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
