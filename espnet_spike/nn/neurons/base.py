"""The spiking neuron: what it tells of its forward pass, and how to read it off a model.

The figures of the last forward pass are *assigned* each time, never accumulated: gradient
checkpointing runs a layer twice, and a reader takes them once a step. Padded frames are left out by
the neurons.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from espnet_spike.nn.accounting import Cost, CostLedger, Counted, Spikes
from espnet_spike.nn.neurons.spike_train import SpikeTrain


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


class Neuron(Counted, nn.Module, ABC):
    """Base of all spiking neurons: real-valued input, spikes (times their unit) as output.

    Called as ``neuron(x, mask)`` with ``x`` ``(B, N, ..., C)`` (time second, channels last) and
    ``mask`` ``(B, N)``, true on valid frames, or None when all are valid. A neuron with
    ``time_steps > 1`` takes the time steps folded into the batch, ``(time_steps * B, N, ..., C)``.

    A subclass says what its updates cost and which spikes it has emitted (``update_cost``,
    ``spike_counts``); counting, figures of a report and the rest ask for nothing else.

    Attributes:
        time_steps: that the batch carries.
        follows_input: the unit of the spikes differs from frame to frame.
        firing: statistics of the last forward pass; None before the first.
        threshold_spread: coefficient of variation of the input-aware statistic over valid frames
            in the last forward pass, 0-dim; None where the threshold does not follow the input.
    """

    time_steps: int = 1
    follows_input: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.firing: Firing | None = None
        self.threshold_spread: Tensor | None = None

    @abstractmethod
    def update_cost(self, numel: float, frames: float) -> Cost:
        """Return what the neurons' updates cost in a forward pass, apart from their spikes.

        Args:
            numel: updates, one for each activation.
            frames: frames of a map; each of its bins counts.
        """

    @abstractmethod
    def spike_counts(self, inputs: tuple, output: Tensor | SpikeTrain) -> tuple[Tensor, int] | None:
        """Return the spikes of a forward pass.

        Args:
            inputs: its arguments.
            output: its result.

        Returns:
            how many spikes each activation emitted, ``(time_steps * B, N, ..., C)`` in a floating
            type, and the most that one can emit; None while the output is no number of spikes
            (a neuron that does not round yet).
        """

    def emitted(self, inputs: tuple, output: Tensor | SpikeTrain) -> Spikes | None:
        """Return the spikes of a forward pass as a ledger knows them; see ``spike_counts``."""
        found = self.spike_counts(inputs, output)
        if found is None:
            return None
        counts, levels = found
        if isinstance(output, SpikeTrain) or counts is output:
            return Spikes.of_itself(counts, levels, self.follows_input)
        return Spikes(counts, levels, self.follows_input)

    def count(self, ledger: CostLedger, inputs: tuple, output: Tensor | SpikeTrain) -> None:
        """Tell a ledger what a forward pass has cost, and which spikes it made."""
        x = inputs[0]
        numel, channels = x.numel(), x.shape[-1]
        cost = ledger.cost("neuron")
        cost.add(self.update_cost(numel, numel / channels))
        found = self.emitted(inputs, output)
        if found is None:
            ledger.lose("neuron without rounding")
            return
        if isinstance(output, SpikeTrain):
            ledger.set_constant(output.channel)
            output = output.counts
        found = ledger.set_spikes(output, found)
        cost.spike_bits_written += numel * found.bits
        cost.inputs += numel
        cost.nonzeros += found.nonzeros
        cost.spikes += found.total
        cost.slots += numel * found.levels
        cost.sizes(0, channels, channels)


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
