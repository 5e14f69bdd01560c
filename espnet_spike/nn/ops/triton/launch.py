"""What all kernels share: types of their arguments, sizes of blocks."""

from typing import Any

import triton
import triton.language as tl

# Triton's interpreter runs kernels on a CPU, for tests. Loops there need bounds that are constants;
# on a GPU a constant would mean a compilation for each length of a batch. The interpreter goes by
# the annotation's text, hence the name: kernels annotate such a bound ``L: constexpr``.
INTERPRETED: bool = triton.knobs.runtime.interpret
constexpr: Any = tl.constexpr if INTERPRETED else tl.int32


def power_of_2(size: int, most: int) -> int:
    """Return the least power of 2 that is not below ``size``, but ``most`` at most."""
    return min(triton.next_power_of_2(max(size, 1)), most)


def warps(block: int) -> int:
    """Return the warps for a block of values: 8 values a thread, 8 warps at most."""
    return max(1, min(8, block // 256))


def blocks(size: int, block: int) -> int:
    """Return how many blocks cover ``size``."""
    return -(-size // block)
