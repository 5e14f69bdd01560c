"""LIF neurons whose time is that of the speech: one step a frame, the potential carried along.

Paper B (arXiv 2606.01135) makes SpeechMamba spiking with LIF neurons; its time axis is not public
to us. Ours: the recurrence runs over the frames of an utterance, starts at rest, stops at the
valid length and needs no further time steps. Conventions are spikingjelly's, see ``lif.lif_step``.
"""

import math
from collections.abc import Collection
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from espnet_spike.nn.neurons.base import Firing
from espnet_spike.nn.neurons.lif import LeakyNeuron, charge, discharge
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.nn.ops.backends import can_compile, scripted
from espnet_spike.nn.ops.surrogate import step
from espnet_spike.nn.stream_state import Stateful


class FrameLIF(Stateful, LeakyNeuron):
    """LIF over frames, called as ``neuron(x, mask)`` with ``x`` ``(B, L, ..., C)``.

    The arguments are those of ``LeakyNeuron``; ``tau`` counts frames.

    Attributes:
        mean_rate: spikes per neuron and valid frame of the last forward pass, 0-dim, with
            gradient; None before the first.
    """

    T = 1
    mean_rate: Tensor | None = None

    def initial_state(self, x: Tensor) -> Tensor:
        """Return the potential before the first frame of ``x`` ``(B, L, ..., C)``, at rest."""
        return torch.full_like(x[:, 0], self.v_reset, dtype=_float(x.dtype))

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
        x = x.to(_float(dtype))
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        kernels = _kernels(x)
        if torch.jit.is_tracing():
            conf = map(float, (self.tau, self.v_th, self.v_reset))
            conf = (*conf, self.reset == "soft", self.decay_input)
            spikes, v = scripted(inference_loop)(x.flatten(2), v.flatten(1), lengths, *conf)
            counts = spikes.sum(-1)
        elif kernels is None:
            spikes, v = self._loop(x, v, lengths)
            counts = spikes.flatten(2).sum(-1)
        else:
            compiled = _Compiled.apply(x.flatten(2), v.flatten(1), lengths, self, kernels)
            spikes, v, counts = compiled
        return spikes.view(x.shape).to(dtype), v.view(shape), counts

    def _loop(self, x: Tensor, v: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run as the equations read, in torch."""
        spikes = []
        for t, x_t in enumerate(x.unbind(1)):
            s, new = self.step(v, x_t)
            valid = (t < lengths).view(-1, *[1] * (v.dim() - 1))
            spikes.append(torch.where(valid, s, 0))
            v = torch.where(valid, new, v)
        return torch.stack(spikes, 1), v

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Emit 0/1 spikes, shaped and typed as ``x`` ``(B, L, ..., C)``.

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
        frames = counts.new_tensor(counts.numel()) if mask is None else lengths.sum()
        numel = frames.double() * math.prod(y.shape[2:])
        self.firing = Firing(counts.detach().double().sum(), numel, torch.ones_like(numel))
        self.mean_rate = counts.sum() / numel.clamp(min=1).to(counts.dtype)
        return y

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, tau={self.tau}, v_th={self.v_th}, reset={self.reset}"


def inference_loop(
    x: Tensor,
    v: Tensor,
    lengths: Tensor,
    tau: float,
    v_th: float,
    v_reset: float,
    soft: bool,
    decay_input: bool,
) -> tuple[Tensor, Tensor]:
    """Run ``FrameLIF._loop`` without gradients, as TorchScript can write it into a graph.

    Args:
        x: ``(B, L, E)``.
        v: ``(B, E)``.
        lengths: ``(B,)``.
        tau, v_th, v_reset, decay_input: of the neuron.
        soft: whether its reset is soft.

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


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, v, lengths, neuron, kernels):  # noqa: ANN001
        x, v = x.contiguous(), v.clone(memory_format=torch.contiguous_format)
        h, spikes = torch.zeros_like(x), torch.zeros_like(x)
        counts = x.new_zeros(x.shape[:2])
        conf = neuron.kernel_arguments()
        kernels.forward(*_numpy(x, lengths, v, h, spikes, counts), *conf)
        ctx.save_for_backward(h, lengths)
        ctx.neuron, ctx.kernels, ctx.conf = neuron, kernels, conf
        return spikes, v, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_v, grad_counts):  # noqa: ANN001
        h, lengths = ctx.saved_tensors
        neuron = ctx.neuron
        atan, slope = neuron.surrogate_slope(h)
        grad_x = torch.zeros_like(h)
        grad_v = grad_v.clone(memory_format=torch.contiguous_format)
        arrays = _numpy(
            *(x.contiguous() for x in (grad, grad_counts)),
            *(grad_v, slope, h, lengths, grad_x),
        )
        ctx.kernels.backward(*arrays, atan, *ctx.conf, neuron.detach_reset)
        return grad_x, grad_v, None, None, None


def _numpy(*tensors: Tensor) -> list:
    return [tensor.detach().numpy() for tensor in tensors]


def _float(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _kernels(x: Tensor) -> SimpleNamespace | None:
    """Return the compiled recurrence where it can run; the loop does the same, slower."""
    if not can_compile(x):
        return None
    from espnet_spike.nn.ops import frame_lif_numba

    return frame_lif_numba


class NormedLIF(nn.Module):
    """A ``FrameLIF`` behind a batch norm over valid frames, as its fixed threshold needs."""

    def __init__(self, dim: int, conf: dict) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(dim)
        self.lif = FrameLIF(dim, **conf)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise and fire, see ``FrameLIF``."""
        return self.lif(self.norm(x, mask), mask)


def named_frame_lifs(module: nn.Module) -> dict[str, FrameLIF]:
    """Return the neurons inside ``module`` by their dotted names."""
    return {name: m for name, m in module.named_modules() if isinstance(m, FrameLIF)}


def rate_losses(
    rates: Collection[Tensor], r_min: float = 0.05, r_max: float = 0.30
) -> tuple[Tensor, Tensor]:
    """Return L_quiet and L_burst of paper B over the mean firing rates of L layers.

    L_quiet = 1/L sum max(0, r_min - r_l), L_burst = 1/L sum max(0, r_l - r_max). The bounds are
    not public to us; ours keep the mean near the published 72 % sparsity.
    """
    r = torch.stack(list(rates))
    return (r_min - r).clamp(min=0).mean(), (r - r_max).clamp(min=0).mean()
