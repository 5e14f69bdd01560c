"""FATReLU, the activation of event-driven SpeechMamba, and the places where it is put.

Ahmed et al. (2026, arXiv 2606.01135): a ReLU with a forced activation threshold (Kurtz et al.
2020) that is learnt, FATReLU_T(x) = x if x >= T else 0. It lets large values pass unchanged and
turns the rest into exact zeros, so that the next layer has fewer events to work on. It is neither
max(0, x - T) nor, in its one-sided form, symmetric.

Which layers get one is chosen by name, ``fat_points``. The published list was not available; ours:

====  =================================================  ============================
F1    front end, after every convolution but the last    next convolution
F2    front end, after the last convolution              input linear layer
F3    after the norm before self-attention               Q, K and V projections
F4    context of self-attention                          its output projection
F5    after the norm before Mamba                        in_proj
F6    gate z of Mamba, in place of SiLU                  product y * gate
F7    gated output of the scan                           out_proj
F8    hidden layer of a feed-forward module              its second linear layer
F9    copy of the scan's input that makes B, C, delta    x_proj (the scan's input stays dense)
F10   low-rank delta                                     dt_proj
F11   B and C of the scan                                inner products of the scan
====  =================================================  ============================

A point stands wherever the network has its place. In the published layer of Speech-Mamba (Mamba,
self-attention, Mamba) F5 to F7 and F9 to F11 stand in both Mambas, and there is no place for F8.
With ``conv_skip``, F2 stands on the sum of the last convolution and its skip.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.accounting import CostLedger, Counted, count_activation
from espnet_spike.nn.checkpointing import is_recomputing
from espnet_spike.nn.ops.fatrelu import SURROGATES, frame_fatrelu, passing
from espnet_spike.nn.ops.precision import at_least_fp32
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose

POINTS = tuple(f"F{number}" for number in range(1, 12))
# e: the scan's input stays dense; optimized: more points inside Mamba (both our choice)
PRESETS = {"none": (), "e": POINTS[:8], "optimized": POINTS}


@dataclass(frozen=True)
class Sparsity:
    """Exact zeros of one point over the valid frames of one batch.

    Attributes:
        zeros: number of exact zeros, 0-dim, float64.
        numel: number of values, 0-dim, float64.
        macs: multiply-accumulates of the next layer that a zero saves.
    """

    zeros: Tensor
    numel: Tensor
    macs: float

    @property
    def fraction(self) -> Tensor:
        """Share of zeros, 0-dim, in [0, 1]; 0 for an empty batch."""
        return (self.zeros / self.numel.clamp(min=1)).float()


class FATReLU(Counted, nn.Module):
    """A FATReLU layer, called as ``layer(x, mask)``.

    Args:
        T: initial threshold. Learnt if positive and ``learn``; 0 is a plain ReLU.
        learn: make the threshold a parameter, T = softplus(tau).
        two_sided: zero what is small in magnitude, of either sign, after ``activation``.
        k: slope of the surrogate gradient; None for the usual one of ``surrogate``.
        scale_k: measure x in units of its standard deviation in the surrogate.
        surrogate: ``sigmoid`` (for T) or ``rational`` (for T and x), see ``nn.ops.fatrelu``.
        activation: what stands here in the dense model; the two-sided form keeps it.
        macs: multiply-accumulates of the next layer that one zero saves.
        point: the place in the network, one of ``POINTS``; "" for none of them.

    Attributes:
        sparsity: of the last forward pass; None before the first.
        activation_mean: mean |y| over valid frames of the last forward pass, 0-dim, with gradient;
            None before the first.

    Raises:
        ValueError: for a negative T or k, or an unknown surrogate.
    """

    time_steps = 1
    T_init: Tensor
    fixed_T: Tensor

    def __init__(
        self,
        T: float = 0.0,
        learn: bool = True,
        two_sided: bool = False,
        k: float | None = None,
        scale_k: bool = False,
        activation: nn.Module | None = None,
        macs: float = 1.0,
        surrogate: str = "sigmoid",
        point: str = "",
    ) -> None:
        super().__init__()
        choose("surrogate", surrogate, SURROGATES)
        if T < 0 or (k is not None and k <= 0):
            raise ValueError(f"FATReLU: T {T} must not be negative, k {k} must be positive")
        self.two_sided = two_sided
        self.k = k
        self.scale_k = scale_k
        self.surrogate = surrogate
        self.point = point
        self.activation = activation if two_sided else None
        self.macs = macs
        if learn and T > 0:
            self.tau = without_weight_decay(nn.Parameter(torch.tensor(inverse_softplus(T))))
            self.register_buffer("T_init", torch.tensor(float(T)))
        else:
            self.register_buffer("fixed_T", torch.tensor(float(T)))
        self.sparsity: Sparsity | None = None
        self.activation_mean: Tensor | None = None

    @property
    def learnt(self) -> bool:
        """Whether the threshold is a parameter."""
        return hasattr(self, "tau")

    @property
    def T(self) -> Tensor:
        """The threshold, 0-dim; with gradient if it is learnt."""
        return F.softplus(self.tau) if self.learnt else self.fixed_T

    @torch.no_grad()
    def set_T(self, T: float) -> None:
        """Set the threshold that training starts from.

        Raises:
            ValueError: for a negative T, or 0 for a learnt one.
        """
        if T < 0 or (self.learnt and T == 0):
            raise ValueError(f"FATReLU: a {'learnt ' * self.learnt}threshold cannot be {T}")
        if self.learnt:
            self.tau.fill_(inverse_softplus(T))
            self.T_init.fill_(T)
        else:
            self.fixed_T.fill_(T)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Zero what is below the threshold.

        Args:
            x: ``(B, N, ..., C)``.
            mask: ``(B, N)``, true on valid frames; None when all are.

        Returns:
            the same shape and dtype.
        """
        if self.activation is not None:
            x = self.activation(x)
        if torch.jit.is_tracing():  # the graph has no statistics
            return passing(x, self.T.to(x.dtype), self.two_sided)
        unit = at_least_fp32(x.detach()).std().clamp(min=1e-5) if self.scale_k else None
        y, kept, total = frame_fatrelu(x, self.T, self.k, self.two_sided, self.surrogate, unit)
        self._report(kept.detach(), total, mask, y[0, 0].numel() if kept.numel() else 1)
        return y

    def count(self, ledger: CostLedger, inputs: tuple, output: Tensor) -> None:
        """Count one comparison each; the two-sided form keeps the dense activation, SiLU."""
        count_activation(ledger, inputs[0], output)
        if self.activation is not None:
            cost = ledger.cost("activation")
            cost.special += output.numel()
            cost.multiplies += output.numel()

    def spike_counts(self, inputs: tuple, output: Any) -> tuple[Tensor, int]:
        """Return which values are not zero, one event each, and 1; see ``Neuron.spike_counts``."""
        return (output != 0).float(), 1

    def _report(self, kept: Tensor, total: Tensor, mask: Tensor | None, values: int) -> None:
        """Keep the statistics over valid frames; ``kept`` and ``total`` are ``(B, N)``."""
        kept = kept.double()
        weight = torch.ones_like(kept) if mask is None else mask.double()
        numel = weight.sum() * values
        self.sparsity = Sparsity(numel - (kept * weight).sum(), numel, self.macs)
        if mask is not None:
            total = total * mask
        activation_mean = total.sum() / numel.clamp(min=1).to(total.dtype)
        if not is_recomputing():  # the loss has the first run's; a second one would hold its graph
            self.activation_mean = activation_mean

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        side = ", two-sided" if self.two_sided else ""
        return f"T={float(self.T.detach()):.4g}{' learnt' if self.learnt else ''}{side}"


def inverse_softplus(y: float) -> float:
    """Return x with softplus(x) = y > 0."""
    return y + math.log(-math.expm1(-y))


class Pass(nn.Module):
    """A point without FATReLU: the activation of the dense model, or nothing."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the activation of ``x``; ``mask`` is not needed."""
        return x if self.activation is None else self.activation(x)


class FatPoints:
    """Puts FATReLU layers at the chosen points of a network, the dense activation at the others.

    Args:
        points: names like ``F5``, or ``none``, ``e``, ``optimized``.
        T: initial threshold of all of them; 0 makes each a plain ReLU.
        learn: whether positive thresholds are learnt.
        two_sided: points that zero small magnitudes and leave the sign; the others rectify.
        k: slope of the surrogate gradient; None for its usual one.
        scale_k: measure x in units of its standard deviation in the surrogate.
        surrogate: ``sigmoid`` or ``rational``, see ``FATReLU``.

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(
        self,
        points: str | Sequence[str] = (),
        T: float = 0.0,
        learn: bool = True,
        two_sided: Collection[str] = ("F9", "F10", "F11"),
        k: float | None = None,
        scale_k: bool = False,
        surrogate: str = "sigmoid",
    ) -> None:
        if isinstance(points, str):
            points = PRESETS[choose("fat_points", points, PRESETS)]
        self.points = {choose("fat_points", point, POINTS) for point in points}
        self.two_sided = {choose("two_sided", point, POINTS) for point in two_sided}
        self.conf = {"T": T, "learn": learn, "k": k, "scale_k": scale_k}
        self.conf["surrogate"] = choose("fat_surrogate", surrogate, SURROGATES)

    def __call__(
        self, point: str, activation: nn.Module | None = None, macs: float = 1
    ) -> nn.Module:
        """Return the layer for a point.

        Args:
            point: its name.
            activation: what stands here in the dense model; None for nothing.
            macs: multiply-accumulates of the next layer that one zero saves.
        """
        if point not in self.points:
            return Pass(activation)
        return FATReLU(
            two_sided=point in self.two_sided,
            activation=activation,
            macs=macs,
            point=point,
            **self.conf,
        )


SPARSITY_LOSSES = ("paper", "relative")


@dataclass(frozen=True)
class SparsityLoss:
    """L_spar = sum_i (lambda_act mean|y_i| + lambda_T (c_i / T_i)^2) over FATReLU layers.

    Source: Ahmed et al. (2026).

    The mean is over valid frames and channels; plain ReLUs and fixed thresholds have no second
    term. The paper weighs both terms alike; since 1/T^2 explodes for small T, we give each its
    own weight. Values were not available to us.

    Attributes:
        mode: ``paper`` has c_i = 1; ``relative`` has c_i = the initial T_i, which frees the term
            of the scale of the activations (with a weight like 1e-3).
        lambda_act: weight of the mean activation.
        lambda_T: weight of the penalty on small thresholds.

    Raises:
        ValueError: an unknown mode.
    """

    mode: str = "paper"
    lambda_act: float = 1e-4
    lambda_T: float = 1e-6

    def __post_init__(self) -> None:
        choose("sparsity_loss", self.mode, SPARSITY_LOSSES)

    def __call__(self, layers: Iterable[FATReLU]) -> dict[str, Tensor]:
        """Return the weighted terms of the last forward pass, 0-dim, by name."""
        layers = list(layers)
        terms = {}
        means = [m.activation_mean for m in layers if m.activation_mean is not None]
        if means and self.lambda_act:
            terms["sparsity_activation"] = self.lambda_act * torch.stack(means).sum()
        learnt = [layer for layer in layers if layer.learnt]
        if learnt and self.lambda_T:
            T = torch.stack([layer.T for layer in learnt])
            c = torch.stack([layer.T_init for layer in learnt]) if self.mode == "relative" else 1.0
            terms["sparsity_threshold"] = self.lambda_T * (c / T).square().sum()
        return terms


def named_fatrelus(module: nn.Module) -> dict[str, FATReLU]:
    """Return the FATReLU layers inside ``module`` by their dotted names."""
    return {name: m for name, m in module.named_modules() if isinstance(m, FATReLU)}


def sparsities(module: nn.Module) -> dict[str, Tensor]:
    """Return the share of exact zeros at every point in the last forward pass.

    Returns:
        dotted layer name -> fraction, 0-dim, detached; empty for a network without points.
    """
    return {
        name: layer.sparsity.fraction
        for name, layer in named_fatrelus(module).items()
        if layer.sparsity is not None
    }


def mean_sparsity(module: nn.Module, mac_weighted: bool = False) -> Tensor | None:
    """Return the mean sparsity over points in the last forward pass; None without points.

    Args:
        module: a network.
        mac_weighted: weigh each point by the multiply-accumulates it feeds in that pass, which
            makes the result the share of those that are saved; otherwise all points count alike.
    """
    found = [m.sparsity for m in named_fatrelus(module).values() if m.sparsity is not None]
    if not found:
        return None
    if not mac_weighted:
        return torch.stack([s.fraction for s in found]).mean()
    saved = torch.stack([s.zeros * s.macs for s in found]).sum()
    return (saved / torch.stack([s.numel * s.macs for s in found]).sum().clamp(min=1)).float()
