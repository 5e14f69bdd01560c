"""The recurrence of leaky integrate-and-fire neurons, over time steps or over frames.

Conventions are spikingjelly's, see ``lif_step``. On CPUs and CUDA GPUs the recurrence and its
gradient are compiled; loops in torch do the same, slower.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.surrogate import SURROGATES, spike, step
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


@dataclass(frozen=True)
class LIFDynamics:
    """How a LIF neuron charges, fires and resets.

    Attributes:
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

    tau: float = 2.0
    v_th: float = 1.0
    v_reset: float = 0.0
    reset: str = "hard"
    decay_input: bool = True
    detach_reset: bool = True
    surrogate: str = "atan"
    surrogate_alpha: float | None = None

    def __post_init__(self) -> None:
        if self.tau < 1:
            raise ValueError(f"tau: {self.tau} has to be at least 1")
        choose("reset", self.reset, RESETS)
        choose("surrogate", self.surrogate, SURROGATES)

    @property
    def soft(self) -> bool:
        """Whether a spike subtracts the threshold from the potential."""
        return self.reset == "soft"

    def step(self, v: Tensor, x: Tensor, tau: Any = None) -> tuple[Tensor, Tensor]:
        """Return the spikes and the potential after a step, see ``lif_step``.

        Args:
            v: potential before.
            x: input.
            tau: 0-dim, in place of the fixed one, for its gradient.
        """
        return lif_step(
            v,
            x,
            self.fire,
            self.tau if tau is None else tau,
            self.v_th,
            self.v_reset,
            self.reset,
            self.decay_input,
            self.detach_reset,
        )

    def fire(self, x: Tensor) -> Tensor:
        """Return 1 where ``x`` (potential minus threshold) is not negative, with the surrogate."""
        return spike(x, self.surrogate, self.surrogate_alpha)

    def kernel_arguments(self) -> tuple:
        """Return what the compiled kernels are told."""
        return self.tau, self.v_th, self.v_reset, self.soft, self.decay_input

    def surrogate_slope(self, h: Tensor) -> tuple[float, Tensor]:
        """Return the parameter of ``atan``, which kernels compute, and a placeholder for the
        surrogate derivative; or 0 and the derivative.
        """
        derivative, default = SURROGATES[self.surrogate]
        alpha = default if self.surrogate_alpha is None else self.surrogate_alpha
        if self.surrogate == "atan" and alpha:
            return float(alpha), h
        return 0.0, derivative(h - self.v_th, alpha)


def run_steps(
    x: Tensor, time_steps: int, dynamics: LIFDynamics
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the time steps of every frame, from rest.

    Args:
        x: input currents ``(time_steps * B, N, ..., C)``.
        time_steps: T.
        dynamics: of the neuron.

    Returns:
        spikes, 0 or 1, shaped and typed as ``x``; their number per frame ``(time_steps * B, N)``,
        without gradient; where compiled kernels ran, the potentials before the reset
        ``(T, B * N, K)``, which the backward pass keeps, else None.
    """
    fused = backends.fused(x, "lif")
    if fused is not None:
        rows = x.unflatten(0, (time_steps, -1)).flatten(1, 2).flatten(2)
        spikes, h, counts = _FusedSteps.apply(rows, dynamics, fused)
        return spikes.view(x.shape), counts.view(x.shape[:2]), h
    kernels = backends.compiled(x, "lif")
    if kernels is not None:
        rows = x.unflatten(0, (time_steps, -1)).flatten(1, 2).flatten(2)
        spikes, h, counts = _Steps.apply(rows, dynamics, kernels)
        return spikes.view(x.shape), counts.view(x.shape[:2]), h
    steps = x.view(time_steps, -1, *x.shape[1:])
    v = torch.full_like(steps[0], dynamics.v_reset)
    emitted = []
    for x_t in steps:
        s, v = dynamics.step(v, x_t)
        emitted.append(s)
    spikes = torch.cat(emitted)
    return spikes, spikes.detach().flatten(2).sum(-1), None


def run_frames(
    x: Tensor, v: Tensor, lengths: Tensor, dynamics: LIFDynamics, rate: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run frame after frame.

    Args:
        x: input currents ``(B, L, C)``.
        v: potential before the first frame ``(B, C)``.
        lengths: valid frames ``(B,)``: no spikes after them, and the potential stays.
        dynamics: of the neuron; ``tau`` counts frames.
        rate: 1 / tau, 0-dim, in place of that of ``dynamics``: for its gradient.

    Returns:
        spikes, 0 or 1, shaped and typed as ``x``; the potential after the last frame ``(B, C)``;
        the number of spikes in each frame ``(B, L)``.
    """
    if torch.compiler.is_compiling():
        return _compiled_frames(x, v, lengths, rate, *dynamics.kernel_arguments())
    fused = backends.fused(x, "lif")
    if fused is not None:
        return _FusedFrames.apply(x, v, lengths, dynamics, fused, rate)
    kernels = backends.compiled(x, "lif")
    if rate is not None and (kernels is not None or torch.jit.is_tracing()):
        dynamics = replace(dynamics, tau=1 / float(rate.detach()))
    if kernels is not None:
        return _Frames.apply(x, v, lengths, dynamics, kernels, rate)
    if torch.jit.is_tracing():
        conf = (*map(float, (dynamics.tau, dynamics.v_th, dynamics.v_reset)), dynamics.soft)
        spikes, v = backends.scripted(frame_loop)(x, v, lengths, *conf, dynamics.decay_input)
        return spikes, v, spikes.sum(-1)
    emitted = []
    tau = None if rate is None else 1 / rate
    for t, x_t in enumerate(x.unbind(1)):
        s, new = dynamics.step(v, x_t, tau)
        valid = (t < lengths)[:, None]
        emitted.append(torch.where(valid, s, 0))
        v = torch.where(valid, new, v)
    spikes = torch.stack(emitted, 1)
    return spikes, v, spikes.sum(-1)


def fire_frames(
    x: Tensor,
    v: Tensor,
    lengths: Tensor,
    dynamics: LIFDynamics,
    rate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run membranes frame after frame, as a machine would: charge, compare, reset where it fires.

    Without gradients; arguments as of ``run_frames``, whose result it is on spikes of one bit.

    Returns:
        spikes ``(B, L, C)``, uint8, and the potential after the last frame ``(B, C)``.
    """
    tau = dynamics.tau if rate is None else 1 / float(rate.detach())
    potential, fired = v, []
    for t in range(x.shape[1]):
        charged = charge(potential, x[:, t], tau, dynamics.v_reset, dynamics.decay_input)
        valid = (t < lengths)[:, None]
        fires = (charged >= dynamics.v_th) & valid
        left = charged - dynamics.v_th if dynamics.soft else dynamics.v_reset
        potential = torch.where(valid, torch.where(fires, left, charged), potential)
        fired.append(fires.to(torch.uint8))
    return torch.stack(fired, 1), potential


@torch.library.custom_op("espnet_spike::lif_frames", mutates_args=())
def _compiled_frames(
    x: Tensor,
    v: Tensor,
    lengths: Tensor,
    rate: Tensor | None,
    tau: float,
    v_th: float,
    v_reset: float,
    soft: bool,
    decay_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``run_frames`` as one operation within ``torch.compile``; it has no gradient."""
    reset = "soft" if soft else "hard"
    dynamics = LIFDynamics(tau, v_th, v_reset, reset, decay_input)
    spikes, last, counts = run_frames(x, v, lengths, dynamics, rate)
    return spikes, last.clone(memory_format=torch.contiguous_format), counts


@_compiled_frames.register_fake
def _(x, v, *_):  # noqa: ANN001
    return x.new_empty(x.shape), v.new_empty(v.shape), x.new_empty(x.shape[:2])


def frame_loop(
    x: Tensor,
    v: Tensor,
    lengths: Tensor,
    tau: float,
    v_th: float,
    v_reset: float,
    soft: bool,
    decay_input: bool,
) -> tuple[Tensor, Tensor]:
    """Run ``run_frames`` without gradients, as TorchScript can write it into a graph.

    Args:
        x: ``(B, L, E)``.
        v: ``(B, E)``.
        lengths: ``(B,)``.
        tau, v_th, v_reset, decay_input: see ``LIFDynamics``.
        soft: whether the reset is soft.

    Returns:
        spikes ``(B, L, E)`` and the last potential ``(B, E)``.
    """
    spikes = []
    for t in range(x.shape[1]):
        h = charge(v, x[:, t], tau, v_reset, decay_input)
        s = step(h - v_th)
        valid = (t < lengths)[:, None]
        spikes.append(torch.where(valid, s, torch.zeros_like(s)))
        v = torch.where(valid, discharge(h, s, v_th, v_reset, soft), v)
    return torch.stack(spikes, 1), v


class _Steps(torch.autograd.Function):
    """Spikes, potentials before the reset ``(T, R, K)`` and spikes per frame ``(T, R)``."""

    @staticmethod
    def forward(ctx, x, dynamics, kernels):  # noqa: ANN001
        x = x.contiguous()
        h, spikes, counts = torch.empty_like(x), torch.empty_like(x), x.new_empty(x.shape[:2])
        arrays = backends.arrays(x, h, spikes, counts)
        kernels.forward_steps(*arrays, *dynamics.kernel_arguments())
        ctx.save_for_backward(h)
        ctx.mark_non_differentiable(h, counts)
        ctx.dynamics, ctx.kernels = dynamics, kernels
        return spikes, h, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # noqa: ANN001
        (h,) = ctx.saved_tensors
        dynamics: LIFDynamics = ctx.dynamics
        atan, slope = dynamics.surrogate_slope(h)
        grad_x = torch.empty_like(h)
        arrays = backends.arrays(grad.contiguous(), slope, h, grad_x)
        conf = (*dynamics.kernel_arguments(), dynamics.detach_reset)
        ctx.kernels.backward_steps(*arrays, atan, *conf)
        return grad_x, None, None


class _Frames(torch.autograd.Function):
    """Spikes ``(B, L, C)``, the last potential ``(B, C)`` and spikes per frame ``(B, L)``."""

    @staticmethod
    def forward(ctx, x, v, lengths, dynamics, kernels, rate):  # noqa: ANN001
        learnt = rate is not None and ctx.needs_input_grad[5]
        first = v if learnt else None
        x, v = x.contiguous(), v.clone(memory_format=torch.contiguous_format)
        h, spikes, counts = torch.empty_like(x), torch.empty_like(x), x.new_empty(x.shape[:2])
        arrays = backends.arrays(x, lengths, v, h, spikes, counts)
        kernels.forward_frames(*arrays, *dynamics.kernel_arguments())
        ctx.save_for_backward(h, lengths, first)
        ctx.dynamics, ctx.kernels = dynamics, kernels
        return spikes, v, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_v, grad_counts):  # noqa: ANN001
        h, lengths, first = ctx.saved_tensors
        dynamics: LIFDynamics = ctx.dynamics
        atan, slope = dynamics.surrogate_slope(h)
        grad_x = torch.empty_like(h)
        grad_v = grad_v.clone(memory_format=torch.contiguous_format)
        grads = (grad.contiguous(), grad_counts.contiguous(), grad_v)
        arrays = backends.arrays(*grads, slope, h, lengths, grad_x)
        conf = (*dynamics.kernel_arguments(), dynamics.detach_reset)
        ctx.kernels.backward_frames(*arrays, atan, *conf)
        grad_rate = None
        if first is not None:
            arrays = backends.arrays(grad_x, h, first.to(h.dtype).contiguous(), lengths)
            of_rate = ctx.kernels.rate_gradient(*arrays, *dynamics.kernel_arguments())
            grad_rate = h.new_tensor(of_rate)
        return grad_x, grad_v, None, None, None, grad_rate


class _FusedSteps(torch.autograd.Function):
    """``_Steps`` on a GPU; without a gradient no potentials are kept."""

    @staticmethod
    def forward(ctx, x, dynamics, kernels):  # noqa: ANN001
        ctx.neuron, ctx.gradient = _for_kernels(dynamics, kernels)
        spikes, counts, h = kernels.run_steps(x.contiguous(), ctx.neuron, ctx.needs_input_grad[0])
        ctx.kernels = kernels
        ctx.save_for_backward(h)
        ctx.mark_non_differentiable(counts, *[t for t in (h,) if t is not None])
        return spikes, h, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # noqa: ANN001
        (h,) = ctx.saved_tensors
        return ctx.kernels.step_gradients(grad, h, ctx.neuron, ctx.gradient), None, None


class _FusedFrames(torch.autograd.Function):
    """``_Frames`` on a GPU; without a gradient no potentials are kept."""

    @staticmethod
    def forward(ctx, x, v, lengths, dynamics, kernels, rate):  # noqa: ANN001
        ctx.neuron, ctx.gradient = _for_kernels(dynamics, kernels)
        keep, lengths = any(ctx.needs_input_grad), lengths.to(x.device)
        x = x.contiguous()
        spikes, last, counts, h = kernels.run_frames(x, v, lengths, ctx.neuron, rate, keep)
        ctx.kernels, ctx.types = kernels, (v.dtype, None if rate is None else rate.dtype)
        ctx.save_for_backward(h, v, lengths, rate)
        return spikes, last.to(v.dtype), counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_v, grad_counts):  # noqa: ANN001
        h, v, lengths, rate = ctx.saved_tensors
        grad_x, grad_v, grad_rate = ctx.kernels.frame_gradients(
            (grad, grad_counts, grad_v), h, v, lengths, ctx.neuron, ctx.gradient, rate
        )
        of_v, of_rate = ctx.types
        grad_rate = None if grad_rate is None else grad_rate.to(of_rate)
        return grad_x, grad_v.to(of_v), None, None, None, grad_rate


def _for_kernels(dynamics: LIFDynamics, kernels: ModuleType) -> tuple[Any, Any]:
    """Return what Triton kernels are told of the neuron and of its gradient."""
    default = SURROGATES[dynamics.surrogate][1]
    alpha = default if dynamics.surrogate_alpha is None else dynamics.surrogate_alpha
    gradient = kernels.Gradient(dynamics.detach_reset, dynamics.surrogate, float(alpha))
    return kernels.Neuron(*dynamics.kernel_arguments()), gradient
