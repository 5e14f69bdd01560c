"""LIF neurons whose time is that of the speech: one step a frame, the potential carried along.

Ahmed et al. (2026, arXiv 2606.01135) make SpeechMamba spiking with LIF neurons; their time axis
was not available to us. Ours: the recurrence runs over the frames of an utterance, starts at
rest, stops at the valid length and needs no further time steps. Conventions are spikingjelly's,
see ``ops.lif``.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.nn.checkpointing import is_recomputing
from espnet_spike.nn.neurons.base import Activation, Firing, Neuron
from espnet_spike.nn.neurons.factory import NormedNeuron, ReLU
from espnet_spike.nn.neurons.lif import ILIF, LeakyNeuron
from espnet_spike.nn.ops.lif import fire_frames, run_frames
from espnet_spike.nn.ops.precision import at_least_fp32
from espnet_spike.nn.stream_state import Stateful
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose


class FrameLIF(Stateful, LeakyNeuron):
    """LIF over frames, called as ``neuron(x, mask)`` with ``x`` ``(B, L, ..., C)``.

    Its spikes are 0 or 1 in every mode; in ``fire`` a membrane is charged and reset frame by frame.
    With ``learn_tau`` it is the parametric LIF of Fang et al. (2021, arXiv 2007.05785): all neurons
    of the layer share 1/tau = sigmoid(w), and w is learnt.

    Args:
        dim: number of channels.
        learn_tau: learn the time constant; ``tau``, more than 1 then, is its start.
        **options: of ``LeakyNeuron``; ``tau`` counts frames.

    Attributes:
        w: 0-dim; None for a fixed time constant.
    """

    T = 1
    runs_over_frames = True
    keeps_rate = True
    w: nn.Parameter | None

    def __init__(self, dim: int, learn_tau: bool = False, **options: Any) -> None:
        super().__init__(dim, **options)
        if self.per_channel:  # Mamba and attention here read 0/1, or values
            self.spike_modes = ("integer",)
        if learn_tau and self.fixed_tau <= 1:
            raise ValueError(f"tau: {self.fixed_tau}: a learnt one starts above 1")
        self.register_parameter("w", None)
        if learn_tau:
            start = torch.tensor(-math.log(self.fixed_tau - 1))
            self.w = without_weight_decay(nn.Parameter(start))

    @property
    def tau(self) -> float:
        """Membrane time constant, in frames."""
        return self.fixed_tau if self.rate is None else 1 / float(self.rate.detach())

    @tau.setter
    def tau(self, tau: float) -> None:
        self.fixed_tau = tau

    @property
    def rate(self) -> Tensor | None:
        """1 / tau, 0-dim with gradient; None for a fixed one."""
        w = self._parameters.get("w")  # asked for before there is one
        return None if w is None else torch.sigmoid(w)

    def initial_state(self, x: Tensor) -> Tensor:
        """Return the potential before the first frame of ``x`` ``(B, L, ..., C)``, at rest."""
        return torch.full_like(x[:, 0], self.v_reset, dtype=at_least_fp32(x[:0]).dtype)

    def run(self, x: Tensor, v: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run frame after frame.

        Args:
            x: ``(B, L, ..., C)``.
            v: potential before the first frame, ``(B, ..., C)``.
            lengths: valid frames ``(B,)``: no spikes after them, and the potential stays; None
                for all.

        Returns:
            spikes, 0 or 1, shaped and typed as ``x``, and the potential after the last frame.
        """
        spikes, v, _ = self._run(x, v, lengths)
        return spikes, v

    def _run(self, x: Tensor, v: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return spikes, last potential, and the number of spikes in each frame ``(B, L)``."""
        dtype, shape = x.dtype, v.shape
        x = self.charge(at_least_fp32(x))
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        rate = None if self.rate is None else self.rate.to(x.dtype)
        # a learnt tau is handed on as a tensor: a GPU has to be waited for before it is read
        dynamics = self._dynamics(self.fixed_tau)
        rows, v = x.flatten(2), v.flatten(1)
        if self.spike_mode == "fire" and not self.training:
            fired, last = fire_frames(rows, v, lengths, dynamics, rate)
            spikes, counts = fired.to(x.dtype), fired.sum(-1, dtype=torch.long).to(x.dtype)
        else:
            spikes, last, counts = run_frames(rows, v, lengths, dynamics, rate)
        return spikes.view(x.shape).to(dtype), last.view(shape), counts

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Emit 0/1 spikes (times their worth), shaped and typed as ``x`` ``(B, L, ..., C)``.

        Args:
            x: input currents.
            mask: ``(B, L)``, true on valid frames, which come first; None when all are valid.
        """
        lengths = None if mask is None else mask.sum(1)
        v = self.initial_state(x) if not self.carry else self.carry["v"]
        y, v, counts = self._run(x, v, lengths)
        if self.carry is not None:
            self.carry["v"] = v
        # there is no spike on padding
        all_frames = counts.new_full((), counts.numel())
        frames = all_frames if lengths is None else lengths.sum()
        numel = frames.double() * math.prod(y.shape[2:])
        self.firing = Firing(counts.detach().double().sum(), numel, torch.ones_like(numel))
        mean_rate = counts.sum() / numel.clamp(min=1).to(counts.dtype)
        if not is_recomputing():  # the loss has the first run's; a second one would hold its graph
            self.mean_rate = mean_rate
        return self.weigh(y)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        learnt = " learnt" if self.w is not None else ""
        return f"{self.dim}, tau={self.tau:.4g}{learnt}, v_th={self.v_th}, reset={self.reset}"


class _SilentOnPadding(Activation):
    """Makes a neuron without memory as silent on padding as a ``FrameLIF``."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """Run on ``x`` ``(B, L, ..., C)``; 0 where ``mask`` ``(B, L)`` is false."""
        y = super().forward(x, mask)
        if mask is None:
            return y
        return y.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0)


class FrameReLU(_SilentOnPadding, ReLU):
    """A ReLU in the place of a ``FrameLIF``."""


class FrameILIF(_SilentOnPadding, ILIF):
    """I-LIF in the place of a ``FrameLIF``: T spikes a frame at most, nothing kept for the next."""

    spike_modes = ("integer",)  # Mamba and attention here read counts, or values
    keeps_rate = True


FRAME_NEURONS: dict[str, type[FrameLIF | FrameILIF | FrameReLU]] = {
    "lif": FrameLIF,
    "ilif": FrameILIF,
    "relu": FrameReLU,
}
ILIF_OPTIONS = ("T", "v_th", "per_channel")


def frame_neuron(
    dim: int, conf: Mapping[str, Any], **override: Any
) -> FrameLIF | FrameILIF | FrameReLU:
    """Return the neurons of a layer, called as ``neuron(x, mask)``.

    Args:
        dim: number of channels.
        conf: ``neuron``, a name in ``FRAME_NEURONS`` (``lif`` where it is left out), arguments of
            ``FrameLIF``, and ``T``. ``ilif`` takes ``ILIF_OPTIONS`` of them, ``relu`` none, and
            ``lif`` all but ``T``.
        **override: of those.

    Raises:
        ValueError: an unknown neuron or argument.
    """
    options = {"neuron": "lif", **conf, **override}
    match choose("neuron", options.pop("neuron"), FRAME_NEURONS):
        case "relu":
            return FrameReLU(dim)
        case "ilif":
            return FrameILIF(dim, **{k: options[k] for k in ILIF_OPTIONS if k in options})
        case _:
            options.pop("T", None)
            return FrameLIF(dim, **options)


def normed_neuron(dim: int, conf: Mapping[str, Any], **override: Any) -> NormedNeuron:
    """Return the same behind a batch norm over valid frames; arguments as of ``frame_neuron``."""
    return NormedNeuron(frame_neuron(dim, conf, **override))


def named_frame_lifs(module: nn.Module) -> dict[str, FrameLIF]:
    """Return the neurons inside ``module`` by their dotted names."""
    return {name: m for name, m in module.named_modules() if isinstance(m, FrameLIF)}


@dataclass(frozen=True)
class RateLoss:
    """The firing-rate regulariser of Ahmed et al. (2026): lambda_q L_quiet + lambda_b L_burst.

    Attributes:
        r_min: firing rate below which a layer is too quiet.
        r_max: firing rate above which a layer bursts.
        lambda_q: weight of L_quiet, see ``rate_losses``.
        lambda_b: weight of L_burst.

    Raises:
        ValueError: rates that do not rise within [0, 1].
    """

    r_min: float = 0.05
    r_max: float = 0.30
    lambda_q: float = 0.5
    lambda_b: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.r_min <= self.r_max <= 1:
            raise ValueError(f"r_min, r_max: {self.r_min}, {self.r_max} must rise between 0 and 1")

    def __call__(self, neurons: Iterable[Neuron]) -> dict[str, Tensor]:
        """Return the weighted terms of the last forward pass, 0-dim, by name."""
        rates = [neuron.mean_rate for neuron in neurons if neuron.mean_rate is not None]
        if not rates:
            return {}
        quiet, burst = rate_losses(rates, self.r_min, self.r_max)
        terms = {"quiet": (self.lambda_q, quiet), "burst": (self.lambda_b, burst)}
        return {name: weight * loss for name, (weight, loss) in terms.items() if weight}


def rate_losses(
    rates: Collection[Tensor], r_min: float = 0.05, r_max: float = 0.30
) -> tuple[Tensor, Tensor]:
    """Return L_quiet and L_burst of Ahmed et al. (2026) over the mean firing rates of L layers.

    L_quiet = 1/L sum max(0, r_min - r_l), L_burst = 1/L sum max(0, r_l - r_max). The bounds are
    not available to us; ours keep the mean near the published 72 % sparsity.
    """
    r = torch.stack(list(rates))
    return (r_min - r).clamp(min=0).mean(), (r - r_max).clamp(min=0).mean()
