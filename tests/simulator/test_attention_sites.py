"""Attention as kernel calls: which frames attend to which, weights and integer sums."""

import numpy as np
import pytest

from espnet_spike.simulator import attention_sites as attention
from espnet_spike.simulator import operations as ops
from tests.helpers.simulated import float_error

LENGTHS, HEADS = [4, 3], 2
KEYS = attention.Keys(LENGTHS)


def real(seed, frames=7, dim=6):
    return np.random.default_rng(seed).normal(size=(frames, dim))


def test_a_frame_attends_to_its_own_utterance():
    assert KEYS.of(2) == (slice(0, 4), 2) and KEYS.of(5) == (slice(4, 7), 1)
    assert KEYS.number().tolist() == [[4]] * 4 + [[3]] * 3
    assert KEYS.total(np.arange(7)).tolist() == [[6]] * 4 + [[15]] * 3


def test_weights_are_decayed_scores_or_their_softmax():
    q, k, gamma = real(0), real(1), np.array([0.5, 0.9])
    decayed = attention.Probabilities(q, k, HEADS, KEYS, gamma)
    plain = attention.Probabilities(q, k, HEADS, KEYS, gamma, row_norm=False)
    softmax = attention.Probabilities(q, k, HEADS, KEYS, None)
    linear = attention.Linear(q, k, HEADS, KEYS)
    for n in range(7):
        first, count = (0, 4) if n < 4 else (4, 3)
        for h in range(HEADS):
            part = slice(3 * h, 3 * h + 3)
            scores = np.array([q[n, part] @ k[first + j, part] for j in range(count)])
            fade = np.array([gamma[h] ** abs(n - first - j) for j in range(count)])
            assert linear(n)[:, h] == pytest.approx(scores)
            assert plain(n)[:, h] == pytest.approx(scores * fade)
            row = scores * fade / np.sqrt(max(fade.sum(), 1))
            assert decayed(n)[:, h] == pytest.approx(row)
            assert softmax(n)[:, h] == pytest.approx(np.exp(scores) / np.exp(scores).sum())


def test_every_call_computes_what_the_layer_does():
    q, k, v = real(0), real(1), real(2)
    counts = np.random.default_rng(3).integers(0, 4, (7, 6)) * (real(4) > 0)
    p = attention.Probabilities(q, k, HEADS, KEYS, np.array([0.5, 0.9]))
    s = attention.Probabilities(q, k, HEADS, KEYS, None)
    sites = [
        attention.scores("a", 1, q, k, HEADS, KEYS)[0],
        attention.decay("a", 1, p),
        attention.softmax("a", 1, s),
        attention.context("a", 1, p, v, counts.astype(np.int16), HEADS, KEYS),
    ]
    compared = 0
    for site in sites:
        for coding, form in site.forms.items():
            for n in range(7):
                sample = form.make(n)
                error = float_error(sample)
                assert error < 0.01, (site.name, coding, n)
                compared += 1
    assert compared == 4 * 9 * 7


def test_spikes_meet_in_one_matrix_a_head_and_events_are_pairs():
    rng = np.random.default_rng(0)
    q, k, v = rng.integers(0, 2, (3, 7, 6)).astype(float)
    outer, read = attention.spike_products("a", 1, q, k, v, HEADS, KEYS)
    for n in range(7):
        ki, vi = (x[n].reshape(HEADS, 3) for x in (k, v))
        pairs = sum(int(ki[h].sum() * vi[h].sum()) for h in range(HEADS))
        assert outer.forms["spike"].events[n].tolist() == [k[n].sum(), pairs]
        assert read.forms["spike"].events[n].tolist() == [q[n].sum()]
        for site in (outer, read):
            sample = site.forms["spike"].make(n)
            assert float_error(sample) == 0.0  # sums of integers


@pytest.mark.parametrize(("lengths", "names"), [([2, 3], ["scores", "context"]), ([9, 6], None)])
def test_dense_products_take_the_order_of_fewer_products(lengths, names):
    """A head has 4 channels: 2 * 2 + 3 * 3 <= 4 * 5 products, but 9 * 9 + 6 * 6 > 4 * 15."""
    rng = np.random.default_rng(0)
    frames, keys = sum(lengths), attention.Keys(lengths)
    q, k, v = rng.integers(0, 2, (3, frames, 8)).astype(float)
    sites = attention.dense_products("a", 1, q, k, v, HEADS, keys)
    found = [site.name[2:] for site in sites]
    assert found == (names or ["outer", "outer.requantize", "read"])
    assert all(set(site.forms) == set(ops.codings("dense")) for site in sites)
    for site in sites:
        form = site.forms["dense_blocked"]
        for n in range(len(form.events)):
            sample = form.make(n)
            assert float_error(sample) < 1e-3
    if names:
        return
    # K^T V: a sum over all frames for each of 4 channels and utterance; then 4 rows a query
    assert sites[0].forms["dense"].events.ravel().tolist() == [9] * 4 + [6] * 4
    assert len(sites[1].forms["dense"].events) == 8
    assert sites[2].forms["dense"].events.ravel().tolist() == [4] * 15
    for n in range(frames):
        span, _ = keys.of(n)
        want = [
            sum(
                q[n, h * 4 : h * 4 + 4] @ k[t, h * 4 : h * 4 + 4] * v[t, h * 4 + d]
                for t in range(span.start, span.stop)
            )
            for h in range(HEADS)
            for d in range(4)
        ]
        assert sites[2].forms["dense"].make(n).reference == pytest.approx(np.array(want))
