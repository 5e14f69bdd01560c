"""Leaky integrate-and-fire neurons over several time steps, binary (LIF) and integer (I-LIF)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from espnet_spike.nn.accounting import Cost
from espnet_spike.nn.checkpointing import inside_checkpoint, is_recomputing
from espnet_spike.nn.neurons.base import FIRING_MODES, Firing, Neuron
from espnet_spike.nn.neurons.fitting import LEAST, Piece, peaks, search
from espnet_spike.nn.neurons.response import (
    LeakyResponse,
    OtherResponse,
    Response,
    StaircaseResponse,
)
from espnet_spike.nn.neurons.spike_train import FiredTrain, LIFRecompute, SpikeTrain, keep_recipe
from espnet_spike.nn.ops.imls import integrate_and_fire
from espnet_spike.nn.ops.lif import LIFDynamics, run_steps
from espnet_spike.nn.ops.precision import at_least_fp32
from espnet_spike.nn.ops.surrogate import integer_spike
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose, numbers_in_range


def report_firing(spikes: Tensor, mask: Tensor | None, levels: int) -> Firing:
    """Return the statistics of ``spikes`` ``(B, N, ...)`` over frames where ``mask`` is true."""
    counts = spikes.detach().abs().flatten(2).sum(-1)
    return frame_firing(counts, mask, spikes[0, 0].numel(), levels)


def frame_firing(counts: Tensor, mask: Tensor | None, numel: int, levels: int) -> Firing:
    """Return the statistics of ``counts`` ``(B, N)``, the spikes of ``numel`` activations each."""
    counts = counts.double()
    weight = torch.ones_like(counts) if mask is None else mask.to(counts.dtype)
    total = weight.sum() * numel
    return Firing((counts * weight).sum(), total, total.new_full((), levels))


class FixedThreshold(Neuron):
    """Base of the neurons whose threshold does not follow the input.

    With ``per_channel`` channel c has a threshold of v_th exp(t_c), and a spike of it is worth
    exp(u_c) times the usual; both are learnt, and set from a dense network by ``fit_thresholds``.
    Bu et al. (2022, QCFS) learn one number a layer for the two; a leak makes them differ.

    Args:
        dim: number of channels.
        v_th: threshold.
        per_channel: learn the two.

    Attributes:
        t, u: ``(C,)``; None without ``per_channel``.
        most: spikes an activation can emit at once.
    """

    spike_modes = FIRING_MODES
    most: int = 1
    t: nn.Parameter | None
    u: nn.Parameter | None

    def __init__(self, dim: int, v_th: float, per_channel: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.v_th = self.trained_v_th = v_th
        self.per_channel = self.unit_per_channel = per_channel
        for name in ("t", "u"):
            self.register_parameter(name, None)
            if per_channel:
                zeros = without_weight_decay(nn.Parameter(torch.zeros(dim)))
                self.register_parameter(name, zeros)

    def thresholds(self) -> Tensor:
        """Return the thresholds in use, ``(1,)`` or, with ``per_channel``, ``(C,)``."""
        return torch.tensor([self.v_th]) if self.t is None else self.v_th * self.t.detach().exp()

    def charge(self, x: Tensor) -> Tensor:
        """Return the input ``(..., C)`` in units of its channel's threshold over ``v_th``."""
        return x if self.t is None else x * torch.exp(-self.t).to(x.dtype)

    def weigh(self, y: Tensor) -> Tensor:
        """Return spikes ``(..., C)`` times what one of their channel is worth."""
        return y if self.u is None else y * torch.exp(self.u).to(y.dtype)

    def note_rate(self, y: Tensor, mask: Tensor | None, levels: int) -> None:
        """Leave ``mean_rate`` where it is asked for, of spikes ``y`` ``(B, N, ..., C)``."""
        if self.keeps_rate:
            per_frame = at_least_fp32(y).flatten(2).sum(-1)
            weight = torch.ones_like(per_frame) if mask is None else mask.to(per_frame.dtype)
            slots = weight.sum() * (y[0, 0].numel() * levels)
            mean_rate = (per_frame * weight).sum() / slots.clamp(min=1)
            if not is_recomputing():  # the loss has that of the first run
                self.mean_rate = mean_rate

    def worth(self) -> Tensor:
        """Return what a spike of each channel is worth over the usual, ``(C,)``."""
        return torch.ones(self.dim) if self.u is None else self.u.detach().exp()

    @property
    def fits_thresholds(self) -> bool:
        """See ``Neuron.fits_thresholds``."""
        return self.t is not None and self.u is not None

    def fit_thresholds(self, pieces: Sequence[Piece]) -> Tensor:
        """Set threshold and worth of a spike, see ``Neuron.fit_thresholds``.

        Raises:
            ValueError: it has one threshold for all channels.
        """
        t, u = self.t, self.u
        if t is None or u is None:
            raise ValueError(f"{type(self).__name__} has one threshold for all channels")
        with torch.no_grad():
            u.zero_()
            unit = peaks(pieces) / (self.v_th * self.most)

            def choose_threshold(share: float) -> Tensor:
                t.copy_((unit * share).log())
                return t

            best, worths, losses = search(self, pieces, choose_threshold, free_worth=True)
            t.copy_(best)
            u.copy_(worths.clamp(min=LEAST).log())
        return losses

    def scale_thresholds(self, factor: float) -> None:
        """Run with ``factor`` times the threshold that the neuron was made with."""
        self.threshold_scale = factor
        self.v_th = self.trained_v_th * factor


class LeakyNeuron(FixedThreshold):
    """Base of the neurons that follow ``ops.lif.lif_step``: its options.

    Args:
        dim: number of channels.
        tau: membrane time constant, in steps.
        v_th: threshold.
        v_reset: potential at rest and after a hard reset.
        reset: ``hard`` or ``soft`` (subtract the threshold).
        decay_input: whether the input is divided by ``tau`` too.
        detach_reset: no gradient through the reset.
        surrogate: a name in ``espnet_spike.nn.ops.surrogate.SURROGATES``.
        surrogate_alpha: its parameter; None means its usual value.
        per_channel: see ``FixedThreshold``.

    Raises:
        ValueError: for an unknown ``reset`` or ``surrogate``, or ``tau < 1``.
    """

    @numbers_in_range
    def __init__(
        self,
        dim: int,
        tau: float = 2.0,
        v_th: float = 1.0,
        v_reset: float = 0.0,
        reset: str = "hard",
        decay_input: bool = True,
        detach_reset: bool = True,
        surrogate: str = "atan",
        surrogate_alpha: float | None = None,
        per_channel: bool = False,
    ) -> None:
        super().__init__(dim, v_th, per_channel)
        self.tau = tau
        self.v_reset = v_reset
        self.reset = reset
        self.decay_input = decay_input
        self.detach_reset = detach_reset
        self.surrogate = surrogate
        self.surrogate_alpha = surrogate_alpha
        _ = self.dynamics  # refuses what no neuron can be
        if v_reset >= v_th:
            raise ValueError(f"v_reset: {v_reset} is not below v_th, {v_th}: it would never rest")

    @property
    def dynamics(self) -> LIFDynamics:
        """How the neuron charges, fires and resets now."""
        return self._dynamics(self.tau)

    def _dynamics(self, tau: float) -> LIFDynamics:
        return LIFDynamics(
            tau,
            self.v_th,
            self.v_reset,
            self.reset,
            self.decay_input,
            self.detach_reset,
            self.surrogate,
            self.surrogate_alpha,
        )

    def response(self) -> Response:
        """Return the leaky integrator; one that subtracts its threshold has no such form."""
        if self.reset != "hard":
            return OtherResponse("subtracts its threshold to reset; NIR resets to a constant")
        if self.per_channel:
            return OtherResponse("weighs the spikes of each channel; those of NIR are 1")
        gain = 1.0 if self.decay_input else self.tau
        return LeakyResponse(self.tau, self.v_th, self.v_reset, gain)

    def update_cost(self, numel: float, frames: float) -> Cost:
        """Return one multiplication (leak) and three additions (charge, compare, reset) each.

        The potential is read and written.
        """
        return Cost(
            updates=numel,
            multiplies=numel,
            additions=3 * numel,
            values_read=2 * numel,
            values_written=numel,
        )

    def spike_counts(self, inputs: tuple, output: Any) -> tuple[Tensor, int]:
        """Return the output, which is 0 or 1 (times its worth); see ``Neuron``."""
        if isinstance(output, SpikeTrain):
            return output.counts, output.levels
        return (output != 0).to(output.dtype) if self.per_channel else output, 1


class LIF(LeakyNeuron):
    """LIF neuron that runs ``T`` time steps a frame, as Spikformer and its kin.

    Args:
        dim: number of channels.
        T: time steps; the input carries them in its batch, ``(T * B, N, ..., C)``.
        tau: membrane time constant, in time steps; it and all below: see ``LeakyNeuron``.

    Raises:
        ValueError: for an unknown ``reset`` or ``surrogate``, ``T < 1`` or ``tau < 1``.
    """

    needs_norm = True
    weak_input_options: ClassVar = {"v_th": 0.5}

    @numbers_in_range
    def __init__(
        self,
        dim: int,
        T: int = 4,
        tau: float = 2.0,
        v_th: float = 1.0,
        v_reset: float = 0.0,
        reset: str = "hard",
        decay_input: bool = True,
        detach_reset: bool = True,
        surrogate: str = "atan",
        surrogate_alpha: float | None = None,
        per_channel: bool = False,
    ) -> None:
        super().__init__(
            dim,
            tau,
            v_th,
            v_reset,
            reset,
            decay_input,
            detach_reset,
            surrogate,
            surrogate_alpha,
            per_channel,
        )
        self.T = self.time_steps = T

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Emit 0/1 spikes (times their worth), shaped and typed as ``x`` ``(T * B, N, ..., C)``."""
        dtype, x = x.dtype, at_least_fp32(x)
        y, counts, h = run_steps(self.charge(x), self.T, self.dynamics)
        y = y.to(dtype)
        self.firing = frame_firing(counts, mask, y[0, 0].numel(), levels=1)
        self.note_rate(y, mask, 1)
        if self.spike_mode != "integer" and not self.training:
            return SpikeTrain(y, y.new_ones(1), self.worth().to(y), 1)
        if self.per_channel:
            return self.weigh(y)
        if h is not None and torch.is_grad_enabled() and not inside_checkpoint():
            keep_recipe(y, LIFRecompute(h.detach(), self.v_th, dtype))
        return y

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, tau={self.tau}, v_th={self.v_th}, reset={self.reset}"


class ILIF(FixedThreshold):
    """Integer LIF (SpikeYOLO): integer counts in training, binary slots at inference.

    H = beta V + X,  C = round(clip(H / v_th, 0, T)),  V = H - C v_th,  output C. With one time
    step, the common setting, it is a quantiser with a fixed threshold.

    Args:
        dim: number of channels.
        T: D of the papers, the largest count.
        time_steps: real time steps, carried in the batch.
        beta: leak.
        v_th: threshold.
        divide: hand on C / T, as Spike-driven Transformer V3 does.
        rounding: ``even`` (torch.round, as the published codes) or ``half_up``.
        per_channel: see ``FixedThreshold``.
        surrogate_tail: height of the gradient outside of 0 <= H / v_th <= T, see
            ``surrogate.window``; 0 for none.

    Raises:
        ValueError: for ``T`` or ``time_steps`` below 1.
    """

    binary_options: ClassVar = {"T": 1}

    @numbers_in_range
    def __init__(
        self,
        dim: int,
        T: int = 4,
        time_steps: int = 1,
        beta: float = 0.25,
        v_th: float = 1.0,
        divide: bool = False,
        rounding: str = "even",
        per_channel: bool = False,
        surrogate_tail: float = 0.0,
    ) -> None:
        super().__init__(dim, v_th, per_channel)
        self.surrogate_tail = surrogate_tail
        self.T = self.most = T
        self.time_steps = time_steps
        self.beta = beta
        self.unit = 1.0 / T if divide else 1.0
        self.rounding = choose("rounding", rounding, ("half_up", "even"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Emit counts (times 1/T with ``divide``), shaped as ``x`` ``(time_steps * B, N, ...)``."""
        steps = self.charge(at_least_fp32(x.view(self.time_steps, -1, *x.shape[1:])))
        v = torch.zeros_like(steps[0])
        fires = self.spike_mode == "fire" and not self.training
        counts, spikes = [], []
        for step in steps:
            h = self.beta * v + step
            if fires:
                spikes.append(integrate_and_fire(h, self.v_th, self.T))
                c = spikes[-1].sum(0, dtype=torch.long).to(h.dtype)
            else:
                c = integer_spike(h / self.v_th, self.T, self.rounding, self.surrogate_tail)
            v = h - c * self.v_th
            counts.append(c)
        y = torch.cat(counts)
        self.firing = report_firing(y, mask, self.T)
        self.note_rate(y, mask, self.T)
        worth = self.worth().to(y) * self.unit
        if fires:
            return FiredTrain.of(torch.cat(spikes, 1), y.new_ones(1), worth)
        if self.spike_mode == "binary" and not self.training:
            return SpikeTrain(y, y.new_ones(1), worth, self.T)
        return self.weigh(y * self.unit).to(x.dtype)

    def update_cost(self, numel: float, frames: float) -> Cost:
        """Return one multiplication (by the inverse threshold) and two comparisons each.

        Over several time steps the potential is read and written.
        """
        potential = numel if self.time_steps > 1 else 0
        return Cost(
            updates=numel,
            multiplies=numel,
            additions=2 * numel,
            values_read=numel + potential,
            values_written=potential,
        )

    def spike_counts(self, inputs: tuple, output: Any) -> tuple[Tensor, int]:
        """Return the counts behind the output and T; see ``Neuron``."""
        if isinstance(output, SpikeTrain):
            return output.counts, output.levels
        unit = self.unit * self.worth().to(output) if self.per_channel else self.unit
        return (output / unit).round(), self.T

    def response(self) -> Response:
        """Return the staircase; over several steps the neuron has a memory."""
        if self.time_steps > 1:
            return OtherResponse("leaks between counts of several steps")
        scale = self.thresholds().double().expand(self.dim)
        unit = self.worth().double() * self.unit
        parameters = ("t", "u") if self.per_channel else ()
        return StaircaseResponse(scale, unit, self.T, self.rounding, parameters=parameters)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, time_steps={self.time_steps}, v_th={self.v_th}"
