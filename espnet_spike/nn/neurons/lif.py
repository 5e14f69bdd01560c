"""Leaky integrate-and-fire neurons over several time steps, binary (LIF) and integer (I-LIF)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from espnet_spike.nn.accounting import Cost
from espnet_spike.nn.checkpointing import inside_checkpoint
from espnet_spike.nn.neurons.base import SPIKE_MODES, Firing, Neuron
from espnet_spike.nn.neurons.response import (
    LeakyResponse,
    OtherResponse,
    Response,
    StaircaseResponse,
)
from espnet_spike.nn.neurons.spike_train import LIFRecompute, SpikeTrain, keep_recipe
from espnet_spike.nn.ops.lif import LIFDynamics, run_steps
from espnet_spike.nn.ops.surrogate import integer_spike
from espnet_spike.utils.options import choose


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
    """Base of the neurons with one threshold that is not learnt and does not follow the input.

    Args:
        dim: number of channels.
        v_th: threshold.
    """

    spike_modes = SPIKE_MODES

    def __init__(self, dim: int, v_th: float) -> None:
        super().__init__()
        self.dim = dim
        self.v_th = self.trained_v_th = v_th

    def thresholds(self) -> Tensor:
        """Return the threshold in use, ``(1,)``."""
        return torch.tensor([self.v_th])

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

    Raises:
        ValueError: for an unknown ``reset`` or ``surrogate``, or ``tau < 1``.
    """

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
    ) -> None:
        super().__init__(dim, v_th)
        self.tau = tau
        self.v_reset = v_reset
        self.reset = reset
        self.decay_input = decay_input
        self.detach_reset = detach_reset
        self.surrogate = surrogate
        self.surrogate_alpha = surrogate_alpha
        _ = self.dynamics  # refuses what no neuron can be

    @property
    def dynamics(self) -> LIFDynamics:
        """How the neuron charges, fires and resets now."""
        return LIFDynamics(
            self.tau,
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
        """Return the output, which is 0 or 1; see ``Neuron``."""
        return output, 1


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
    ) -> None:
        if T < 1 or tau < 1:
            raise ValueError(f"T, tau: {T}, {tau}: both have to be at least 1")
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
        )
        self.T = self.time_steps = T

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Emit 0/1 spikes, shaped and typed as ``x`` ``(T * B, N, ..., C)``."""
        dtype = x.dtype
        if dtype in (torch.bfloat16, torch.float16):
            x = x.float()
        y, counts, h = run_steps(x, self.T, self.dynamics)
        y = y.to(dtype)
        if h is not None and torch.is_grad_enabled() and not inside_checkpoint():
            keep_recipe(y, LIFRecompute(h.detach(), self.v_th, dtype))
        self.firing = frame_firing(counts, mask, y[0, 0].numel(), levels=1)
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

    Raises:
        ValueError: for ``T`` or ``time_steps`` below 1.
    """

    binary_options: ClassVar = {"T": 1}

    def __init__(
        self,
        dim: int,
        T: int = 4,
        time_steps: int = 1,
        beta: float = 0.25,
        v_th: float = 1.0,
        divide: bool = False,
        rounding: str = "even",
    ) -> None:
        super().__init__(dim, v_th)
        if T < 1 or time_steps < 1:
            raise ValueError(f"T, time_steps: {T}, {time_steps}: both have to be at least 1")
        self.T = T
        self.time_steps = time_steps
        self.beta = beta
        self.unit = 1.0 / T if divide else 1.0
        self.rounding = choose("rounding", rounding, ("half_up", "even"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Emit counts (times 1/T with ``divide``), shaped as ``x`` ``(time_steps * B, N, ...)``."""
        steps = x.view(self.time_steps, -1, *x.shape[1:])
        if x.dtype in (torch.bfloat16, torch.float16):
            steps = steps.float()
        v = torch.zeros_like(steps[0])
        counts = []
        for step in steps:
            h = self.beta * v + step
            c = integer_spike(h / self.v_th, self.T, self.rounding)
            v = h - c * self.v_th
            counts.append(c)
        y = torch.cat(counts)
        self.firing = report_firing(y, mask, self.T)
        if self.spike_mode == "binary" and not self.training:
            return SpikeTrain(y, y.new_ones(1), y.new_full((self.dim,), self.unit), self.T)
        return (y * self.unit).to(x.dtype)

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
        return (output / self.unit).round(), self.T

    def response(self) -> Response:
        """Return the staircase; over several steps the neuron has a memory."""
        if self.time_steps > 1:
            return OtherResponse("leaks between counts of several steps")
        scale, unit = torch.tensor([[self.v_th], [self.unit]], dtype=torch.float64).repeat(
            1, self.dim
        )
        return StaircaseResponse(scale, unit, self.T, self.rounding)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, time_steps={self.time_steps}, v_th={self.v_th}"
