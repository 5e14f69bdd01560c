"""Kernels against their numpy models, float references, and what they should cost."""

import numpy as np
import pytest

from espnet_spike.simulator.kernels import (
    EVENT,
    MODELS,
    exp_table,
    expected,
    fading_table,
    imls_counts,
    pack,
    to_events,
    unpack,
)
from espnet_spike.simulator.machine import Call
from espnet_spike.simulator.operations import KINDS, LOOPS
from tests.simulator.calls import any_call, attention, conv, depthwise, imls, linear, scan, sparse

pytestmark = pytest.mark.xdist_group("simulator")


def run(machine, calls):
    """Run calls, check every output bit for bit, return the results."""
    results = machine.run(calls)
    for call, result in zip(calls, results, strict=True):
        for place, (got, want) in enumerate(zip(result.arrays, expected(call), strict=True)):
            assert np.array_equal(got, want), (call.kernel, place)
    return results


@pytest.mark.parametrize(
    "conf",
    [{}, {"multiplier": "single_cycle", "writeback_stage": True, "branch_target_alu": True}],
    ids=["small", "maxperf"],
)
def test_every_kernel_is_its_model_bit_for_bit(machine, conf):
    rng = np.random.default_rng(0)
    calls = [any_call(kernel, rng) for kernel in MODELS for _ in range(6)]
    assert {call.kernel for call in calls} == set(MODELS)
    run(machine(**conf), calls)


def test_extremes_wrap_and_saturate_alike(machine):
    low, high = np.int16(-32768), np.int16(32767)
    x = np.array([low, high, low, high, 0], np.int16)
    ends = np.full(5, high), np.full(5, low)
    calls = [Call("add", (x.copy(), y.astype(np.int16), 5)) for y in ends]
    calls += [Call("gate", (x, y.astype(np.int16), np.zeros(5, np.int16), 5, 3)) for y in ends]
    wide = np.array([2**31 - 1, -(2**31), 0, 1, -1], np.int32)
    calls.append(Call("requantize", (wide, np.zeros(5, np.int16), 5, 2**31 - 1, 1)))
    calls.append(Call("lookup", (x, np.zeros(5, np.int16), np.arange(257).astype(np.int16), 5)))
    w = np.full((3, 600), 127, np.int8)
    big = np.full(600, high, np.int16)
    y, bias = np.zeros(3, np.int32), np.full(3, 2**31 - 1, np.int32)
    calls.append(Call("linear_dense", (w, big, bias, y, 600, 3)))
    for weights in (w, -w):
        for outputs in (3, 20):
            rows = np.resize(weights, (outputs, 600)).astype(np.int8)
            start, room = np.resize(bias, outputs), np.zeros(outputs, np.int32)
            calls.append(Call("linear_dense_blocked", (pack(rows), big, start, room, 600, outputs)))
    for norm in "rmsnorm", "layernorm":
        for value in 0, 1, high, low:
            flat = np.full(5, value, np.int16)
            calls.append(Call(norm, (flat, x, x, np.zeros(5, np.int16), 5, 12)))
    run(machine(), calls)


DENSE = ("linear_dense", "linear_dense_unrolled", "linear_skip", "linear_dense_blocked")
EVENTS = ("linear_event", "linear_event_unrolled", "linear_event_blocked")
SPIKES = ("linear_spike", "linear_spike_unrolled", "linear_spike_blocked")
CONVS = tuple(f"conv_{kind}{loop}" for kind in ("dense", "event") for loop in LOOPS)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 3), (7, 5), (35, 2), (96, 64)])
def test_packed_weights_are_the_weights(outputs, inputs):
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    words = pack(w)
    assert words.dtype == np.uint32 and np.array_equal(unpack(words, inputs, outputs), w)
    first = [int(words[0]) >> shift & 255 for shift in (0, 8, 16, 24)]
    assert first[: min(outputs, 4)] == [int(x) + 128 for x in w[:4, 0]]


def test_spikes_beyond_what_sixteen_bits_hold_are_added_in_turns(machine):
    w = np.stack([np.full(700, x) for x in (127, -128, 0, 127, 5) * 4]).astype(np.int8)
    spikes, y = np.arange(700).astype(np.uint16), np.zeros(20, np.int32)
    for count in (255, 256, 257, 512, 513, 700):
        args = (pack(w), spikes[:count].copy(), y, y.copy(), count, 700, 20)
        (result,) = run(machine(), [Call("linear_spike_blocked", args)])
        assert np.array_equal(result.arrays[-1], w[:, :count].astype(np.int32).sum(1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_event_driven_and_dense_agree_at_every_sparsity(machine, share):
    count = int(share * 64)
    for kernels in (*DENSE, *EVENTS), SPIKES:
        calls = [linear(k, np.random.default_rng(5), 64, 24, count) for k in kernels]
        outputs = [result.arrays[-1] for result in run(machine(), calls)]
        assert all(np.array_equal(y, outputs[0]) for y in outputs)
    for make, names in (
        (conv, CONVS),
        (depthwise, (*(f"depthwise_dense{loop}" for loop in LOOPS), "depthwise_event")),
    ):
        calls = [make(k, np.random.default_rng(5), int(share * 52)) for k in names]
        outputs = [result.arrays[-1] for result in run(machine(), calls)]
        assert all(np.array_equal(y, outputs[0]) for y in outputs)


@pytest.mark.parametrize("kernel", [*EVENTS[:2], *SPIKES[:2]])
def test_cost_is_affine_in_events_and_outputs(machine, kernel):
    counts = [0, 1, 13, 64, 128]
    calls = [linear(kernel, np.random.default_rng(n), 128, 96, n) for n in counts]
    calls += [linear(kernel, np.random.default_rng(0), 128, outputs, 0) for outputs in (24, 48)]
    counters = [result.counters for result in run(machine(), calls)]
    *rising, narrow, wide = counters
    for name in "cycles", "instructions", "loads", "stores":
        cost = np.array([getattr(c, name) for c in rising])
        slope = (cost[-1] - cost[1]) / (counts[-1] - counts[1])
        assert slope > 0
        line = cost[1] + slope * (np.array(counts) - counts[1])
        # the first event costs a few cycles less or more: the loop is entered
        assert np.abs(cost - line).max() <= 16, name
    # without events only the bias is copied: that many words, whatever the inputs
    assert rising[0].loads - wide.loads == 2 * (wide.loads - narrow.loads) == 48
    assert rising[0].cycles - wide.cycles == pytest.approx(
        2 * (wide.cycles - narrow.cycles), abs=16
    )


def test_the_cost_of_dense_kernels_is_that_of_the_shape(machine):
    for kernel in ("linear_dense", "linear_dense_unrolled", "linear_dense_blocked"):
        calls = [linear(kernel, np.random.default_rng(n), 64, 32, n) for n in (0, 7, 64)]
        cycles = {result.counters.cycles for result in run(machine(), calls)}
        assert len(cycles) == 1


def test_what_a_product_costs(machine):
    """256 x 256: the order of codings, and where events begin to pay."""

    def cycles(kernel, count):
        call = linear(kernel, np.random.default_rng(0), 256, 256, count)
        return machine().run([call])[0].counters.cycles / 256**2

    plain, unrolled = cycles("linear_dense", 256), cycles("linear_dense_unrolled", 256)
    assert unrolled < 0.8 * plain and 9 < unrolled < plain < 16
    half, tenth = cycles("linear_event", 128), cycles("linear_event", 26)
    # at full density events cost more than a dense product, at half about half
    assert cycles("linear_event", 256) > plain
    assert 0.4 * plain < half < 0.65 * plain and tenth < 0.15 * plain
    # a spike saves the multiplication
    assert cycles("linear_spike", 128) < half
    # a test for zero saves little: it is paid for every weight
    assert half < cycles("linear_skip", 128) < plain
    # sixteen outputs in registers: the best of all kinds; spikes add four weights in two sums
    dense, event, spike = (cycles(f"linear_{kind}_blocked", 256) for kind in KINDS)
    assert dense < 5.8 < 0.6 * unrolled + 0.1 and dense < event < 6.2
    assert spike < 2.2 < 0.3 * cycles("linear_spike_unrolled", 256)
    assert cycles("linear_event_blocked", 26) < 0.15 * dense


def test_blocked_kernels_load_an_activation_once_for_sixteen_outputs(machine):
    for kind in KINDS:
        call = linear(f"linear_{kind}_blocked", np.random.default_rng(0), 256, 256, 256)
        counters = run(machine(), [call])[0].counters
        # a word for four weights, and an activation (an event: its index and its value) for sixteen
        once = {"dense": 1, "event": 2, "spike": 1}[kind]
        each = 256 * 256 * (1 / 4 + once / 16)
        assert counters.loads == pytest.approx(each, rel=0.05)
        assert counters.stores < 3 * 256


def test_eight_channels_share_the_addresses_of_a_depthwise_convolution(machine):
    calls = [
        depthwise(f"depthwise_dense{loop}", np.random.default_rng(0), 100, taps=15, channels=96)
        for loop in LOOPS
    ]
    plain, unrolled, blocked = (
        result.counters.cycles / (15 * 96) for result in run(machine(), calls)
    )
    assert blocked < 9.5 < unrolled < plain


def test_neurons_cost_memory_and_thresholds_do_not(machine):
    """A membrane is loaded and stored for every neuron and step; FATReLU only writes events."""
    n = 256
    rng = np.random.default_rng(0)
    silent = np.zeros(n, np.int16), np.zeros(n, np.uint16), np.zeros(1, np.uint32), n, 4096
    x = rng.integers(-99, 99, n).astype(np.int16)
    lif, fat = machine().run(
        [
            Call("lif_hard", (x, *silent, 1)),
            Call("fatrelu", (x, *silent[1:])),
        ]
    )
    assert lif.counters.memory - fat.counters.memory == pytest.approx(2 * n, abs=8)
    assert lif.counters.stores >= n > 10 > fat.counters.stores


# the float function that a kernel stands for, and how near it is


def test_imls_counts_are_those_of_the_neuron(machine):
    import torch

    from espnet_spike.nn.neurons.imls import IMLS

    rng = np.random.default_rng(0)
    neuron = IMLS(96, T=6)
    with torch.no_grad():
        neuron.a.copy_(torch.from_numpy(rng.normal(0, 0.3, 96)))
        x = torch.from_numpy(rng.normal(0, 1, (50, 96))).float()
        want = neuron.spike_train(x[None]).counts[0].numpy()
        inverse = np.round(1024 / neuron.alpha.numpy()).astype(np.uint16)
    quantised = np.round(x.numpy() * 5000).astype(np.int16)
    got = np.stack([imls_counts(row, inverse, 6, 0) for row in quantised])
    # counts flip where x is within a rounding error of a step
    assert np.mean(got != want) < 0.005 and np.abs(got - want).max() <= 1


@pytest.mark.parametrize("kernel", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("size", [60, 3000, 30000])
def test_norms_are_near_the_float_norms(kernel, size):
    rng = np.random.default_rng(0)
    x = rng.normal(0, size / 4, 96).clip(-32768, 32767).astype(np.int16)
    weight = np.round(rng.uniform(0.5, 1.5, 96) * 4096).astype(np.int16)
    bias = np.round(rng.normal(0, 0.1, 96) * 1024).astype(np.int16)
    call = Call(kernel, (x, weight, bias, np.zeros(96, np.int16), 96, 12))
    got = expected(call)[-1] / 1024
    v = x.astype(float)
    if kernel == "layernorm":
        v = v - v.mean()
    want = v / np.sqrt((v**2).mean()) * weight / 4096 + bias / 1024 * (kernel == "layernorm")
    # where values are a few units large, rounding their mean is what remains
    assert np.abs(got - want).max() < max(0.01, 8 / size)


def test_softmax_is_near_the_float_softmax():
    call = attention("softmax", np.random.default_rng(0), keys=30)
    got = expected(call)[-1].T / 2**15
    scores = call.args[0].astype(float) * call.args[-1] / 2**32 / 4096
    want = np.exp(scores - scores.max(1, keepdims=True))
    want /= want.sum(1, keepdims=True)
    assert np.abs(got - want).max() < 2e-3 and np.abs(got.sum(1) - 1).max() < 5e-3


def test_the_scan_is_near_the_float_scan():
    rng = np.random.default_rng(0)
    call = scan("scan_dense", rng, channels=32, states=16, nonzero=32)
    u, delta, a, b, c, d, _, h, *_ = call.args
    *_, new_h, y = expected(call)
    fade = np.exp(-(delta[:, None] / 2**12) * (a / 2**8))
    want_h = h * fade + (delta * u.astype(float) / 2**12)[:, None] * b / 2**3
    want_y = d * u.astype(float) + (want_h * c).sum(1) / 2**16
    assert np.abs(new_h - want_h).max() < 1e-3 * np.abs(want_h).max()
    assert np.abs(y - want_y).max() < 1e-3 * np.abs(want_y).max() + 16


def test_both_scans_agree_where_all_is_given():
    rng = np.random.default_rng(1)
    call = scan("scan_event", rng, channels=20, states=8, nonzero=9)
    event_h, event_y = expected(call)[7:9]
    dense_h, dense_y = expected(Call("scan_dense", call.args[:14]))[7:9]
    assert np.array_equal(event_h, dense_h)
    assert np.abs(event_y.astype(int) - dense_y).max() <= 8


def test_the_blocked_scan_is_near_the_float_scan():
    call = scan("scan_dense_blocked", np.random.default_rng(0), channels=33, states=16, nonzero=33)
    u, delta, cells, blend, d, *_ = call.args
    a, h, b, c = cells["a"], cells["h"], blend["b"], blend["c"]
    want_h = np.exp(-delta[:, None] * a.astype(float) / 2**20) * h
    want_h += (delta * u.astype(float) / 2**12)[:, None] * b / 2**3
    want_y = d * u.astype(float) + (want_h * c).sum(1) / 2**32
    new, y = expected(call)[2]["h"], expected(call)[-1]
    # the tangent at a 64th is 1.2e-4 below the exponential at most
    assert np.abs(new - want_h).max() < 1.3e-4 * np.abs(h).max() + 2
    fits = np.abs(want_y) < 2**31
    assert fits.sum() > 5 and np.abs(y - want_y)[fits].max() < 3e-4 * np.abs(want_y).max()


@pytest.mark.parametrize("nonzero", [0, 1, 4, 5])
def test_both_blocked_scans_agree_for_any_inputs(machine, nonzero):
    """Channels with an input come first, an odd one of them is paired with one without."""
    calls = [
        scan(kernel, np.random.default_rng(2), channels=5, states=6, nonzero=nonzero)
        for kernel in ("scan_dense_blocked", "scan_event_blocked")
    ]
    dense, event = run(machine(), calls)
    assert all(np.array_equal(a, b) for a, b in zip(dense.arrays, event.arrays, strict=True))
    if nonzero == 0:
        assert event.counters.cycles < dense.counters.cycles


def test_a_state_of_the_scan_costs_less_in_pairs_of_channels(machine):
    costs = []
    for kernel in ("scan_dense", "scan_dense_blocked"):
        call = scan(kernel, np.random.default_rng(0), channels=16, states=64, nonzero=16)
        slow = [arg // 5 if place == 1 else arg for place, arg in enumerate(call.args)]
        counters = run(machine(), [Call(kernel, tuple(slow))])[0].counters
        costs.append(counters.cycles / (16 * 64))
    assert costs[1] < 0.75 * costs[0] and 40 < costs[1] < 44


def test_sparse_inputs_have_as_many_events_as_asked():
    x = sparse(np.random.default_rng(0), 50, 20)
    assert np.count_nonzero(x) == 20


def test_exp_is_a_table_from_one_to_nothing():
    fine = fading_table().astype(np.int64)
    assert fine[0] == 2**32 - 1 and (np.diff(fine) < 0).all() and fine[-1] < 2**32 * 1.2e-7
    assert fine[64] == pytest.approx(2**32 / np.e, abs=1)
    table = exp_table()
    assert table[0] == 32767 and table[-1] == 0 and (np.diff(table.astype(int)) <= 0).all()


def test_imls_spikes_repeat_what_imls_counts(machine):
    counts, spikes = (
        result.arrays[2][: result.arrays[3][0]]
        for result in run(
            machine(), [imls(k, np.random.default_rng(3)) for k in ("imls", "imls_spikes")]
        )
    )
    assert np.array_equal(np.repeat(counts["index"], counts["value"]), spikes)


def test_planes_of_counts_are_the_counts_and_only_add(machine):
    """Few spikes are doubled from plane to plane; more than 16 bits hold go plane by plane."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (36, 90)).astype(np.int8)
    for top in (1, 3, 7):
        counts = rng.integers(0, top + 1, 90)
        lists, lengths = np.zeros((3, 90), np.uint16), np.zeros(3, np.uint32)
        for plane in range(3):
            found = np.flatnonzero(counts >> plane & 1)
            lists[plane, : len(found)], lengths[plane] = found, len(found)
        y = np.zeros(36, np.int32)
        args = (pack(w), lists, lengths, y, y.copy(), 3, 90, 36)
        (result,) = run(machine(), [Call("linear_planes_blocked", args)])
        assert np.array_equal(result.arrays[-1], w.astype(np.int32) @ counts), top
        assert result.counters.multiply_wait < 20  # of addresses
    assert counts.sum() > 256  # the last went plane by plane
    levels, planes = (
        result.arrays
        for result in run(
            machine(), [imls(k, np.random.default_rng(3)) for k in ("imls", "imls_planes")]
        )
    )
    events = levels[2][: levels[3][0]]
    counts = np.zeros(40, int)
    for plane, (row, length) in enumerate(zip(planes[2], planes[3], strict=True)):
        counts[row[:length]] += 1 << plane
    assert np.array_equal(to_events(counts), events)


def test_ties_at_every_threshold(machine):
    """What is as large as the threshold passes or fires; by hand, not by the models."""
    n, at = 5, 700
    x = np.array([700, 699, -700, -699, 701], np.int16)
    v = np.array([0, 0, 0, 0, 0], np.int16)
    room, count = (lambda: np.zeros(n, EVENT)), (lambda: np.zeros(1, np.uint32))

    def spikes(size=n):
        return np.zeros(size, np.uint16)

    # alpha 1 and a level of 1000: counts of half a threshold and a half are ties, rounded up
    drive = np.array([500, 499, 1500, 9000, -500], np.int16)
    alpha = np.full(n, 1024, np.uint16)
    g = to_events(np.array([1, 1, 1, 1, 1], np.int16))
    calls = [
        Call("relu", (x, np.zeros(n, np.int16), n, at)),
        Call("fatrelu", (x, room(), count(), n, at)),
        Call("fatrelu_two_sided", (x, room(), count(), n, at)),
        Call("gate_event", (x, g, room(), count(), n, 0, at)),
        # half of x is added to half of v: the potential is 700, 699, ...
        Call("lif_hard", (2 * x, v.copy(), spikes(), count(), n, at, 1)),
        Call("lif_soft", (2 * x, v.copy(), spikes(), count(), n, at, 1)),
        Call("lif_hard_full_input", (x, v.copy(), spikes(), count(), n, at, 1)),
        Call("imls", (drive, alpha, room(), count(), n, 6, 1000)),
        Call("imls_spikes", (drive, alpha, spikes(6 * n), count(), n, 6, 1000)),
    ]
    found = [result.arrays for result in run(machine(), calls)]
    relu, fat, two, gated, hard, soft, full, levels, slots = found

    def events(*of):
        event, how_many = of
        return [(int(e["index"]), int(e["value"])) for e in event[: int(how_many[0])]]

    assert relu[1].tolist() == [700, 0, 0, 0, 701]
    assert events(*fat[1:]) == events(*gated[2:]) == [(0, 700), (4, 701)]
    assert events(*two[1:]) == [(0, 700), (2, -700), (4, 701)]
    for _, v_after, fired, how_many in (hard, soft, full):
        assert fired[: int(how_many[0])].tolist() == [0, 4]
        assert v_after.tolist()[1:4] == [699, -700, -699]
    assert hard[1].tolist()[::4] == full[1].tolist()[::4] == [0, 0]
    assert soft[1].tolist()[::4] == [0, 1]
    # 2^31 / 1000 is rounded down, so that a tie comes out a spike less
    assert events(*levels[2:]) == [(2, 1), (3, 6)]
    assert slots[2][: int(slots[3][0])].tolist() == [2] + [3] * 6
