"""The spiking neuron: what it tells of its forward pass, and how to read it off a model.

The figures of the last forward pass are *assigned* each time, never accumulated: gradient
checkpointing runs a layer twice, and a reader takes them once a step. Padded frames are left out by
the neurons.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from espnet_spike.nn.accounting import Cost, CostLedger, Counted, Spikes
from espnet_spike.nn.neurons.fitting import Piece
from espnet_spike.nn.neurons.response import OtherResponse, Response
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.utils.options import choose

SPIKE_MODES = ("integer", "binary")  # that a neuron of another package may claim as a whole
FIRING_MODES = (*SPIKE_MODES, "fire")
LEVEL_RULES = ("keep", "rescale")


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


class Activation(nn.Module):
    """Base of all that ``neuron:`` chooses from: the spiking neurons, and what stands for them.

    Called as ``activation(x, mask)`` with ``x`` ``(B, N, ..., C)`` (time second, channels last) and
    ``mask`` ``(B, N)``, true on valid frames, or None when all are valid. One with
    ``time_steps > 1`` takes the time steps folded into the batch, ``(time_steps * B, N, ..., C)``.
    Its first argument is the number of channels; ``T`` is given to a class that takes it.

    Attributes:
        dim: number of channels.
        time_steps: that the batch carries.
        spike_modes: names in ``FIRING_MODES`` that it can run in.
        spike_mode: outside training, ``integer``, or ``binary`` to hand on 0/1 spikes only, or
            ``fire`` to make those one after the other, from a membrane that is charged and reset.
        needs_norm: whether its input has to be normalised where it comes from a weight layer bare.
        takes_threshold_options: whether its class takes ``alpha_init``, ``stat``, ``detach_stat``
            and ``rounding``, options of the encoder, and can start warm.
        binary_options: arguments that make a neuron of one level, where the class has levels.
        weak_input_options: arguments for an input that drives a neuron less than a normalised one.
    """

    dim: int
    time_steps: int = 1
    spike_modes: tuple[str, ...] = ("integer",)
    spike_mode: str = "integer"
    needs_norm: bool = False
    takes_threshold_options: bool = False
    binary_options: ClassVar[Mapping[str, Any]] = {}
    weak_input_options: ClassVar[Mapping[str, Any]] = {}

    @contextmanager
    def over_pieces(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """Hold, inside the context, what depends on the whole of an input that comes in pieces.

        Args:
            pieces: ``(x, mask)`` as in ``forward``, made one after the other on demand; every valid
                frame is in one mask only.
        """
        yield


class Neuron(Counted, Activation, ABC):
    """Base of all spiking neurons: real-valued input, spikes (times their unit) as output.

    Called as any ``Activation``. A subclass says what its updates cost and which spikes it has
    emitted (``update_cost``, ``spike_counts``); counting and the figures of a report ask for no
    more. The other methods are for what a neuron offers beyond; what it does not offer is refused
    by its name.

    Attributes:
        T: time steps, virtual or real, that it was made for.
        warm: the output is not rounded yet (the warm start of training).
        follows_input: the unit of the spikes differs from frame to frame, see ``frame_level``.
        unit_per_channel: the unit differs from channel to channel.
        runs_over_frames: it carries its potential from frame to frame.
        chosen_levels: T and rule of the last ``set_levels``; None where levels are not to choose.
        threshold_scale: factor of the last ``scale_thresholds``.
        firing: statistics of the last forward pass; None before the first.
        keeps_rate: whether forward passes leave ``mean_rate``.
        mean_rate: spikes per activation and level of the last forward pass over valid frames,
            0-dim, with gradient; None before the first, and from neurons that do not offer it.
        threshold_spread: coefficient of variation of the input-aware statistic over valid frames
            in the last forward pass, 0-dim; None where the threshold does not follow the input, and
            in training, which does not report it.
    """

    T: int = 1
    warm: bool = False
    follows_input: bool = False
    unit_per_channel: bool = False
    runs_over_frames: bool = False
    chosen_levels: tuple[int, str] | None = None
    threshold_scale: float = 1.0
    keeps_rate: bool = False
    mean_rate: Tensor | None = None

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
    def spike_counts(self, inputs: tuple, output: Any) -> tuple[Tensor, int]:
        """Return the spikes of a forward pass.

        Args:
            inputs: its arguments.
            output: its result, a tensor or a ``SpikeTrain``.

        Returns:
            how many spikes each activation emitted (while ``warm``: would have emitted),
            ``(time_steps * B, N, ..., C)`` in a floating type, and the most that one can emit.
        """

    def emitted(self, inputs: tuple, output: Any) -> Spikes:
        """Return the spikes of the last forward pass as a ledger knows them.

        Arguments as of ``spike_counts``, of which this may be a faster form.
        """
        counts, levels = self.spike_counts(inputs, output)
        scaled, per_channel = self.follows_input, self.unit_per_channel
        if isinstance(output, SpikeTrain) or counts is output:
            return Spikes.of_itself(counts, levels, scaled, per_channel)
        return Spikes(counts, levels, scaled, per_channel=per_channel)

    def count(self, ledger: CostLedger, inputs: tuple, output: Tensor | SpikeTrain) -> None:
        """Tell a ledger what a forward pass has cost, and which spikes it made."""
        x = inputs[0]
        numel, channels = x.numel(), x.shape[-1]
        cost = ledger.cost("neuron")
        cost.add(self.update_cost(numel, numel / channels))
        if self.warm and not isinstance(output, SpikeTrain):
            ledger.lose("neuron without rounding")
            return
        found = self.emitted(inputs, output)
        if isinstance(output, SpikeTrain):
            ledger.set_constant(output.channel)
            output = output.counts
        found = ledger.set_spikes(output, found)
        cost.spike_bits_written += numel * found.bits
        cost.event_bits_written += found.nonzeros * found.event_bits(channels)
        cost.inputs += numel
        cost.nonzeros += found.nonzeros
        cost.spikes += found.total
        cost.slots += numel * found.levels
        cost.sizes(0, channels, channels)

    def set_spike_mode(self, mode: str) -> None:
        """Choose how the neuron runs outside training.

        Raises:
            ValueError: an unknown mode, or one that it does not have.
        """
        if choose("spike_mode", mode, FIRING_MODES) not in self.spike_modes:
            raise ValueError(f"spike_mode: {type(self).__name__} {no_mode(mode)}")
        self.spike_mode = mode

    def set_levels(self, T: int, rule: str = "keep") -> None:
        """Run a trained neuron with another number of levels.

        Args:
            T: time steps at inference.
            rule: a name in ``LEVEL_RULES``: ``keep`` the thresholds (larger inputs are clipped) or
                ``rescale`` them by T_train / T (the range is kept, the steps get coarser).

        Raises:
            ValueError: it has no levels to choose, or not these.
        """
        raise ValueError(f"T: {type(self).__name__} has no levels to choose")

    def thresholds(self) -> Tensor | None:
        """Return the thresholds in use, ``(C,)`` or ``(1,)``; None where there are none to scale.

        They are in units of the frame's level where they follow the input.
        """
        return None

    def scale_thresholds(self, factor: float) -> None:
        """Run a trained neuron with ``factor`` times its thresholds; 1 is as it was trained.

        Raises:
            ValueError: it has no thresholds to scale.
        """
        raise ValueError(f"{type(self).__name__} has no thresholds to scale")

    @property
    def fits_thresholds(self) -> bool:
        """Whether `fit_thresholds` can set them: there is one for each channel."""
        return type(self).fit_thresholds is not Neuron.fit_thresholds

    def fit_thresholds(self, pieces: Sequence[Piece]) -> Tensor:
        """Set the threshold of each channel so that the least of a dense activation is lost.

        Args:
            pieces: inputs, and what a dense network's activation makes of them.

        Returns:
            what is lost of each channel, ``(C,)``: sum (y - output)^2 / sum y^2 over valid frames,
            0 where the dense activation is silent.

        Raises:
            ValueError: it has no threshold for each channel.
        """
        raise ValueError(f"{type(self).__name__} does not say how its thresholds are set")

    def frame_level(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what the unit follows in each frame of the input ``x``, ``(B, N)``; else 1."""
        return x.new_ones(()).expand(x.shape[:2])

    def response(self) -> Response:
        """Return what the neuron does with its input as it is set up now, in evaluation."""
        return OtherResponse(f"{type(self).__name__} does not say how it responds")


def no_mode(mode: str) -> str:
    """Return what is wrong with a neuron that has no spike mode ``mode``."""
    return "does not emit 0/1 spikes" if mode == "binary" else f"does not run in mode {mode}"


def set_spike_mode(module: nn.Module, mode: str) -> None:
    """Choose how all neurons inside ``module`` run outside training.

    Raises:
        ValueError: an unknown mode, or a neuron (or what stands for one) that does not have it;
            nothing is changed then.
    """
    choose("spike_mode", mode, FIRING_MODES)
    for name, found in module.named_modules():
        if isinstance(found, Activation) and mode not in found.spike_modes:
            raise ValueError(f"spike_mode: {type(found).__name__} ({name}) {no_mode(mode)}")
    for neuron in named_neurons(module).values():
        neuron.set_spike_mode(mode)


def set_levels(module: nn.Module, T: int, rule: str = "keep") -> None:
    """Run the neurons inside ``module`` with other levels, see ``Neuron.set_levels``.

    Those made with fewer levels than others (binary by design) stay as they are.

    Raises:
        ValueError: no neuron has levels to choose.
    """
    neurons = [n for n in named_neurons(module).values() if n.chosen_levels is not None]
    if not neurons:
        raise ValueError("T: only an encoder with IMLS neurons can change its levels")
    trained = max(neuron.T for neuron in neurons)
    for neuron in neurons:
        if neuron.T == trained:
            neuron.set_levels(T, rule)


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
