"""The compiler of all numba kernels and functions they share; ``*_numba.py`` alone import it."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload


def jit(**options: Any) -> Callable[[Callable], Callable]:
    """Compile, and keep the machine code on disk where there is a writable place for it."""
    options |= {"nogil": True, "error_model": "numpy"}

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba finds no writable folder for its cache
            return numba.njit(**options)(function)

    return decorate


def exp(x):  # noqa: ANN001, ANN201
    """Stand for what `_compiled_exp` builds: numba puts that in place of every compiled call."""
    raise NotImplementedError("exp exists in compiled code only")


@overload(exp, inline="always")
def _compiled_exp(x):  # noqa: ANN001
    """Build exp(x); in float32 without a call, so that the loop around it becomes vector code.

    x = k ln 2 + r with |r| <= ln(2)/2: exp(r) by its series to r^7 (5e-9 relative), 2^k by
    putting k into the exponent bits. Adding and taking away 1.5 * 2^23 rounds to an integer and
    leaves it in the low bits. Below -87.7 the exponent field is 0 and so is the result; above
    88.4 it is inf; NaN stays NaN.
    """
    if x != numba.float32:
        return lambda x: np.exp(x)
    f = np.float32
    log2_e, round_up = f(1.44269504), f(12582912.0)
    ln2_high, ln2_low = f(0.693359375), f(-2.12194440e-4)
    c7, c6, c5, c4, c3, c2, one = (f(1 / n) for n in (5040, 720, 120, 24, 6, 2, 1))
    lowest, highest = f(-88.0), f(89.0)

    def vectorized(x):  # noqa: ANN001
        if x < lowest:
            x = lowest
        if x > highest:
            x = highest
        shifted = np.float32(x * log2_e + round_up)
        k = shifted - round_up
        r = (x - k * ln2_high) - k * ln2_low
        series = ((((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2) * r + one) * r + one
        bits = (shifted.view(np.int32) << np.int32(23)) + np.int32(0x3F800000)
        return series * np.int32(bits).view(np.float32)

    return vectorized


@jit(fastmath={"contract", "reassoc"})
def dot(x, y):  # noqa: ANN001, ANN201
    """Return the inner product of two rows, summed in any order."""
    total = x.dtype.type(0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total
