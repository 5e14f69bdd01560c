"""Spikes of every layer while an encoder runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from espnet_spike.nn.layers.fatrelu import FATReLU, named_fatrelus
from espnet_spike.nn.neurons.base import Neuron, named_neurons
from espnet_spike.nn.neurons.imls import IMLS, frame_rows
from espnet_spike.nn.neurons.lif import ILIF
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.neurons.ternary import TernaryMomentum


@dataclass(frozen=True)
class LayerSpikes:
    """The spikes of one layer.

    Attributes:
        name: of the neuron layer inside the encoder.
        counts: ``(N, C)`` spikes of each frame and neuron; bins and channels on one axis.
        levels: most spikes an entry can hold.
    """

    name: str
    counts: np.ndarray
    levels: int


@contextmanager
def layer_spikes(encoder: nn.Module) -> Iterator[dict[str, LayerSpikes]]:
    """Collect the spikes of every neuron layer, or what FATReLUs let pass, within the context."""
    found: dict[str, LayerSpikes] = {}
    modules = named_neurons(encoder) or named_fatrelus(encoder)

    def keep(name: str, module: nn.Module, args: tuple, out: Tensor | SpikeTrain) -> None:
        counts, levels = spike_counts(module, args, out)
        if "ssm_reverse" in name:  # runs from the end to the start
            counts = counts.flip(0)
        found[name] = LayerSpikes(name, counts.flatten(1).numpy(), levels)

    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: keep(name, m, args, out))
        for name, module in modules.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def spike_counts(
    module: Neuron | FATReLU, args: tuple, out: Tensor | SpikeTrain
) -> tuple[Tensor, int]:
    """Return the spikes of one utterance, ``(N, ..., C)``, and the most that an entry can hold.

    Args:
        module: a neuron layer, or a FATReLU, whose values that are not zero count as one each.
        args, out: of its forward pass on one utterance.
    """
    if isinstance(module, FATReLU):
        return (out[0] != 0).float(), 1
    if isinstance(module, TernaryMomentum):
        x, mask = (*args, None)[:2]
        level, scale = module.frame_level(x, mask), module.channel_scale(x, mask)
        digits = module.digits(frame_rows(x), level.flatten(), scale)
        return sum(digit.abs() for digit in digits).view(x.shape)[0], module.slots
    if isinstance(out, SpikeTrain):
        counts, levels = out.counts, out.levels
    elif isinstance(module, IMLS):
        counts, levels = module.spike_train(*args).counts, module.levels
    elif isinstance(module, ILIF):
        counts, levels = out / module.unit, module.T
    else:
        counts, levels = out, 1
    # time steps lie in the batch
    return counts.sum(0), levels * module.time_steps
