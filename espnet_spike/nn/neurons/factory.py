"""The neurons by name: what ``neuron:`` in a configuration chooses from."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import ILIF, LIF
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.neurons.ternary import TernaryMomentum
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.utils.options import check_keys, choose


class ReLU(nn.Module):
    """The real-valued activation of the ANN twin, called like a neuron; it does not spike."""

    time_steps = 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return max(x, 0); ``mask`` is not needed."""
        return F.relu(x)


NEURONS: dict[str, type[nn.Module]] = {
    "imls": IMLS,
    "ilif": ILIF,
    "lif": LIF,
    "ternary": TernaryMomentum,
    "relu": ReLU,
}


class NormedNeuron(nn.Module):
    """A neuron behind a batch norm over valid frames, which can follow a weight layer bare."""

    def __init__(self, neuron: Any) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(neuron.dim)
        self.neuron = neuron

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Normalise and fire, see ``Neuron``."""
        return self.neuron(self.norm(x, mask), mask)


class NeuronFactory:
    """Makes the neurons of one network, all of one kind.

    Args:
        neuron: a name in ``NEURONS``.
        T: levels (IMLS, I-LIF) or time steps (LIF, ternary); the twin has none.
        conf: further arguments of the neuron's class, see there.
        norm: whether ``unnormed`` adds a batch norm; None means for LIF only.

    Raises:
        ValueError: for an unknown neuron or argument.
    """

    def __init__(
        self, neuron: str = "imls", T: int = 6, conf: dict | None = None, norm: bool | None = None
    ) -> None:
        self.neuron = choose("neuron", neuron, NEURONS)
        self.cls = NEURONS[self.neuron]
        self.conf = dict(conf or {})
        check_keys("neuron_conf", self.conf, self.cls)
        if self.neuron != "relu":
            self.conf.setdefault("T", T)
        self.norm = neuron == "lif" if norm is None else norm
        one: Any = self(1)
        self.time_steps: int = one.time_steps

    def __call__(self, dim: int, **override: Any) -> nn.Module:
        """Return a neuron layer of ``dim`` channels, whose input is normalised."""
        return self.cls(dim, **(self.conf | override))

    def unnormed(self, dim: int) -> nn.Module:
        """Return a neuron layer whose input comes from a weight layer bare."""
        return NormedNeuron(self(dim)) if self.norm else self(dim)
