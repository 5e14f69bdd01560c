"""What modules take and return while an encoder runs, and the spikes of every layer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from espnet_spike.nn.layers.fatrelu import FATReLU, named_fatrelus
from espnet_spike.nn.neurons.base import Neuron, named_neurons
from espnet_spike.nn.neurons.spike_train import SpikeTrain


@contextmanager
def watching(
    modules: Mapping[str, nn.Module], see: Callable[[str, nn.Module, tuple, Any], object]
) -> Iterator[None]:
    """Call ``see(name, module, arguments, output)`` after each forward pass within the context."""

    def hook(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def after(module: nn.Module, args: tuple, out: Any) -> None:
            see(name, module, args, out)  # returned, it would take the place of the output

        return after

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def captured[T](
    modules: Mapping[str, nn.Module], keep: Callable[[str, nn.Module, tuple, Any], T]
) -> Iterator[dict[str, T]]:
    """Collect by name what ``keep`` makes of each module's latest call within the context.

    Args:
        modules: by name.
        keep: takes name, module, its arguments and its output.

    Yields:
        a dictionary that fills while the modules run, in the order of their first calls.
    """
    found: dict[str, T] = {}

    def see(name: str, *call: Any) -> None:
        found[name] = keep(name, *call)

    with watching(modules, see):
        yield found


@contextmanager
def layer_spikes(encoder: nn.Module) -> Iterator[dict[str, tuple[np.ndarray, int]]]:
    """Collect the spikes of every neuron layer, or what FATReLUs let pass, within the context.

    Yields:
        a dictionary that fills while the encoder runs: the layer's name in it -> spikes of each
        frame and neuron ``(N, C)``, bins and channels on one axis, and the most an entry can hold.
    """

    def keep(
        name: str, module: Any, args: tuple, out: Tensor | SpikeTrain
    ) -> tuple[np.ndarray, int]:
        counts, levels = spike_counts(module, args, out)
        if "ssm_reverse" in name:  # runs from the end to the start
            counts = counts.flip(0)
        return counts.flatten(1).numpy(), levels

    with captured(named_neurons(encoder) or named_fatrelus(encoder), keep) as found:
        yield found


def spike_counts(
    module: Neuron | FATReLU, args: tuple, out: Tensor | SpikeTrain
) -> tuple[Tensor, int]:
    """Return the spikes of one utterance, ``(N, ..., C)``, and the most that an entry can hold.

    Args:
        module: a neuron layer, or a FATReLU.
        args, out: of its forward pass on one utterance.
    """
    counts, levels = module.spike_counts(args, out)
    # time steps lie in the batch
    return counts.sum(0), levels * module.time_steps
