"""Neurons that emulate several firing time steps in one, with a learnt, input-aware threshold.

For frame n and channel c of the input X, with the level m_n of the frame (``MultiLevel``):

    V_nc = alpha_c * max(m_n, eps)                      threshold
    s_nc = clip(floor(X_nc / V_nc + 1/2), 0, levels)    count
    Y_nc = V_nc * s_nc                                  output

A subclass says how many spikes make a count. A floor under m, not under the product, keeps V a
frame factor times a channel factor always; binary execution and the fold of attention rest on that.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.accounting import Cost
from espnet_spike.nn.checkpointing import inside_checkpoint, is_recomputing
from espnet_spike.nn.distributed import all_reduce_sum
from espnet_spike.nn.neurons.base import LEVEL_RULES, Firing, Neuron
from espnet_spike.nn.neurons.fitting import Piece, inverse_softplus, peaks, search
from espnet_spike.nn.neurons.spike_train import IMLSRecompute, add_up, keep_recipe
from espnet_spike.nn.ops import imls
from espnet_spike.nn.ops.precision import at_least_fp32, full_einsum
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose, numbers_in_range

FOLLOWS_INPUT = ("token", "utt", "max")
IMLS_STATS = (*FOLLOWS_INPUT, "ema", "fixed")
EPS = 1e-5


class _MultiLevelFunction(torch.autograd.Function):
    """Y = V * counts(X / V) with a rectangular surrogate and an LSQ gradient for the threshold.

    With I = [0 <= X/V <= T] (inclusive) and the upstream gradient g, our choice of the gradient
    (SFA/I-LIF's rectangular window, LSQ's gradient of a step size):

        dX = g * w,    dV = g * (s - X/V * I)

    w is I, or has tails, see ``surrogate.window``.

    V = m * alpha: dalpha_c = k_g sum_n (dV * V)_nc / alpha_c, dm_n = sum_c (dV * V)_nc / m_n.

    A level of None is found in the pass that makes Y, and is a constant.
    """

    @staticmethod
    def forward(ctx, x, alpha, level, weight, grad_scale, levels, rounding, tail):  # noqa: ANN001
        y, count, found = _forward(x, level, alpha, weight, levels, rounding)
        ctx.save_for_backward(x, alpha, found, weight, grad_scale)
        ctx.levels, ctx.rounding, ctx.tail = levels, rounding, tail
        ctx.mark_non_differentiable(count)
        if level is not None:
            return y, count, None
        ctx.mark_non_differentiable(count, found)
        return y, count, found

    @staticmethod
    def backward(ctx, grad, *_):  # noqa: ANN001
        x, alpha, level, weight, grad_scale = ctx.saved_tensors
        grad_level = None
        args = (level, alpha, ctx.levels, ctx.rounding, ctx.tail)
        if ctx.needs_input_grad[2]:
            grad_x, e = imls.backward_terms(x, grad, *args)
            grad_level = e.sum((1, 2)) / level
            e = full_einsum("rkc,r->c", e, weight)
        else:
            grad_x, e = imls.backward(x, grad, *args[:2], weight, *args[2:])
        return grad_x, e / alpha * grad_scale, grad_level, None, None, None, None, None


def _forward(
    x: Tensor, level: Tensor | None, alpha: Tensor, weight: Tensor, levels: int, rounding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Y ``(R, K, C)``, the sum of counts, and the level ``(R,)``, found if it is None."""
    if level is None:
        return imls.levelled_forward(x, alpha, weight, levels, rounding, EPS)
    return *imls.forward(x, level, alpha, weight, levels, rounding), level


class MultiLevel(Neuron):
    """Base of the multi-level neurons (equations and defaults are ours).

    Args:
        dim: number of channels C (the last axis of the input).
        T: virtual time steps.
        alpha_init: initial threshold factor; None means ``default_alpha``.
        stat: the level m of a frame. ``token``: mean |X| over the frame's channels (and feature
            bins); ``utt``: mean |X| over the valid frames of the utterance; ``max``: largest |X|
            of the frame over T; ``ema``: running mean of |X| per channel, frozen in evaluation;
            ``fixed``: 1.
        detach_stat: treat m as a constant in the backward pass.
        rounding: ``half_up``, or ``even`` as torch.round.
        surrogate_tail: height of the gradient outside of 0 <= X <= levels * V, see
            ``surrogate.window``; 0 for none.

    Attributes:
        levels: largest count in use, ``levels_of(T)`` unless ``set_levels`` changed it.
        last_unit: factors of V in the last forward pass: level m of every frame ``(B, N)``, scale
            of every channel ``(C,)``.
        warm: emit clip(X, 0, levels * V) without rounding (the warm start of training).

    Raises:
        ValueError: for an unknown ``stat`` or ``rounding`` or ``T < 1``.
    """

    takes_threshold_options = True
    unit_per_channel = True
    running_level: Tensor
    updates: Tensor

    @numbers_in_range
    def __init__(
        self,
        dim: int,
        T: int = 6,
        alpha_init: float | None = None,
        stat: str = "token",
        detach_stat: bool = True,
        rounding: str = "half_up",
        surrogate_tail: float = 0.0,
    ) -> None:
        super().__init__()
        self.surrogate_tail = surrogate_tail
        if alpha_init is None:
            alpha_init = self.default_alpha(T, stat)
        self.dim = dim
        self.T = T
        self.trained_levels = self.levels = self.levels_of(T)
        self.gain = 1.0
        self.chosen_levels = (T, "keep")
        self.stat = choose("imls_stat", stat, IMLS_STATS)
        self.follows_input = stat in FOLLOWS_INPUT
        self.rounding = choose("rounding", rounding, ("half_up", "even"))
        self.detach_stat = detach_stat
        self._utterance_level: Tensor | None = None
        self.last_unit: tuple[Tensor, Tensor] | None = None
        # softplus(a) = alpha_init
        self.a = without_weight_decay(
            nn.Parameter(torch.full((dim,), math.log(math.expm1(alpha_init))))
        )
        if stat == "ema":
            self.momentum = 0.1
            self.register_buffer("running_level", torch.ones(dim))
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @staticmethod
    @abstractmethod
    def levels_of(T: int) -> int:
        """Return the largest count of a neuron of T virtual time steps."""

    @staticmethod
    @abstractmethod
    def default_alpha(T: int, stat: str) -> float:
        """Return the initial threshold factor."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Spikes an activation can emit at most."""

    @abstractmethod
    def counts_of(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the spikes that an input makes, shaped alike.

        Args:
            x: ``(B, N, ..., C)``.
            level: of its frames, ``(B, N)``.
        """

    @property
    def alpha(self) -> Tensor:
        """Threshold factor per channel, ``(C,)``, positive."""
        return F.softplus(self.a).clamp(min=EPS) * (self.gain * self.threshold_scale)

    def thresholds(self) -> Tensor:
        """Return the thresholds in units of the frame's level, ``(C,)``."""
        return self.scale_of(self.a.dtype).detach()

    def scale_thresholds(self, factor: float) -> None:
        """Run with ``factor`` times the trained thresholds."""
        self.threshold_scale = factor

    @torch.no_grad()
    def fit_thresholds(self, pieces: Sequence[Piece]) -> Tensor:
        """Set alpha, see ``Neuron.fit_thresholds``; for ``ema`` also the level of each channel."""
        self.warm = False
        if self.stat == "ema":
            self._set_running_level(pieces)

        def level(x: Tensor, mask: Tensor | None) -> Tensor:
            of_channel = self.running_level.clamp(min=EPS) if self.stat == "ema" else 1.0
            return self.frame_level(x, mask).view(*x.shape[:2], *(1,) * (x.dim() - 2)) * of_channel

        unit = peaks(pieces, level) / self.levels

        def choose_threshold(share: float) -> Tensor:
            self.a.copy_(inverse_softplus(unit * share))
            return self.a

        best, _, losses = search(self, pieces, choose_threshold)
        self.a.copy_(best)
        return losses

    def _set_running_level(self, pieces: Sequence[Piece]) -> None:
        total, frames = torch.zeros_like(self.running_level), 0.0
        for x, mask, _ in pieces:
            valid = frame_rows(x if mask is None else x[mask][None]).abs().mean(1)
            total += valid.sum(0)
            frames += len(valid)
        self.running_level.copy_(total / max(frames, 1))
        self.updates.fill_(1)

    def set_levels(self, T: int, rule: str = "keep") -> None:
        """Run with another number of levels, see ``Neuron.set_levels``."""
        if T < 1:
            raise ValueError(f"T: {T} is too small; a neuron needs at least one level")
        self.levels = self.levels_of(T)
        rescale = choose("rule", rule, LEVEL_RULES) == "rescale"
        self.gain = self.trained_levels / self.levels if rescale else 1.0
        self.chosen_levels = (T, rule)

    def frame_level(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return m of every frame, ``(B, N)`` (1 for ``ema`` and ``fixed``), at least ``EPS``."""
        if self.stat in ("ema", "fixed"):
            return x.new_ones(()).expand(x.shape[:2])
        if self._utterance_level is not None:
            return self._utterance_level.to(x.dtype)[:, None].expand(x.shape[:2])
        rows = frame_rows(x)
        if self.stat == "max":
            m = rows.abs().amax((1, 2)) / self.trained_levels
        elif x.requires_grad:
            m = rows.abs().mean((1, 2))
        else:
            m = imls.mean_abs(rows)
        m = m.view(x.shape[:2])
        if self.stat == "utt":
            weight = torch.ones_like(m) if mask is None else mask.to(m.dtype)
            m = (m * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
            m = m.expand(x.shape[:2])
        return m.clamp(min=EPS)

    @contextmanager
    def over_pieces(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """Hold the ``utt`` level of an input that comes in pieces, see ``Activation``."""
        if self.stat != "utt":
            yield
            return
        sums, frames = [], []
        for x, mask in pieces:
            x = at_least_fp32(x).contiguous()
            m = imls.mean_abs(frame_rows(x)).view(x.shape[:2])
            sums.append((m * mask).sum(1))
            frames.append(mask.sum(1))
        self._utterance_level = (add_up(sums) / add_up(frames).clamp(min=1)).clamp(min=EPS)
        try:
            yield
        finally:
            self._utterance_level = None

    def channel_scale(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the threshold's factor per channel, ``(C,)``: alpha, times the ``ema`` level."""
        # a pass that is only recomputed for its gradients must see the level of the first one
        if self.stat == "ema" and self.training and not is_recomputing():
            self._update_running_level(x.detach(), mask)
        return self.scale_of(x.dtype)

    def scale_of(self, dtype: torch.dtype) -> Tensor:
        """Return ``channel_scale`` as it is, whatever the next input."""
        alpha = self.alpha.to(dtype)
        if self.stat != "ema":
            return alpha
        return alpha * self.running_level.to(dtype).clamp(min=EPS)

    @torch.no_grad()
    def _update_running_level(self, x: Tensor, mask: Tensor | None) -> None:
        per_frame = x.abs().flatten(2, -2).mean(2) if x.dim() > 3 else x.abs()
        weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        total = all_reduce_sum(full_einsum("bnc,bn->c", per_frame, weight))
        mean = total / all_reduce_sum(weight.sum()).clamp(min=1)
        # the first batch sets the level, as there is no sensible one to start from
        momentum = torch.where(self.updates == 0, 1.0, self.momentum)
        self.running_level.lerp_(mean.to(self.running_level.dtype), momentum)
        self.updates += 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Emit spikes.

        Args:
            x: pre-activations ``(B, N, ..., C)``.
            mask: ``(B, N)``, true on valid frames; None when all are.

        Returns:
            V * counts, same shape and dtype as ``x``.
        """
        dtype = x.dtype
        rounding = "off" if self.warm else self.rounding
        if self.stat == "token" and self.detach_stat and imls.in_one_pass(x):
            x, level, level_rows, scale = x.contiguous(), None, None, self.scale_of(torch.float32)
            weight = scale.new_ones(x.shape[:2]) if mask is None else mask.to(scale.dtype)
        else:
            x, level, scale, weight = self.prepare(x, mask)
            level_rows = level.flatten().contiguous()
        rows, weight_rows = frame_rows(x), weight.flatten()
        numel = weight.sum().double() * rows[0].numel()
        if torch.is_grad_enabled():
            # LSQ's gradient scale keeps the threshold's step in proportion to the weights'; it goes
            # by the batch of all processes, or their number would change the step
            whole = all_reduce_sum(numel)
            grad_scale = (self.levels * whole / self.dim).clamp(min=1).rsqrt().to(scale.dtype)
            y, count, found = _MultiLevelFunction.apply(
                rows,
                scale,
                level_rows,
                weight_rows,
                grad_scale,
                self.levels,
                rounding,
                self.surrogate_tail,
            )
        else:
            conf = (self.levels, rounding)
            y, count, found = _forward(rows, level_rows, scale, weight_rows, *conf)
        if level_rows is None:
            level_rows = found
        if level is None:
            level = level_rows.view(x.shape[:2])
        y = y.view(x.shape).to(dtype)
        if torch.is_grad_enabled() and not inside_checkpoint():
            recipe = IMLSRecompute(
                rows.detach(), level_rows.detach(), scale.detach(), self.levels, rounding, dtype
            )
            keep_recipe(y, recipe)
        spikes = self.spike_sum(count, rows, level_rows, scale, weight_rows)
        self.report(spikes, numel, level, scale, weight)
        if self.keeps_rate:
            counts = frame_rows(y) / (level_rows[:, None, None] * scale).detach()
            total = (counts * weight_rows[:, None, None]).sum()
            mean_rate = total / (self.levels * numel.clamp(min=1)).to(total.dtype)
            if not is_recomputing():  # the loss has that of the first run
                self.mean_rate = mean_rate
        return y

    def spike_sum(
        self, count: Tensor, rows: Tensor, level: Tensor, scale: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the spikes over valid rows, 0-dim; ``count`` is the sum of their counts."""
        return count

    def update_cost(self, numel: float, frames: float) -> Cost:
        """Return one multiplication (by the inverse threshold) and two comparisons each.

        Where the threshold follows the input: one addition more each, and one division a frame; it
        has two factors then, one per frame and one per channel, and the statistic reads a frame
        before the neuron does.
        """
        follows = int(self.follows_input)
        return Cost(
            updates=numel,
            multiplies=numel,
            additions=(2 + follows) * numel,
            special=follows * frames,
            values_read=numel,
            unit_multiplies=follows * numel,
            statistic_read=follows * numel,
        )

    def spike_counts(self, inputs: tuple, output: Any) -> tuple[Tensor, int]:
        """Return the spikes that the input makes and how many there can be; see ``Neuron``."""
        level = self.frame_level(at_least_fp32(inputs[0]).contiguous(), *inputs[1:])
        return self.counts_of(inputs[0], level), self.slots

    @torch.no_grad()
    def rows_and_unit(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input of a pass that is over as rows, and the factors of its threshold.

        Args:
            x: ``(B, N, ..., C)``.
            level: ``(B, N)``.

        Returns:
            rows ``(R, K, C)``, level of each ``(R,)``, scale of each channel ``(C,)``.
        """
        rows = frame_rows(at_least_fp32(x).contiguous())
        return rows, level.flatten().contiguous(), self.scale_of(rows.dtype)

    def prepare(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x in fp32 at least, the factors of its threshold and the weight of each frame."""
        # a bf16 ratio cannot tell neighbouring counts apart; the output can be rounded after
        x = at_least_fp32(x).contiguous()
        level = self.frame_level(x.detach() if self.detach_stat else x, mask)
        weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        return x, level, self.channel_scale(x, mask), weight

    @torch.no_grad()
    def report(
        self, count: Tensor, numel: Tensor, level: Tensor, scale: Tensor, weight: Tensor
    ) -> None:
        """Keep the statistics of a forward pass.

        Args:
            count: spikes over valid positions, 0-dim.
            numel: valid activations, 0-dim.
            level: of each frame, ``(B, N)``.
            scale: of each channel, ``(C,)``.
            weight: 1 for valid frames, else 0, ``(B, N)``.
        """
        self.firing = Firing(count, numel, count.new_full((), self.slots))
        self.last_unit = level.detach(), scale.detach()
        self.threshold_spread = None
        if self.stat in ("token", "max") and not self.training:
            total = weight.sum().clamp(min=1)
            mean = (level * weight).sum() / total
            variance = ((level - mean).square() * weight).sum() / total
            self.threshold_spread = variance.sqrt() / mean.clamp(min=EPS)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.dim}, T={self.T}, stat={self.stat}"


def frame_rows(x: Tensor) -> Tensor:
    """Return ``x`` ``(B, N, ..., C)`` as rows of frames, ``(B * N, K, C)``."""
    return x.flatten(0, 1).flatten(1, -2) if x.dim() > 3 else x.flatten(0, 1)[:, None]
