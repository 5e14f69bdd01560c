"""The neurons by name: what ``neuron:`` in a configuration chooses from."""

import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.neurons.base import Activation
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import ILIF, LIF
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.neurons.ternary import TernaryMomentum
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.utils.options import check_keys, choose


class ReLU(Activation):
    """The real-valued activation of the ANN twin, called like a neuron; it does not spike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return max(x, 0); ``mask`` is not needed."""
        return F.relu(x)


NEURONS: dict[str, type[Activation]] = {
    "imls": IMLS,
    "ilif": ILIF,
    "lif": LIF,
    "ternary": TernaryMomentum,
    "relu": ReLU,
}


class NormedNeuron(nn.Module):
    """A neuron behind a batch norm over valid frames, which can follow a weight layer bare."""

    def __init__(self, neuron: Activation) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(neuron.dim)
        self.neuron = neuron

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Normalise and fire, see ``Neuron``."""
        return self.neuron(self.norm(x, mask), mask)

    def over_pieces(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> AbstractContextManager[None]:
        """Hold what depends on the whole of an input in pieces, see ``Activation``."""
        return self.neuron.over_pieces((self.norm(x, mask), mask) for x, mask in pieces)


class NeuronFactory:
    """Makes the neurons of one network, all of one kind.

    Args:
        neuron: a name in ``NEURONS``.
        T: levels (IMLS, I-LIF) or time steps (LIF, ternary); the twin has none.
        conf: further arguments of the neuron's class, see there.
        norm: whether ``unnormed`` adds a batch norm; None means where the neuron needs it.
        threshold_options: further arguments of neurons that learn their threshold; the others go
            without.

    Raises:
        ValueError: for an unknown neuron or argument.
    """

    def __init__(
        self,
        neuron: str = "imls",
        T: int = 6,
        conf: dict | None = None,
        norm: bool | None = None,
        threshold_options: dict | None = None,
    ) -> None:
        self.neuron = choose("neuron", neuron, NEURONS)
        self.cls = NEURONS[self.neuron]
        options = threshold_options if self.cls.takes_threshold_options else None
        self.conf = {**(options or {}), **(conf or {})}
        check_keys("neuron_conf", self.conf, self.cls)
        if "T" in inspect.signature(self.cls).parameters:
            self.conf.setdefault("T", T)
        self.norm = self.cls.needs_norm if norm is None else norm
        self.time_steps: int = self(1).time_steps

    def __call__(self, dim: int, **override: Any) -> Activation:
        """Return a neuron layer of ``dim`` channels, whose input is normalised."""
        return self.cls(dim, **(self.conf | override))

    def unnormed(self, dim: int) -> Activation | NormedNeuron:
        """Return a neuron layer whose input comes from a weight layer bare."""
        return NormedNeuron(self(dim)) if self.norm else self(dim)

    def binary(self, dim: int) -> Activation:
        """Return a neuron layer of one level, where the neuron has levels."""
        return self(dim, **self.cls.binary_options)
