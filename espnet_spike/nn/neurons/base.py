"""What a spiking neuron tells about its last forward pass, and how to read it off a model.

The figures are *assigned* in every forward pass, never accumulated: gradient checkpointing runs a
layer twice, and a reader takes them once a step. Padded frames are left out by the neurons.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Firing:
    """Spike statistics of one neuron layer over the valid positions of one batch.

    All are 0-dim and float64, where sums of counts are exact.

    Attributes:
        count_sum: sum of spike counts, 0-dim; a negative spike of a ternary neuron counts as one.
        numel: number of valid activations, 0-dim.
        levels: spikes an activation can emit at most (virtual or real time steps), 0-dim.
    """

    count_sum: Tensor
    numel: Tensor
    levels: Tensor

    @property
    def rate(self) -> Tensor:
        """Mean spikes per activation and level, 0-dim, in [0, 1]; 0 for an empty batch."""
        return (self.count_sum / (self.numel * self.levels).clamp(min=1)).float()

    @property
    def mean_count(self) -> Tensor:
        """Mean spikes per activation, 0-dim: what one MAC of the next layer costs in additions."""
        return (self.count_sum / self.numel.clamp(min=1)).float()


class Neuron(nn.Module):
    """Base of all spiking neurons: real-valued input, spikes (times their unit) as output.

    Called as ``neuron(x, mask)`` with ``x`` ``(B, N, ..., C)`` (time second, channels last) and
    ``mask`` ``(B, N)``, true on valid frames, or None when all are valid. A neuron with
    ``time_steps > 1`` takes the time steps folded into the batch, ``(time_steps * B, N, ..., C)``.

    Attributes:
        firing: statistics of the last forward pass; None before the first.
        threshold_spread: coefficient of variation of the input-aware statistic over valid frames
            in the last forward pass, 0-dim; None where the threshold does not follow the input.
    """

    time_steps: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.firing: Firing | None = None
        self.threshold_spread: Tensor | None = None


def named_neurons(module: nn.Module) -> dict[str, Neuron]:
    """Return the spiking neurons inside ``module`` by their dotted names."""
    return {name: m for name, m in module.named_modules() if isinstance(m, Neuron)}


def firing_rates(module: nn.Module) -> dict[str, Tensor]:
    """Return the firing rate of every neuron of ``module`` in its last forward pass.

    Returns:
        dotted layer name -> rate, 0-dim, detached; empty for a model without spiking neurons.
    """
    return {
        name: neuron.firing.rate
        for name, neuron in named_neurons(module).items()
        if neuron.firing is not None
    }


def threshold_spreads(module: nn.Module) -> dict[str, Tensor]:
    """Return how much each neuron's threshold followed its input in the last forward pass."""
    return {
        name: neuron.threshold_spread
        for name, neuron in named_neurons(module).items()
        if neuron.threshold_spread is not None
    }
