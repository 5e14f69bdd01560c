"""Convolutions, neurons, gates and the scan as kernel calls, against the layers they stand for."""

import numpy as np
import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator import layer_sites as layers
from espnet_spike.simulator import operations as ops
from espnet_spike.simulator.attention_sites import Keys
from tests.helpers.simulated import float_error

RNG = np.random.default_rng(0)


def close(site, tolerance, codings=None):
    """Check each call of a site against its float layer; return how many there were."""
    compared = 0
    for coding in codings or site.forms:
        form = site.forms[coding]
        for n in range(len(form.events)):
            sample = form.make(n)
            error = float_error(sample)
            if error is not None:
                assert error < tolerance, (site.name, coding, n, error)
                compared += 1
    return compared


def test_a_convolution_and_the_products_that_its_events_cause():
    taps, bins, channels, outputs, stride = 3, 7, 2, 4, 2
    w, bias = RNG.normal(size=(outputs, channels, taps, 3)), RNG.normal(size=outputs)
    x = np.maximum(RNG.normal(size=(5, taps, bins, channels)), 0)
    product, *_ = layers.conv("c", "front end", w, bias, x, stride, sparse=True)
    assert product.inputs == taps * bins * channels
    assert close(product, 0.02, ops.codings("dense", "event")) == 30
    for n in range(5):
        reached = 0  # positions that read a value that is not zero
        for bin_ in range(bins):
            positions = sum(0 <= bin_ - p * stride < 3 for p in range((bins - 3) // stride + 1))
            reached += np.count_nonzero(x[n, :, bin_]) * positions
        assert product.forms["event"].events[n].tolist() == [np.count_nonzero(x[n]), reached]
    dense = layers.conv("c", "front end", w, bias, x, stride, sparse=False)
    assert dense[0].forms["event"].events.shape == (5, 0)  # zero padding alone is no event


def test_a_depthwise_convolution():
    w, bias, x = RNG.normal(size=(4, 6)), RNG.normal(size=6), RNG.normal(size=(5, 4, 6))
    product, _ = layers.depthwise("d", 1, w, bias, x)
    assert close(product, 0.02) == 9 * 5


@pytest.mark.parametrize("level", [0.2, None], ids=["one unit", "a unit for each frame"])
def test_a_depthwise_convolution_of_spikes(level):
    taps, channels, frames = 3, 6, 7
    w, bias = RNG.normal(size=(taps, channels)), RNG.normal(size=channels)
    counts = RNG.integers(0, 4, (frames, channels)).astype(np.int16)
    frame = np.full(frames, level) if level else RNG.uniform(0.1, 0.9, frames)
    events = ops.Events(counts, frame, RNG.uniform(0.5, 2, channels))

    def over(values):
        return np.stack([np.pad(values, ((1, 1), (0, 0)))[n : n + taps] for n in range(frames)])

    x = over(counts * frame[:, None] * events.channel)
    sites = layers.depthwise("d", 1, w, bias, x, events, over)
    assert close(sites[0], 0.02) == 9 * frames
    forms = sites[0].forms
    for n in range(frames):
        assert forms["event"].make(n).reference == pytest.approx((w * x[n]).sum(0) + bias)
    reads = [np.count_nonzero(over(counts)[n]) for n in range(frames)]
    assert forms["event"].events[:, 0].tolist() == reads
    assert forms["spike"].events[:, 0].tolist() == over(counts).sum((1, 2)).tolist()
    # slots without a unit of their own are added only
    assert forms["spike"].kernel == ("depthwise_spike" if level else "depthwise_scaled")
    assert len(sites) == (2 if level else 3)


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("decay_input", [True, False])
def test_a_lif_neuron(reset, decay_input):
    x, before = RNG.normal(size=(6, 20)), RNG.normal(size=(6, 20))
    h = before + (x - before) / 2 if decay_input else before / 2 + x
    spikes = h >= 0.7
    site = layers.lif("n", 1, x, before, spikes, 2.0, 0.7, reset, decay_input)
    assert close(site, 0.01) == 9 * 6
    assert site.forms["spike"].events[:, 0].tolist() == spikes.sum(1).tolist()
    with pytest.raises(UserError, match=r"tau 3\.0 is no power of two"):
        layers.lif("n", 1, x, before, spikes, 3.0, 0.7, reset, decay_input)


def test_the_product_of_a_gate_fills_its_bits():
    """Factors that are large at different places: 15 bits cut off would leave the product 0."""
    y, g = np.full((1, 8), 1e-3), np.full((1, 8), 1e-3)
    y[0, 0], g[0, 1] = 1.0, 1.0
    sample = layers.gate(y, g).make(0)
    assert float_error(sample) < 0.02
    found = layers.gate_events(y, g, T=5e-4).events  # 1e-3 at two places, 1e-6 elsewhere
    assert found.tolist() == [[8, 2]]


def test_gates():
    y, g = RNG.normal(size=(4, 9)), np.maximum(RNG.normal(size=(4, 9)), 0)
    form = layers.gate(y, g)
    for n in range(4):
        sample = form.make(n)
        assert float_error(sample) < 0.01
    kept = layers.gate_events(y, g, T=0.1).events
    assert kept[:, 0].tolist() == np.count_nonzero(g, 1).tolist()
    assert kept[:, 1].tolist() == (y * g > 0.1).sum(1).tolist()
    # by hand: the merge stops where the first list ends
    a, b = np.array([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0]]), np.array([[1, 1, 0, 1, 0, 1]] * 2)
    assert layers.gate_spikes(a, b).events.tolist() == [[2, 2, 1], [0, 0, 1]]
    assert layers.gate_spikes(0 * a, b).events.tolist() == [[0, 0, 0]] * 2


def test_the_scan_is_the_recurrence_and_starts_anew_with_each_utterance():
    frames, channels, states = 5, 3, 2
    u, delta = RNG.normal(size=(frames, channels)), RNG.uniform(0.1, 1, (frames, channels))
    A = -RNG.uniform(0.5, 2, (channels, states))
    B, C = np.maximum(RNG.normal(size=(2, frames, states)), 0)
    D = RNG.normal(size=channels)
    scan = layers.Scan(u, delta, A, B, C, D, Keys([3, 2]))
    for first, count in ((0, 3), (3, 2)):
        h = np.zeros((channels, states))
        for t in range(first, first + count):
            before, after = scan.states(t)
            assert before == pytest.approx(h)
            for e in range(channels):
                for s in range(states):
                    h[e, s] = np.exp(delta[t, e] * A[e, s]) * h[e, s] + (
                        delta[t, e] * B[t, s] * u[t, e]
                    )
            assert after == pytest.approx(h)
            want = [h[e] @ C[t] + D[e] * u[t, e] for e in range(channels)]
            assert scan.sample(t, "scan_dense").reference == pytest.approx(np.array(want))
    site = scan.site("s", 1)
    assert close(site, 0.05, ["dense", "event", "dense_blocked", "event_blocked"]) == 4 * frames
    number = site.forms["event"].events
    assert number[:, 2].tolist() == np.count_nonzero(C, 1).tolist()
    assert number[:, 1].tolist() == (channels * np.count_nonzero(B, 1)).tolist()


@pytest.mark.parametrize("fast", [False, True])
def test_states_that_are_forgotten_at_once_are_counted(fast):
    """exp(-16) and less is nothing: the kernels skip it, and that has its part in their cost."""
    frames, channels, states = 4, 3, 5
    u, delta = RNG.normal(size=(frames, channels)), RNG.uniform(0.5, 1, (frames, channels))
    A = -np.arange(1.0, states + 1)[None] * (np.array([[1.0], [9.0], [20.0]]) if fast else 1.0)
    B, C = RNG.normal(size=(2, frames, states))
    A = np.broadcast_to(A, (channels, states)).copy()
    site = layers.Scan(u, delta, A, B, C, np.ones(channels), Keys([frames])).site("s", 1)
    for coding in "dense", "dense_blocked":
        form = site.forms[coding]
        if fast:
            want = [int((delta[n][:, None] * -A < 16).sum()) for n in range(frames)]
            assert form.events.tolist() == [[count] for count in want] and min(want) < 15
        else:
            assert form.events.shape == (frames, 0)
        # a layer of the one kind and a layer of the other do not share their cost
        assert form.key[1] == (channels, states, int(fast))
