from unittest import mock

import kaldialign
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espnet_spike.results import bootstrap
from espnet_spike.results.bootstrap import (
    Trainings,
    draw_sums,
    error_interval,
    over_trainings,
    paired_difference,
    sampling_unit,
)


def system(rate, utterances=200, words=10, seed=0):
    """Errors and lengths of a synthetic system, and one speaker for all."""
    rng = np.random.default_rng(seed)
    errors = rng.binomial(words, rate, utterances)
    return errors, np.full(utterances, words)


def test_speakers_are_drawn_from_twenty_speakers_on():
    assert sampling_unit([f"s{i % 20}" for i in range(100)])[0] == "speaker"
    assert sampling_unit([f"s{i % 19}" for i in range(100)])[0] == "utterance"


def test_the_index_tells_the_speaker_of_an_utterance():
    speakers = [f"s{i % 25}" for i in range(100)]
    _, index = sampling_unit(speakers)
    assert len(set(zip(index, speakers, strict=True))) == 25


@pytest.mark.parametrize("speakers", [1, 40])
def test_interval_covers_the_rate_as_often_as_it_says(speakers, monkeypatch):
    """Of 200 test sets with a true rate of 10 %, about 95 % have it in their interval."""
    names = [f"s{i % speakers}" for i in range(200)]
    monkeypatch.setattr(bootstrap, "REPLICATIONS", 400)
    covered = 0
    for seed in range(200):
        errors, lengths = system(0.1, seed=seed)
        interval = error_interval(errors, lengths, names)
        covered += interval.low <= 10.0 <= interval.high
    assert 175 <= covered <= 199


def test_speakers_of_one_utterance_give_what_kaldialign_gives():
    """Our draws of speakers are kaldialign's draws of utterances when each has one of his own."""
    errors, lengths = system(0.2, utterances=60)
    ours = error_interval(errors, lengths, [f"s{i}" for i in range(60)])
    theirs = error_interval(errors, lengths, ["s"] * 60)
    assert (ours.unit, theirs.unit) == ("speaker", "utterance")
    assert ours.low == pytest.approx(theirs.low, abs=0.15)
    assert ours.high == pytest.approx(theirs.high, abs=0.15)


def test_made_up_sequences_give_what_the_real_ones_give():
    refs = [list("abcd"), list("ab"), list("aabb"), list("b")] * 8
    hyps = [list("abxd"), list("abb"), list("a"), list("cdefg")] * 8
    edits = [kaldialign.edit_distance(r, h) for r, h in zip(refs, hyps, strict=True)]
    interval = error_interval(
        np.array([e["total"] for e in edits]), np.array([len(r) for r in refs]), ["s"] * 32
    )
    real = kaldialign.bootstrap_wer_ci(refs, hyps, seed=bootstrap.SEED)
    assert interval.high == pytest.approx(100 * real["ci95max"], abs=1e-9)


def test_speakers_that_fail_together_widen_the_interval():
    errors = np.repeat([0, 5] * 15, 10)
    lengths = np.full(300, 10)
    by_utterance = error_interval(errors, lengths, ["s"] * 300)
    by_speaker = error_interval(errors, lengths, [f"s{i // 10}" for i in range(300)])
    assert by_speaker.high - by_speaker.low > 2.5 * (by_utterance.high - by_utterance.low)


def test_interval_is_never_negative_and_marked_when_there_is_little():
    interval = error_interval(np.array([0, 0, 1]), np.array([9, 9, 9]), ["a", "b", "c"])
    assert interval.low == 0.0
    assert not interval.meaningful
    assert "not meaningful" in str(interval)
    assert error_interval(*system(0.1, utterances=20), ["s"] * 20).meaningful


def test_same_seed_same_interval():
    errors, lengths = system(0.3)
    names = [f"s{i % 30}" for i in range(200)]
    assert error_interval(errors, lengths, names) == error_interval(errors, lengths, names)
    assert error_interval(errors, lengths, names) != error_interval(errors, lengths, names, seed=1)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    table = np.arange(12.0).reshape(6, 2)
    sums = draw_sums(table, replications=50)
    assert sums.shape == (50, 2)
    # the two columns are drawn together
    assert np.allclose(sums[:, 1] - sums[:, 0], 6)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 60)
    assert draw_sums(table, replications=50).shape == (50, 2)


def test_a_system_does_not_differ_from_itself():
    one = system(0.2)
    difference = paired_difference(one, one, ["s"] * 200)
    assert difference.difference == 0.0
    assert (difference.interval.low, difference.interval.high) == (0.0, 0.0)
    assert difference.p_second_better == 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_exchanging_the_systems_turns_the_sign(seed):
    first, second = system(0.1, 50, seed=seed), system(0.15, 50, seed=seed + 1)
    forth = paired_difference(first, second, ["s"] * 50)
    back = paired_difference(second, first, ["s"] * 50)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.interval.low == pytest.approx(-back.interval.high)
    assert forth.p_second_better == pytest.approx(1 - back.p_second_better)


def test_pairing_sees_what_two_separate_intervals_cannot():
    """One error less in every fifth utterance shows, though the utterances vary a lot."""
    rng = np.random.default_rng(0)
    errors = rng.integers(0, 10, 200)
    better = np.where(np.arange(200) % 5 == 0, np.maximum(errors - 1, 0), errors)
    lengths = np.full(200, 10)
    difference = paired_difference((errors, lengths), (better, lengths), ["s"] * 200)
    assert difference.interval.high < 0
    assert difference.p_second_better > 0.99
    first = error_interval(errors, lengths, ["s"] * 200)
    assert first.low < difference.second < first.high


def test_runs_of_unequal_number_are_compared_by_their_rates():
    errors, lengths = system(0.2)
    difference = paired_difference((errors, lengths), (3 * errors, 3 * lengths), ["s"] * 200)
    assert difference.difference == 0.0
    assert difference.p_second_better == 0.5


def test_utterances_as_long_as_books_are_not_aligned(monkeypatch):
    """An alignment of 100 000 units takes minutes; their interval is that of kaldialign."""
    errors, lengths = np.array([3, 1, 0, 4] * 5), np.array([20, 10, 15, 30] * 5)
    short = bootstrap.error_interval(errors, lengths, ["s"] * 20)
    monkeypatch.setattr(bootstrap, "_kaldialign_interval", None)
    long = bootstrap.error_interval(errors * 10_000, lengths * 10_000, ["s"] * 20)
    assert (long.unit, long.units) == (short.unit, short.units)
    assert (long.low, long.high) == pytest.approx((short.low, short.high), abs=0.2)


def trainings(*rates, utterances=200, words=10, seed=0):
    """Errors (S, U) and lengths of trainings whose errors have little to do with each other."""
    pairs = [system(rate, utterances, words, seed + i) for i, rate in enumerate(rates)]
    errors, lengths = zip(*pairs, strict=True)
    return np.stack(errors), np.stack(lengths)


def width(interval):
    return interval.high - interval.low


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_equal_trainings_have_the_interval_over_units(seed, count):
    one, other = system(0.1, 40, seed=seed), system(0.2, 40, seed=seed + 1)
    first, second = (
        (np.stack([errors] * count), np.stack([lengths] * count))
        for errors, lengths in (one, other)
    )
    single = paired_difference(one, other, ["s"] * 40)
    several = paired_difference(first, second, ["s"] * 40)
    for found in (several.interval, several.joint, single.joint):
        assert (found.low, found.high) == pytest.approx(
            (single.interval.low, single.interval.high), abs=1e-9
        )
    assert several.p_second_better == single.p_second_better
    alone = over_trainings(Trainings(*first), ["s"] * 40, scale=100.0)
    direct = error_interval(*one, [f"s{i:02d}" for i in range(40)])  # our draws, not kaldialign's
    assert (alone.low, alone.high) == pytest.approx((direct.low, direct.high), abs=1e-9)


@settings(max_examples=40, deadline=None)
@example(4, 7, 3)
@example(6, 7, 3)
@example(1, 7, 3)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(2, 7))
def test_equal_seeds_of_equal_utterances_leave_nothing_to_chance(errors, length, count):
    """The mean of equal rates differs from them in the last bit; that is no variance."""
    with mock.patch.object(bootstrap, "REPLICATIONS", 50):
        shape = (count, 4)
        first = np.full(shape, errors), np.full(shape, length)
        second = np.full(shape, errors + 1), np.full(shape, length)
        rate = 100.0 * errors / length
        alone = over_trainings(Trainings(*first), ["s"] * 4, scale=100.0)
        found = paired_difference(first, second, ["s"] * 4)
        for low, high, wanted in (
            (alone.low, alone.high, rate),
            (found.joint.low, found.joint.high, 100.0 / length),
            (*found.welch, 100.0 / length),
        ):
            assert (low, high) == pytest.approx((wanted, wanted), abs=1e-9)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_trainings_that_differ_widen_the_interval(seed):
    """The more so, the more they differ; the interval over units does not see it."""
    widths = []
    for apart in (0.0, 0.03, 0.08):
        first = trainings(0.2 - apart, 0.2, 0.2 + apart, seed=seed)
        found = paired_difference(first, system(0.4, seed=seed + 9), ["s"] * 200)
        widths.append(width(found.joint))
        assert width(found.joint) >= 0.98 * width(found.interval)
        assert width(found.interval) < 6
    assert widths[2] > widths[1] and widths[2] > 2 * widths[0]


def test_where_units_leave_nothing_to_chance_it_is_welchs_interval():
    """Rates 22.6, 32.4, 33.8 and 42.8, 42.4, 40.8 %, every utterance alike; by hand:

    the difference is 12.4, its variance 37.24 / 3 + 1.12 / 3, freedom 2.12, t 4.077.
    """
    first, second = (
        (np.repeat(np.array([rates]).T, 50, axis=1), np.full((3, 50), 100.0))
        for rates in ([22.6, 32.4, 33.8], [42.8, 42.4, 40.8])
    )
    found = paired_difference(first, second, ["s"] * 50)
    assert found.difference == pytest.approx(12.4)
    assert found.welch == pytest.approx((12.4 - 14.58, 12.4 + 14.58), abs=0.02)
    assert (found.joint.low, found.joint.high) == pytest.approx(found.welch, abs=0.35)
    assert width(found.interval) < 1e-9
    # P(t of 2.12 degrees of freedom < -12.4 / 3.576)
    assert found.p_joint == pytest.approx(1 - 0.9659, abs=2e-3) and found.p_second_better == 0.0
    student = bootstrap.welch([Trainings(*first)])
    assert student is not None  # 29.6 -+ 4.3027 * 6.1025 / sqrt(3)
    assert student == pytest.approx((0.296 - 0.15160, 0.296 + 0.15160), abs=1e-4)


def test_three_trainings_cover_the_mean_of_all_that_could_be(monkeypatch):
    """True rate 30 %, trainings 5 points about it: joint intervals hold it, those over units not.

    Two hundred experiments of three trainings and 100 utterances each.
    """
    monkeypatch.setattr(bootstrap, "REPLICATIONS", 300)
    rng = np.random.default_rng(0)
    joint = units = 0
    for seed in range(200):
        rates = np.clip(rng.normal(0.3, 0.05, 3), 0.01, 0.99)
        errors, lengths = trainings(*rates, utterances=100, seed=1000 * seed)
        found = over_trainings(Trainings(errors, lengths), ["s"] * 100, scale=100.0)
        joint += found.low <= 30.0 <= found.high
        summed = error_interval(errors.sum(0), lengths.sum(0), [f"s{i}" for i in range(100)])
        units += summed.low <= 30.0 <= summed.high
    assert 182 <= joint <= 200 and units < 120


def test_few_trainings_are_marked_and_give_no_probability():
    other = trainings(0.3, 0.3, 0.3, seed=50)
    for count, words in ((1, "one training"), (2, "two trainings"), (3, "3 trainings")):
        first = trainings(*[0.1, 0.12, 0.14][:count])
        found = paired_difference(first, other, ["s"] * 200)
        assert found.joint.trainings == count
        assert words in str(found.joint) and found.joint.over == f"utterance, {words}"
        assert (found.p_joint is None) == (count < 3)
        assert (found.welch is None) == (count < 2)
        alone = over_trainings(Trainings(*first), ["s"] * 200)
        assert alone.trainings == count and words in str(alone)
    assert "one training" in str(error_interval(*system(0.2), ["s"] * 200))


def test_exchanging_pooled_systems_turns_the_probability():
    a, b = trainings(0.2, 0.22, 0.26), trainings(0.21, 0.25, 0.26, seed=7)
    forth, back = (paired_difference(x, y, ["s"] * 200) for x, y in ((a, b), (b, a)))
    assert forth.p_joint is not None and back.p_joint is not None
    assert forth.welch is not None and back.welch is not None
    assert forth.p_joint == pytest.approx(1 - back.p_joint, abs=0.01)
    assert forth.welch == pytest.approx((-back.welch[1], -back.welch[0]))


def test_nothing_to_tell_apart_is_even():
    same = np.full((3, 30), 1.0), np.full((3, 30), 4.0)
    found = paired_difference(same, same, ["s"] * 30)
    assert (found.joint.low, found.joint.high, found.p_joint) == (0.0, 0.0, 0.5)
    worse = (same[0] + 1, same[1])
    assert paired_difference(same, worse, ["s"] * 30).p_joint == 0.0
    assert paired_difference(worse, same, ["s"] * 30).p_joint == 1.0


def test_units_are_drawn_alike_for_all_trainings():
    """Trainings that fail in the same utterances: their mean varies as one of them does."""
    errors, lengths = system(0.3, 60)
    shifted = np.stack([errors, errors + 1, errors + 2])
    found = over_trainings(Trainings(shifted, np.stack([lengths] * 3)), ["s"] * 60, scale=100.0)
    single = error_interval(errors, lengths, [f"s{i}" for i in range(60)])
    # 10, 20, 30 points apart: variance of the mean 100 / 3; and that of the units on top
    deviation = width(single) / 2 / bootstrap.Z95
    variance = deviation**2 + 100.0 / 3
    half = bootstrap._quantile(variance**2 / ((100.0 / 3) ** 2 / 2)) * variance**0.5
    assert width(found) / 2 == pytest.approx(half, rel=0.03)
