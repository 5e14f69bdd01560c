"""Sizes of blocks."""

import pytest
import triton

from espnet_spike.nn.ops.triton import launch


@pytest.mark.parametrize(
    ("size", "most", "wanted"), [(0, 8, 1), (1, 8, 1), (5, 8, 8), (8, 8, 8), (9, 8, 8)]
)
def test_a_block_is_the_least_power_of_2_up_to_the_most(size, most, wanted):
    assert launch.power_of_2(size, most) == wanted


def test_blocks_cover_a_size_and_threads_have_eight_values():
    assert [launch.blocks(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [launch.warps(n) for n in (1, 256, 512, 1024, 1 << 20)] == [1, 1, 2, 4, 8]
    assert not launch.INTERPRETED and launch.constexpr is triton.language.int32
