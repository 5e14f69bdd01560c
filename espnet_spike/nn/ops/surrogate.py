"""Surrogate gradients: stand-ins for the derivative of the step function S = 1[x >= 0].

x is the membrane potential minus the threshold; the parameter is what the field calls alpha, slope
or width. Defaults are those of the toolkits that the shapes come from.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from espnet_spike.utils.options import choose


def sigmoid(x: Tensor, alpha: float) -> Tensor:
    """alpha * sig(alpha x) * (1 - sig(alpha x)), as in spikingjelly."""
    s = torch.sigmoid(alpha * x)
    return alpha * s * (1 - s)


def atan(x: Tensor, alpha: float) -> Tensor:
    """alpha/2 / (1 + (pi/2 alpha x)^2), as in spikingjelly and snnTorch."""
    return alpha / 2 / (1 + (math.pi / 2 * alpha * x).square())


def fast_sigmoid(x: Tensor, alpha: float) -> Tensor:
    """1 / (1 + alpha |x|)^2, as in snnTorch."""
    return (1 + alpha * x.abs()).square().reciprocal()


def triangle(x: Tensor, alpha: float) -> Tensor:
    """max(0, alpha - |x|) / alpha^2, as in NEAT."""
    return (alpha - x.abs()).clamp(min=0) / alpha**2


def rectangle(x: Tensor, alpha: float) -> Tensor:
    """1[|x| < alpha/2] / alpha."""
    return (x.abs() < alpha / 2).to(x.dtype) / alpha


def multi_gauss(x: Tensor, alpha: float) -> Tensor:
    """s (1.15 N(x; 0, s) - 0.15 N(x; s, 6s) - 0.15 N(x; -s, 6s)) with s = alpha/2, as in NEAT."""
    s = alpha / 2

    def normal(mean: float, std: float) -> Tensor:
        return torch.exp(-((x - mean) / std).square() / 2) / (std * math.sqrt(2 * math.pi))

    return s * (1.15 * normal(0, s) - 0.15 * normal(s, 6 * s) - 0.15 * normal(-s, 6 * s))


def rational(x: Tensor, alpha: float | Tensor) -> Tensor:
    """1 / (1 + alpha x^2), as in the code of arXiv 2501.16337."""
    return (1 + alpha * x.square()).reciprocal()


# name -> (derivative, default alpha)
SURROGATES: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "sigmoid": (sigmoid, 4.0),
    "atan": (atan, 2.0),
    "fast_sigmoid": (fast_sigmoid, 25.0),
    "triangle": (triangle, 1.0),
    "rectangle": (rectangle, 1.0),
    "multi_gauss": (multi_gauss, 1.0),
    "rational": (rational, 5.0),
}


def step(x: Tensor) -> Tensor:
    """Return S, 1 where ``x >= 0``, else 0, in the type of ``x``."""
    return (x >= 0).to(x.dtype)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, derivative, alpha):  # noqa: ANN001
        ctx.save_for_backward(x)
        ctx.derivative, ctx.alpha = derivative, alpha
        return step(x)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        (x,) = ctx.saved_tensors
        return grad * ctx.derivative(x, ctx.alpha), None, None


def spike(x: Tensor, surrogate: str = "atan", alpha: float | None = None) -> Tensor:
    """Return 1 where ``x >= 0``, else 0; the gradient is that of ``surrogate``.

    Raises:
        ValueError: for a name not in ``SURROGATES``.
    """
    derivative, default = SURROGATES[choose("surrogate", surrogate, SURROGATES)]
    return _Spike.apply(x, derivative, default if alpha is None else alpha)


def window(x: Tensor, levels: int, tail: float = 0.0) -> Tensor:
    """Return the surrogate derivative of counts: 1 for 0 <= x <= levels, a tail outside.

    At a distance d from the window it is tail / (1 + d^2), after ``rational`` (ours). Without a
    tail, the usual rectangle, a neuron whose input is negative throughout learns nothing more.
    """
    inside = (x >= 0) & (x <= levels)
    if not tail:
        return inside.to(x.dtype)
    distance = (x - x.clamp(0, levels)).square_()
    return torch.where(inside, 1.0, tail * (1 + distance).reciprocal())


class _IntegerSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, levels, half_up, tail):  # noqa: ANN001
        ctx.save_for_backward(window(x, levels, tail) if tail else (x >= 0) & (x <= levels))
        return (torch.floor(x + 0.5) if half_up else torch.round(x)).clamp_(0, levels)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None


def integer_spike(x: Tensor, levels: int, rounding: str = "even", tail: float = 0.0) -> Tensor:
    """Return round(clip(x, 0, levels)); the gradient is that of ``window``.

    Raises:
        ValueError: for a ``rounding`` other than ``half_up`` and ``even``.
    """
    half_up = choose("rounding", rounding, ("half_up", "even")) == "half_up"
    return _IntegerSpike.apply(x, levels, half_up, tail)
