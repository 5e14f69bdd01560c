import json

import pytest

from benchmarks import bench_simulator
from espnet_spike.bin import explore as command
from espnet_spike.errors import UserError
from espnet_spike.simulator import simulate as simulation
from espnet_spike.simulator.explore import Point, front
from tests.helpers.simulated import record

pytestmark = pytest.mark.xdist_group("simulator")


def test_the_front_holds_what_nothing_beats():
    def point(name, latency, energy):
        return Point(name, "event", "small", 1.0, latency, energy)

    fast, frugal = point("fast", 1.0, 9.0), point("frugal", 5.0, 2.0)
    between, worse, same = (
        point("between", 3.0, 4.0),
        point("worse", 3.5, 9.0),
        point("b", 1.0, 9.0),
    )
    points = [fast, same, between, worse, frugal]
    assert front(points) == [fast, same, between, frugal]


def test_a_grid_is_explored_and_resumed(tmp_path, monkeypatch, capsys):
    made = record("iml")[2]
    monkeypatch.setattr(simulation, "record_experiment", lambda *_: (made, "x.pth"))
    grid = tmp_path / "grid.yaml"
    grid.write_text("multiplier: [fast, single_cycle]\ndata_wait_states: [0, 2]\n")
    options = [
        "--asr_exp",
        str(tmp_path / "asr_x"),
        "--data_dir",
        str(tmp_path),
        "--grid",
        str(grid),
    ]
    command.main([*options, "--best", "3"])
    output = capsys.readouterr().out
    assert "36 points on 4 cores" in output and "horowitz45_sram1m" in output
    rows = [line.split("|")[1:-1] for line in output.splitlines() if line.startswith("|asr_x")]
    assert [float(row[4]) for row in rows[:3]] == sorted(float(row[4]) for row in rows[:3])
    # the faster multiplier and no wait states; the coding is the model's affair
    assert rows[0][2:4] == ["single_cycle", "yes"] and rows[0][1].endswith("blocked")
    log = tmp_path / "asr_x/simulate/calls.jsonl"
    lines = log.read_text()
    command.main(options)
    assert log.read_text() == lines
    grid.write_text("multiplier: [none]\n")
    with pytest.raises(UserError, match="cannot run a whole model"):
        command.main(options)


def test_the_benchmark_runs(tmp_path):
    options = ["--hardware", "small", "--mcycles", "0.1", "--repeats", "1"]
    bench_simulator.main([*options, "--out", str(tmp_path / "x")])
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert len(rows) == 9 and all(row["Mcycles/s, median"] > 0.1 for row in rows)
    cost = {row["kernel"]: row["cycles a weight"] for row in rows}
    assert cost["linear_dense_blocked"] < 5.8 and cost["linear_event_blocked"] < 3.1
    with pytest.raises(UserError, match=r"below 1e\+06"):
        bench_simulator.main([*options, "--out", str(tmp_path / "x"), "--floor", "1e6"])
