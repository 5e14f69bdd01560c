"""The surrogate derivatives of ``ops.surrogate`` in kernels, chosen by their place in ``NAMES``."""

import math

import triton
import triton.language as tl

NAMES = ("sigmoid", "atan", "fast_sigmoid", "triangle", "rectangle", "multi_gauss", "rational")
SIGMOID, ATAN, FAST_SIGMOID, TRIANGLE, RECTANGLE, MULTI_GAUSS, RATIONAL = (
    tl.constexpr(n) for n in range(len(NAMES))
)
HALF_PI = tl.constexpr(math.pi / 2)
ROOT_2_PI = tl.constexpr(math.sqrt(2 * math.pi))


@triton.jit
def _normal(x, mean, std):
    z = (x - mean) / std
    return tl.exp(-z * z / 2) / (std * ROOT_2_PI)


@triton.jit
def slope(x, alpha, NAME: tl.constexpr):
    """Return the surrogate derivative at ``x``, the potential minus the threshold."""
    if NAME == SIGMOID:
        e = tl.exp(-tl.abs(alpha * x))
        result = alpha * e / ((1 + e) * (1 + e))
    elif NAME == ATAN:
        away = HALF_PI * alpha * x
        result = alpha / 2 / (1 + away * away)
    elif NAME == FAST_SIGMOID:
        away = 1 + alpha * tl.abs(x)
        result = 1 / (away * away)
    elif NAME == TRIANGLE:
        left = alpha - tl.abs(x)
        result = tl.where(left < 0, 0.0, left) / (alpha * alpha)
    elif NAME == RECTANGLE:
        result = tl.where(tl.abs(x) < alpha / 2, 1.0, 0.0) / alpha
    elif NAME == MULTI_GAUSS:
        s = alpha / 2
        side = _normal(x, s, 6 * s) + _normal(x, -s, 6 * s)
        result = s * (1.15 * _normal(x, 0.0, s) - 0.15 * side)
    else:
        result = 1 / (1 + alpha * x * x)
    return result
