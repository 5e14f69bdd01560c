"""The integer multi-level spiking neuron (IMLS) of IML-Spikeformer, and the choice of neurons.

Paper A (arXiv 2507.07396) describes a neuron that emulates several firing time steps inside one,
with an input-aware threshold. Its equations are not public to us; what follows is our reading.
For a frame n and a channel c of the input X, with the level of the frame m_n:

    V_nc = alpha_c * max(m_n, eps)                      threshold
    s_nc = clip(floor(X_nc / V_nc + 1/2), 0, T)         spike count
    Y_nc = V_nc * s_nc                                  output

A constant floor on m, not on the product, keeps V a frame factor times a channel factor always;
binary execution and the fold of attention rest on that.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.firing import Firing, Neuron, valid_count
from espnet_spike.options import check_keys, choose

IMLS_STATS = ("token", "utt", "max", "ema", "fixed")
ROUNDINGS = ("half_up", "even")
EPS = 1e-5


def spike_counts(ratio: Tensor, levels: int, rounding: str) -> Tensor:
    """Turn ``ratio`` = X/V into spike counts in 0..levels, in place.

    ``half_up`` is floor(r + 1/2), what an integrate-and-fire neuron pre-charged by half a
    threshold emits; ``even`` is torch.round of the ancestors' code, which differs on exact ties.
    """
    ratio = ratio.add_(0.5).floor_() if rounding == "half_up" else ratio.round_()
    return ratio.clamp_(0, levels)


class _IMLSFunction(torch.autograd.Function):
    """Y = V * counts(X / V) with a rectangular surrogate and an LSQ gradient for the threshold.

    With I = [0 <= X/V <= T] (inclusive) and the upstream gradient g, our reading of the gradient
    (SFA/I-LIF's rectangular window, LSQ's step size gradient):

        dX = g * I,    dV = g * (s - X/V * I)

    As V = level * alpha, both threshold gradients come from the one product e = g * (Y - X * I):
    dalpha_c = sum_n e_nc / alpha_c and dlevel_n = sum_c e_nc / level_n.
    """

    @staticmethod
    def forward(ctx, x, alpha, level, row_weight, grad_scale, levels, rounding):  # noqa: ANN001
        threshold = level * alpha
        counts = spike_counts(x / threshold, levels, rounding)
        count_per_frame = counts.detach().flatten(2).sum(-1)
        y = counts.mul_(threshold)
        ctx.save_for_backward(x, y, alpha, level, row_weight, grad_scale)
        ctx.levels = levels
        ctx.mark_non_differentiable(count_per_frame)
        return y, count_per_frame

    @staticmethod
    def backward(ctx, grad, _):  # noqa: ANN001
        x, y, alpha, level, row_weight, grad_scale = ctx.saved_tensors
        ratio = x / (level * alpha)
        inside = (ratio >= 0).logical_and_(ratio <= ctx.levels)
        grad_x = grad * inside
        grad_alpha = grad_level = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            e = grad * y - grad_x * x
            if ctx.needs_input_grad[1]:
                weighted = torch.mv(e.view(row_weight.numel(), -1).t(), row_weight.flatten())
                grad_alpha = weighted.view(-1, alpha.numel()).sum(0) / alpha * grad_scale
            if ctx.needs_input_grad[2]:
                grad_level = e.sum_to_size(level.shape) / level
        return grad_x, grad_alpha, grad_level, None, None, None, None


class IMLS(Neuron):
    """Integer multi-level spiking neuron (paper A; equations and defaults are our reading).

    Args:
        dim: number of channels C (the last axis of the input).
        T: levels, i.e. virtual time steps; an activation emits 0..T spikes.
        alpha_init: initial threshold factor; None means 0.5, or 1.0 for T <= 2 and stat ``max``.
        stat: the level m of a frame. ``token``: mean |X| over the frame's channels (and feature
            bins); ``utt``: mean |X| over the valid frames of the utterance; ``max``: largest |X|
            of the frame over T; ``ema``: running mean of |X| per channel, frozen in evaluation;
            ``fixed``: 1.
        detach_stat: treat m as a constant in the backward pass.
        rounding: ``half_up`` or ``even``.

    Raises:
        ValueError: for an unknown ``stat`` or ``rounding`` or ``T < 1``.
    """

    def __init__(
        self,
        dim: int,
        T: int = 6,
        alpha_init: float | None = None,
        stat: str = "token",
        detach_stat: bool = True,
        rounding: str = "half_up",
    ) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"T: {T} is too small; a neuron needs at least one level")
        self.dim = dim
        self.T = T
        self.stat = choose("imls_stat", stat, IMLS_STATS)
        self.rounding = choose("rounding", rounding, ROUNDINGS)
        self.detach_stat = detach_stat
        if alpha_init is None:
            alpha_init = 1.0 if T <= 2 or stat == "max" else 0.5
        # softplus(a) = alpha_init
        self.a = nn.Parameter(torch.full((dim,), math.log(math.expm1(alpha_init))))
        if stat == "ema":
            self.momentum = 0.1
            self.register_buffer("running_level", torch.ones(dim))
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @property
    def alpha(self) -> Tensor:
        """Threshold factor per channel, ``(C,)``, positive."""
        return F.softplus(self.a).clamp(min=EPS)

    def level(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the level m, broadcastable to ``x`` ``(B, N, ..., C)`` and at least ``EPS``."""
        over = tuple(range(2, x.dim()))
        if self.stat == "fixed":
            return x.new_ones(1)
        if self.stat == "ema":
            if self.training:
                self._update_running_level(x.detach(), mask)
            return self.running_level.to(x.dtype).clamp(min=EPS)
        if self.stat == "max":
            m = x.abs().amax(over, keepdim=True) / self.T
        else:
            m = torch.linalg.vector_norm(x, 1, over, keepdim=True) / x[0, 0].numel()
        if self.stat == "utt":
            if mask is None:
                m = m.mean(1, keepdim=True)
            else:
                weight = mask.to(x.dtype).view(mask.shape + (1,) * (x.dim() - 2))
                m = (m * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        return m.clamp(min=EPS)

    @torch.no_grad()
    def _update_running_level(self, x: Tensor, mask: Tensor | None) -> None:
        per_frame = x.abs().flatten(2, -2).mean(2) if x.dim() > 3 else x.abs()
        if mask is None:
            mean = per_frame.mean((0, 1))
        else:
            weight = mask.to(x.dtype)
            mean = (per_frame * weight[..., None]).sum((0, 1)) / weight.sum().clamp(min=1)
        # the first batch sets the level, as there is no sensible one to start from
        momentum = torch.where(self.updates == 0, 1.0, self.momentum)
        self.running_level.lerp_(mean.to(self.running_level.dtype), momentum.to(mean.device))
        self.updates += 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Emit spikes times the threshold.

        Args:
            x: pre-activations ``(B, N, ..., C)``.
            mask: ``(B, N)``, true on valid frames; None when all are.

        Returns:
            V * counts, same shape and dtype as ``x``.
        """
        dtype = x.dtype
        if dtype in (torch.bfloat16, torch.float16):
            # a bf16 ratio cannot tell neighbouring counts apart; the spikes can be rounded after
            x = x.float()
        alpha = self.alpha.to(x.dtype)
        level = self.level(x.detach() if self.detach_stat else x, mask)
        frames = valid_count(x, mask)
        per_channel = frames * (x[0, 0].numel() // self.dim)
        # LSQ's gradient scale keeps the threshold's step in proportion to the weights'
        grad_scale = (self.T * per_channel).clamp(min=1).to(x.dtype).rsqrt()
        weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        y, count = _IMLSFunction.apply(x, alpha, level, weight, grad_scale, self.T, self.rounding)
        self._report(x, level, count, weight, per_channel)
        return y.to(dtype)

    @torch.no_grad()
    def _report(
        self, x: Tensor, level: Tensor, count: Tensor, weight: Tensor, per_channel: Tensor
    ) -> None:
        self.firing = Firing(
            (count * weight).sum(), per_channel * self.dim, torch.tensor(self.T, device=x.device)
        )
        if self.stat in ("token", "max"):
            m = level.detach().flatten(1)
            total = weight.sum().clamp(min=1)
            mean = (m * weight).sum() / total
            variance = ((m - mean).square() * weight).sum() / total
            self.threshold_spread = variance.sqrt() / mean.clamp(min=EPS)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, stat={self.stat}"


class ReLU(nn.Module):
    """The real-valued activation of the ANN twin, called like a neuron; it does not spike."""

    time_steps = 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return max(x, 0); ``mask`` is not needed."""
        return F.relu(x)


NEURONS = {"imls": IMLS, "relu": ReLU}


class NeuronFactory:
    """Makes the neurons of one network, all of one kind.

    Args:
        neuron: a name in ``NEURONS``.
        T: levels (IMLS, I-LIF) or time steps (LIF, ternary); the twin has none.
        conf: further arguments of the neuron's class, see there.

    Raises:
        ValueError: for an unknown neuron or argument.
    """

    def __init__(self, neuron: str, T: int, conf: dict | None = None) -> None:
        self.neuron = choose("neuron", neuron, NEURONS)
        self.cls = NEURONS[self.neuron]
        self.conf = dict(conf or {})
        check_keys("neuron_conf", self.conf, self.cls)
        if self.neuron != "relu":
            self.conf.setdefault("T", T)
        self.time_steps: int = self(1).time_steps

    def __call__(self, dim: int, **override: object) -> nn.Module:
        """Return a neuron layer of ``dim`` channels."""
        return partial(self.cls, **(self.conf | override))(dim)
