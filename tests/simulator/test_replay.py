"""Lowering of encoders to kernel calls, replay, fits, extrapolation."""

import json
import unittest.mock
from pathlib import Path

import numpy as np
import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator import operations as ops
from espnet_spike.simulator import simulate as simulating
from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.kernels import MODELS
from espnet_spike.simulator.machine import Call
from espnet_spike.simulator.record import Recording
from espnet_spike.simulator.replay import (
    LIMITS,
    Log,
    call_key,
    check_float_errors,
    extrapolate,
    fit_costs,
    float_errors,
    plan,
    simulate,
    spread,
    sum_totals,
)
from tests.helpers.simulated import ENCODERS, record

# their kernels run for the others
NOT_RUN = {"spiking_ours", "iml_normed_fixed", "twin_normed"}
pytestmark = pytest.mark.xdist_group("simulator")


@pytest.mark.parametrize("name", sorted(ENCODERS.keys() - NOT_RUN))
def test_an_encoder_runs_on_the_core_as_its_layers_do(machine, tmp_path, name):
    _, _, recording = record(name)
    planned = plan(recording.sites, recording.codings, fit=5, held_out=2)
    counters = simulate(machine(), planned, Log(tmp_path / "log", "x"), jobs=1)
    errors = float_errors(recording.sites, recording.codings)
    check_float_errors(errors)
    costs = fit_costs(planned, counters, errors)
    for key, cost in costs.items():
        assert max(cost.held_out, default=0) < 0.02, key
    assert sum(cost.float_error is not None for cost in costs.values()) > len(costs) / 2
    totals = extrapolate(recording.sites, recording.codings, costs)
    cycles = {k: v["cycles"] for (k,), v in sum_totals(totals, lambda t: (t.coding,)).items()}
    assert set(cycles) == set(recording.codings)
    assert cycles["dense_blocked"] < cycles["dense_unrolled"] < cycles["dense"]
    if name != "dense":
        assert cycles["event"] < cycles["dense"]
        assert cycles["event_unrolled"] < cycles["dense_unrolled"]
        # 16 untrained channels fire so often that their neurons cost what their events save
        assert cycles["event_blocked"] < cycles["dense_blocked"] or name.startswith("iml")
    by_site = sum_totals(totals, lambda t: (t.site.name, t.coding))
    assert sum(v["cycles"] for v in by_site.values()) == pytest.approx(sum(cycles.values()))


def test_the_sample_spreads_over_the_events_and_keeps_calls_apart():
    assert spread(5, 3) == [0, 2, 4] and spread(2, 9) == [0, 1] and spread(1, 3) == [0]
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(0, 1, (60, 30)) - rng.uniform(-1, 2, (60, 1)), 0)
    sites = ops.linear("x", "part", 1, rng.normal(size=(8, 30)), None, x, ops.Events.of(x))
    planned = [item for item in plan(sites, ["event"]) if item.key[0] == "linear_event"]
    events = [int(item.events[0]) for item in planned]
    assert events == sorted(events) and len(planned) == 12
    assert events[0] == np.count_nonzero(x, 1).min() and events[-1] == np.count_nonzero(x, 1).max()
    held = [item.for_fit for item in planned].count(False)
    assert held == 4 and planned[0].for_fit and planned[-1].for_fit


def test_a_run_goes_on_from_where_it_was(machine, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(0, 1, (40, 30)), 0)
    sites = ops.linear("x", "part", 1, rng.normal(size=(8, 30)), None, x, ops.Events.of(x))
    planned = plan(sites, ["dense", "event"])
    path = tmp_path / "folder" / "log"
    first = simulate(machine(), planned[:9], Log(path, "a"), jobs=1)
    path.write_text(path.read_text() + '{"machine": "a", "ca')  # killed while it wrote
    path.write_text(path.read_text().rstrip() + "\n")
    log = Log(path, "a")
    assert set(log.counters) == {call_key(item.sample.call) for item in planned[:9]}
    both = simulate(machine(), planned, log, jobs=2)
    assert both[:9] == first
    lines = path.read_text().splitlines()
    entry = json.loads(lines[0])
    number = str(entry["counters"][0])
    bad = [
        lines[0].replace(number, f"{number}1", 1),  # a whole line, but not what was simulated
        lines[0].replace('"call": "', '"call": "0'),
        lines[0].replace('"call"', '"cull"'),
        "[" * 100_000,
        "\x1f",
    ]
    path.write_bytes("\n".join([*bad, *lines[1:]]).encode() + b"\n\xff\xfe")
    assert Log(path, "a").counters == dict(list(log.counters.items())[1:])
    del entry["check"]  # of an earlier version
    path.write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
    assert Log(path, "a").counters == log.counters
    assert not Log(path, "another machine").counters
    # now nothing is left to run
    monkeypatch.setattr(type(machine()), "run", None)
    assert simulate(machine(), planned, Log(path, "a")) == both


def test_a_wrong_output_stops_the_run(machine, tmp_path, monkeypatch):
    from espnet_spike.simulator import replay

    rng = np.random.default_rng(0)
    sites = ops.linear(
        "x", "part", 1, rng.normal(size=(8, 30)), None, rng.normal(size=(9, 30)), None
    )
    monkeypatch.setattr(replay, "expected", lambda call: [a + 1 for a in call.arrays])
    with pytest.raises(UserError, match="linear_dense"):
        simulate(machine(), plan(sites, ["dense"]), Log(tmp_path / "log", "a"), jobs=1)
    assert not (tmp_path / "log").exists()


def test_every_kernel_that_has_a_model_has_a_limit():
    assert {kernel.split("_")[0] for kernel in MODELS} == set(LIMITS)
    assert all(0 <= limit <= 0.15 for limit in LIMITS.values())


def doubled(right, wrong):
    """A site whose kernel gives ``wrong`` times what its float layer gives, in frames of 3, 4."""

    def make(n):
        call = Call("add", (np.zeros(1, np.int16), np.full(1, wrong[n], np.int16), 1))
        return ops.Sample(call, 0, 1.0, np.array([float(right[n])]))

    form = ops.Form("add", (1,), ops.no_events(len(right)), make)
    return ops.Site("encoders.0.x", "part", 1, {"dense": form, "event": form})


def test_the_error_of_a_layer_is_over_frames_together():
    # by hand: off by 0 and 4 of 3 and 4: root of 16 / 25; the silent frame alone would be infinite
    errors = float_errors([doubled([3, 4, 0], [3, 8, 0])], ["dense", "event"])
    assert errors == {("encoders.0.x", ("add", (1,))): pytest.approx(0.8)}
    with pytest.raises(UserError, match=r"encoders.0.x: .*kernel add is 80.0% off.* 1.0% is the"):
        check_float_errors(errors)
    silent = float_errors([doubled([0, 0], [0, 1])], ["dense"])
    assert silent == {("encoders.0.x", ("add", (1,))): float("inf")}
    with pytest.raises(UserError, match="inf%"):
        check_float_errors(silent)
    check_float_errors({("x", ("add", (1,))): 0.01, ("x", ("outer_spike", ())): 0.0})
    for kernel, error in ("add", 0.0101), ("outer_spike", 1e-6), ("scan_dense", float("nan")):
        with pytest.raises(UserError, match="limit"):
            check_float_errors({("x", (kernel, ())): error})


def test_a_replay_that_is_another_network_is_refused_before_it_runs(monkeypatch):
    """Values far above the rest leave the rest no bits of a linear layer's input."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 30)) * 1e-4
    x[7] *= 1e9
    sites = ops.linear("encoders.1.ffn", "part", 1, rng.normal(size=(8, 30)), None, x, None)
    recording = Recording(sites, 1, 40, ("dense",))
    ran = []
    monkeypatch.setattr(simulating, "simulate", lambda *args: ran.append(args))
    monkeypatch.setattr(simulating, "Machine", lambda *args: unittest.mock.MagicMock())
    monkeypatch.setattr(simulating.toolchain, "digest", lambda *args: "x")
    with pytest.raises(UserError, match=r"encoders.1.ffn: the int8/int16 kernel linear_dense is"):
        simulating.simulate_recording(recording, Hardware(), Path("log"))
    assert not ran
