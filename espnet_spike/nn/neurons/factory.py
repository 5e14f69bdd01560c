"""The neurons by name: what ``neuron:`` in a configuration chooses from.

Another package adds its neurons through the entry-point group ``espnet_spike.neurons``::

    [project.entry-points."espnet_spike.neurons"]
    my_neuron = "my_package.neurons:MyNeuron"

or by ``register_neuron`` before the network is made.
"""

import functools
import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.base import Activation
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import ILIF, LIF
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.neurons.ternary import TernaryMomentum
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.utils.options import check_keys, choose
from espnet_spike.utils.plugins import check_class, check_free, installed, load, unusable

ENTRY_POINT_GROUP = "espnet_spike.neurons"


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


def register_neuron(name: str, cls: type[Activation]) -> None:
    """Make ``neuron: <name>`` in YAML build ``cls``.

    Args:
        name: lower case.
        cls: a subclass of ``Neuron`` (or, for what does not spike, of ``Activation``), made as
            ``cls(dim, ...)``.

    Raises:
        UserError: the name is not lower case or is taken by another class, or ``cls`` is no such
            class or lacks methods. Registering the same class again does nothing.
    """
    check_class("neuron", name, cls, Activation)
    check_free("neuron", name, cls, NEURONS.get(name))
    NEURONS[name] = cls


@functools.cache
def register_plugins() -> dict[str, UserError]:
    """Register the neurons of installed plugins, once a process.

    One that cannot be used costs a warning.

    Returns:
        names that cannot be used -> what to raise when they are asked for.
    """
    broken = {}
    for entry_point in installed(ENTRY_POINT_GROUP):
        cls, reason = load(entry_point, "neuron", Activation, NEURONS)
        if cls is not None:
            NEURONS[entry_point.name] = cls
        # a clash leaves the class that was there first; only a free name gets the explanation
        elif entry_point.name not in NEURONS:
            broken[entry_point.name] = unusable(entry_point, "neuron", reason)
    return broken


def neuron_class(name: str) -> type[Activation]:
    """Return the class that ``neuron: <name>`` builds.

    Raises:
        ValueError: nothing has that name.
        UserError: it is that of an installed plugin that cannot be used.
    """
    broken = register_plugins()
    if name in broken and name not in NEURONS:
        raise broken[name]
    return NEURONS[choose("neuron", name, NEURONS)]


def _rename_lif(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Read a model that was saved when LIF neurons behind a norm were called ``lif``."""
    before = f"{prefix}lif."
    for name in [name for name in state if name.startswith(before)]:
        state[f"{prefix}neuron.{name.removeprefix(before)}"] = state.pop(name)


class NormedNeuron(nn.Module):
    """A neuron behind a batch norm over valid frames, which can follow a weight layer bare."""

    def __init__(self, neuron: Activation) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(neuron.dim)
        self.neuron = neuron
        self.register_load_state_dict_pre_hook(_rename_lif)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Normalise and fire, see ``Neuron``."""
        return self.neuron(self.norm(x, mask), mask)

    def over_pieces(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> AbstractContextManager[None]:
        """Hold what depends on the whole of an input in pieces, see ``Activation``."""
        return self.neuron.over_pieces((self.norm(x, mask), mask) for x, mask in pieces)


class NeuronFactory:
    """Makes the neurons of one network, all of one kind.

    Args:
        neuron: a name in ``NEURONS``, or of an installed plugin.
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
        self.neuron, self.cls = neuron, neuron_class(neuron)
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
