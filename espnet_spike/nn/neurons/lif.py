"""Leaky integrate-and-fire neurons over several time steps, binary (LIF) and integer (I-LIF)."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from espnet_spike.nn.checkpointing import inside_checkpoint
from espnet_spike.nn.neurons.base import Firing, Neuron
from espnet_spike.nn.neurons.spike_train import LIFRecipe, SpikeTrain
from espnet_spike.nn.ops.backends import can_compile
from espnet_spike.nn.ops.surrogate import SURROGATES, integer_spike, spike
from espnet_spike.utils.options import choose

RESETS = ("hard", "soft")


def lif_step(
    v: Tensor,
    x: Tensor,
    fire: Callable[[Tensor], Tensor],
    tau: float = 2.0,
    v_th: float = 1.0,
    v_reset: float = 0.0,
    reset: str = "hard",
    decay_input: bool = True,
    detach_reset: bool = True,
) -> tuple[Tensor, Tensor]:
    """Advance a LIF neuron by one step, in spikingjelly's conventions.

    H = V + (X - (V - v_reset)) / tau, or H = V - (V - v_reset) / tau + X without ``decay_input``;
    S = fire(H - v_th); hard reset V = H (1 - S) + v_reset S, soft reset V = H - v_th S.

    Returns:
        the spikes S and the membrane potential V after the reset.
    """
    h = charge(v, x, tau, v_reset, decay_input)
    s = fire(h - v_th)
    gate = s.detach() if detach_reset else s
    return s, discharge(h, gate, v_th, v_reset, reset == "soft")


def charge(v: Tensor, x: Tensor, tau: float, v_reset: float, decay_input: bool) -> Tensor:
    """Return H, the potential before the neuron may fire; see ``lif_step``."""
    return v + (x - (v - v_reset)) / tau if decay_input else v - (v - v_reset) / tau + x


def discharge(h: Tensor, s: Tensor, v_th: float, v_reset: float, soft: bool) -> Tensor:
    """Return V after the reset by the spikes ``s``; see ``lif_step``."""
    return h - v_th * s if soft else h * (1 - s) + v_reset * s


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


class LeakyNeuron(Neuron):
    """Base of the neurons that follow ``lif_step``: its options, and its steps in torch.

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
        super().__init__()
        if tau < 1:
            raise ValueError(f"tau: {tau} has to be at least 1")
        self.dim = dim
        self.tau = tau
        self.v_th = v_th
        self.v_reset = v_reset
        self.reset = choose("reset", reset, RESETS)
        self.decay_input = decay_input
        self.detach_reset = detach_reset
        self.surrogate = choose("surrogate", surrogate, SURROGATES)
        self.surrogate_alpha = surrogate_alpha

    def fire(self, x: Tensor) -> Tensor:
        """Return 1 where ``x`` (potential minus threshold) is not negative, with the surrogate."""
        return spike(x, self.surrogate, self.surrogate_alpha)

    def step(self, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes and the potential after a step, see ``lif_step``."""
        return lif_step(
            v,
            x,
            self.fire,
            self.tau,
            self.v_th,
            self.v_reset,
            self.reset,
            self.decay_input,
            self.detach_reset,
        )

    def kernel_arguments(self) -> tuple:
        """Return what the compiled kernels need of the neuron."""
        return self.tau, self.v_th, self.v_reset, self.reset == "soft", self.decay_input

    def surrogate_slope(self, h: Tensor) -> tuple[float, Tensor]:
        """Return the parameter of ``atan``, which kernels compute, and a placeholder for the
        surrogate derivative; or 0 and the derivative.
        """
        derivative, default = SURROGATES[self.surrogate]
        alpha = default if self.surrogate_alpha is None else self.surrogate_alpha
        if self.surrogate == "atan" and alpha:
            return float(alpha), h
        return 0.0, derivative(h - self.v_th, alpha)


class LIF(LeakyNeuron):
    """LIF neuron that runs ``T`` time steps a frame, as Spikformer and its kin.

    Args:
        dim: number of channels.
        T: time steps; the input carries them in its batch, ``(T * B, N, ..., C)``.
        tau: membrane time constant, in time steps; it and all below: see ``LeakyNeuron``.

    Raises:
        ValueError: for an unknown ``reset`` or ``surrogate``, ``T < 1`` or ``tau < 1``.
    """

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
        dtype, shape = x.dtype, x.shape
        if dtype in (torch.bfloat16, torch.float16):
            x = x.float()
        kernels = _kernels(x)
        if kernels is None:
            y = self._loop(x)
            self.firing = report_firing(y, mask, levels=1)
            return y.to(dtype)
        rows = x.unflatten(0, (self.T, -1)).flatten(1, 2).flatten(2)
        y, h, counts = _Compiled.apply(rows, self, kernels)
        y = y.view(shape).to(dtype)
        if torch.is_grad_enabled() and not inside_checkpoint():
            y.recipe = LIFRecipe(h.detach(), self.v_th, dtype)
        numel = rows.shape[2]
        self.firing = frame_firing(counts.view(shape[:2]), mask, numel, levels=1)
        return y

    def _loop(self, x: Tensor) -> Tensor:
        """Run as the equations read, in torch."""
        steps = x.view(self.T, -1, *x.shape[1:])
        v = torch.full_like(steps[0], self.v_reset)
        spikes = []
        for step in steps:
            s, v = self.step(v, step)
            spikes.append(s)
        return torch.cat(spikes)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, tau={self.tau}, v_th={self.v_th}, reset={self.reset}"


class _Compiled(torch.autograd.Function):
    """Spikes, potentials before the reset ``(T, R, K)`` and spikes a frame ``(T, R)``."""

    @staticmethod
    def forward(ctx, x, neuron, kernels):  # noqa: ANN001
        x = x.contiguous()
        h, spikes, counts = torch.empty_like(x), torch.empty_like(x), x.new_empty(x.shape[:2])
        arrays = [tensor.detach().numpy() for tensor in (x, h, spikes, counts)]
        kernels.forward(*arrays, *neuron.kernel_arguments())
        ctx.save_for_backward(h)
        ctx.mark_non_differentiable(h, counts)
        ctx.neuron, ctx.kernels = neuron, kernels
        return spikes, h, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # noqa: ANN001
        (h,) = ctx.saved_tensors
        neuron = ctx.neuron
        atan, slope = neuron.surrogate_slope(h)
        grad_x = torch.empty_like(h)
        arrays = [tensor.numpy() for tensor in (grad.contiguous(), slope, h, grad_x)]
        ctx.kernels.backward(*arrays, atan, *neuron.kernel_arguments(), neuron.detach_reset)
        return grad_x, None, None


def _kernels(x: Tensor) -> ModuleType | None:
    if not can_compile(x):
        return None
    from espnet_spike.nn.ops import lif_numba

    return lif_numba


class ILIF(Neuron):
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
        super().__init__()
        if T < 1 or time_steps < 1:
            raise ValueError(f"T, time_steps: {T}, {time_steps}: both have to be at least 1")
        self.dim = dim
        self.T = T
        self.time_steps = time_steps
        self.beta = beta
        self.v_th = v_th
        self.unit = 1.0 / T if divide else 1.0
        self.rounding = choose("rounding", rounding, ("half_up", "even"))
        self.spike_mode = "integer"

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

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, time_steps={self.time_steps}, v_th={self.v_th}"
