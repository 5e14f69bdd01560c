import kaldialign
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.results import bootstrap
from espnet_spike.results.bootstrap import (
    draw_sums,
    error_interval,
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
