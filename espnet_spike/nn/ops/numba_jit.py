"""The compiler of all numba kernels."""

from collections.abc import Callable

import numba


def jit(**options: object) -> Callable[[Callable], Callable]:
    """Compile, and keep the machine code on disk where there is a writable place for it."""
    options |= {"nogil": True, "error_model": "numpy"}

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba finds no writable folder for its cache
            return numba.njit(**options)(function)

    return decorate
