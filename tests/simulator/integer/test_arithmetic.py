"""Arithmetic over all frames against the kernels' models, frame by frame, and by hand."""

import numpy as np
import pytest

from espnet_spike.simulator.integer.arithmetic import (
    decayed,
    layer_norm,
    quantise_channels,
    rescale,
    spike_counts,
    thresholds,
    to_grid,
)
from espnet_spike.simulator.kernels import MODELS, imls_counts


def test_each_output_channel_has_its_own_scale():
    w = np.array([[1.0, -0.5], [0.01, 0.02], [0.0, 0.0]])
    q, scale = quantise_channels(w)
    assert q.dtype == np.int8 and q.tolist() == [[127, -64], [64, 127], [0, 0]]
    assert scale[:2] == pytest.approx([1 / 127, 0.02 / 127])
    # one scale for all would leave the second channel 1 and 3 steps of 127
    q, scale = quantise_channels(w, np.array([0.0, 0.02, 7.0]))
    assert q.tolist() == [[127, -64], [0, 1], [0, 0]] and scale[1:].tolist() == [0.02, 7.0]
    q, _ = quantise_channels(w[:, :, None])
    assert q.shape == (3, 2, 1) and q[1, 1, 0] == 127


def test_the_grid_rounds_and_saturates():
    assert to_grid(np.array([0.24, 0.26, -0.3, 1e9, -1e9]), 0.5).tolist() == [
        *(0, 1, -1),
        *(32767, -32768),
    ]


def test_a_requantisation_is_that_of_the_kernel():
    """Without room to shift left, multiplier and shift are the kernel's arguments."""
    rng = np.random.default_rng(0)
    sums = rng.integers(-(2**30), 2**30, 50)
    sums[0] = 2**30
    # 31 bits are used: 0.25 * 2^-14 is a multiplier of 2^30 and a shift of 14
    y = np.zeros(50, np.int16)
    MODELS["requantize"](sums.astype(np.int32), y, 50, 2**30, 14)
    assert rescale(sums, np.array(2.0**-16), 2**30).tolist() == y.tolist()
    assert np.abs(y - sums / 2.0**16).max() <= 0.51


@pytest.mark.parametrize("largest", [3, 500, 10**6, 2**30])
def test_a_requantisation_is_the_product_rounded(largest):
    rng = np.random.default_rng(1)
    sums = rng.integers(-largest, largest + 1, (40, 3))
    factor = np.array([1.0, 0.1, 0.003]) * 30000 / largest
    got = rescale(sums, factor, largest)
    assert np.abs(got - sums * factor).max() < 0.52
    got = rescale(np.array([largest, -largest]), 1e6 / largest, largest)
    assert np.abs(got - [1e6, -1e6]).max() <= 1  # 16 bits are the register's, not the product's
    assert rescale(np.zeros(2, np.int64), 1.0, largest).tolist() == [0, 0]


def test_the_same_sum_is_the_same_number_whatever_is_beside_it():
    """What room there is does not depend on the utterance."""
    alone, beside = np.array([[5]]), np.array([[5], [1000]])
    assert rescale(alone, 0.31, 4095)[0] == rescale(beside, 0.31, 4095)[0] == 2
    # half a step: of sums up to 1 the factor has 31 bits, of sums up to 2^30 it is below a quarter
    assert [rescale(np.array([1]), 0.5, most).tolist() for most in (1, 2**30)] == [[1], [0]]


def test_a_fixed_level_of_less_than_a_step_is_made_up_by_the_factors():
    """At steps of 4 the level 1 is a quarter of one: x / V is that of the real values."""
    inverse, level = thresholds(np.array([8.0]), 1.0, 4.0)
    assert (inverse.tolist(), level) == ([512], 1)
    # 6 steps are 24, of V = 8 that is 3
    assert spike_counts(np.array([[6, 2]]), np.tile(inverse, 2), 6, level)[0].tolist() == [[3, 1]]
    inverse, level = thresholds(np.array([1.0]), 1.0, 0.4)  # 2.5 steps: 2, and 0.8 of the factor
    assert (inverse.tolist(), level) == ([819], 2)
    assert thresholds(np.array([1.0, 2.0]), 0.0, 4.0)[0].tolist() == [1024, 512]
    for scale, step in ((1 / 64.1, 1e-4), (3000.0, 1e-4), (1.0, 65.0)):
        with pytest.raises(ValueError, match="16 bits"):
            thresholds(np.array([scale]), 1.0, step)


@pytest.mark.parametrize("level", [0, 700])
def test_spike_counts_are_those_of_the_kernel(level):
    rng = np.random.default_rng(2)
    x, inverse = rng.integers(-3000, 3000, (7, 20)), rng.integers(500, 4000, 20)
    x[3] = 0
    counts, m = spike_counts(x, inverse, 5, level)
    for row, got in zip(x, counts, strict=True):
        assert got.tolist() == imls_counts(row.astype(np.int16), inverse, 5, level).tolist()
    assert counts.max() == 5 and counts[3].max() == 0
    expected = [level or max(np.abs(row).sum() // 20, 1) for row in x]
    assert m.tolist() == expected


def test_counts_by_hand():
    """Level 100 and factor 1: half a threshold, 50, is the first tie, and fires."""
    counts, m = spike_counts(np.array([[49, 51, 149, 151, -200]]), np.full(5, 1024), 6, 100)
    assert counts.tolist() == [[0, 1, 1, 2, 0]] and m.tolist() == [100]
    # 33 * 993 * (2^31 - 1) // 64 is 256 in units of 2^32: half a threshold to the last bit
    assert spike_counts(np.array([[33]]), np.array([993]), 6, 64)[0].tolist() == [[1]]


def test_a_norm_is_the_float_one_to_its_step():
    rng = np.random.default_rng(3)
    x, weight, bias = (
        rng.integers(-20000, 20000, (6, 24)),
        rng.normal(1, 0.2, 24),
        rng.normal(size=24),
    )
    centred = x - x.mean(1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(1, keepdims=True)) * weight + bias
    assert np.abs(layer_norm(x, weight, bias) / 1024 - want).max() < 0.01


def test_decay_is_that_of_the_kernel():
    rng = np.random.default_rng(4)
    heads, count = 2, 9
    scores = rng.integers(-(2**28), 2**28, (heads, count, count))
    powers = np.round(0.8 ** np.arange(count) * 2**15).astype(np.int64)
    distance = np.abs(np.arange(count)[:, None] - np.arange(count))
    keys = rng.integers(2**13, 2**15, count)
    got = decayed(scores, np.broadcast_to(powers[distance], scores.shape), keys, 14)
    for n in range(count):
        p = np.zeros((count, heads), np.int16)
        table = np.tile(powers, (heads, 1)).astype(np.uint16)
        s = scores[:, n].astype(np.int32)
        MODELS["decay_scores"](s, table, keys.astype(np.uint16), p, heads, count, n, 14)
        assert got[:, n].T.tolist() == p.tolist()
