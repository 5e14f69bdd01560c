import json
import re

import pytest

from benchmarks import bench_simulator
from espnet_spike.bin import explore as command
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError
from espnet_spike.results.hardware_findings import Finding
from espnet_spike.simulator import simulate as simulation
from espnet_spike.simulator.explore import Point, front, verdicts
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


def test_a_grid_is_explored_and_resumed(tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    made = record("iml")[2]
    monkeypatch.setattr(simulation, "record_experiment", lambda *_: (made, "x.pth"))
    monkeypatch.setattr(simulation, "check_experiment", lambda *_: None)
    (tmp_path / "asr_x").mkdir()
    (tmp_path / "asr_x/config.yaml").write_text("encoder: iml_spikeformer\n")
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
    options += ["--loops", "plain", "blocked"]
    command.main([*options, "--best", "3"])
    output = capsys.readouterr().out
    assert "recording asr_x (1 of 1)" in caplog.text
    assert re.search(r"asr_x: \d+ codings on core \S+ \(4 of 4\)", caplog.text)
    assert "24 points on 4 cores" in output and "horowitz45_sram1m" in output
    rows = [line.split("|")[1:-1] for line in output.splitlines() if line.startswith("|asr_x")]
    assert [float(row[4]) for row in rows[:3]] == sorted(float(row[4]) for row in rows[:3])
    # the faster multiplier and no wait states; the coding is the model's affair
    assert rows[0][2:4] == ["single_cycle", "yes"] and rows[0][1].endswith("blocked")
    log = tmp_path / "asr_x/simulate/calls.jsonl"
    lines = log.read_text()
    command.main(options)
    assert log.read_text() == lines
    assert "(a) the gain in cycles is less than the sparsity" in output
    assert "Where the cycles go" not in output  # four cores would make it long
    grid.write_text("multiplier: [none]\n")
    with pytest.raises(UserError, match="cannot run a whole model"):
        command.main(options)


def test_untrained_models_are_explored_and_the_findings_judged(tmp_path, capsys):
    config, grid = tmp_path / "c.yaml", tmp_path / "core.yaml"
    config.write_text(
        "encoder: speech_mamba\nencoder_conf: {output_size: 16, attention_heads: 2, d_state: 4, "
        "conv_channels: 4}\nspike_meta: {input_size: 12}\n"
    )
    grid.write_text("multiplier: fast\n")
    out = tmp_path / "out"
    options = ["--untrained", "--asr_config", str(config), "--num_blocks", "1", "--frames", "9"]
    options += ["--loops", "blocked", "--grid", str(grid), "--output_dir", str(out), "--nj", "1"]
    command.main(options)
    output = capsys.readouterr().out
    for said in "(a) the gain", "(b) membrane", "(c) more points":
        assert f"- {said}" in output
    results = json.loads((out / "explore.json").read_text())
    models = ["dense", "naive", "E", "E, optimized", "S"]
    assert [r["experiment"] for r in results] == [f"{model}, 4 states" for model in models]
    for result in results:
        (figures,) = result["simulate"].values()
        assert figures["d_state"] == 4 and figures["data"] == "noise"
        assert all(coding.endswith("_blocked") for coding in figures["codings"])
    rows = [line for line in output.splitlines() if line.startswith("|S, 4 states|S-SpeechMamba, ")]
    assert any("|fast|4|" in row and "|naive|" in row for row in rows)
    assert any("neuron, threshold" in row for row in rows)
    lines = (out / "calls.jsonl").read_text()
    command.main(options)
    assert (out / "calls.jsonl").read_text() == lines and capsys.readouterr().out == output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--asr_exp and --data_dir are needed"),
        (["--asr_exp", "x"], "--asr_exp and --data_dir are needed"),
        (["--asr_exp", "x", "--data_dir", "y", "--d_state", "4"], "--d_state need --untrained"),
        (["--untrained"], "needs --output_dir"),
        (["--untrained", "--data_dir", "y"], "have no use"),
    ],
)
def test_what_models_are_asked_for_is_checked(options, said):
    with pytest.raises(UserError, match=said):
        command.main(options)


def test_a_model_that_cannot_be_simulated_is_refused_before_any_other_is(tmp_path, monkeypatch):
    data = tmp_path / "data"
    FeatureDir(*({"u": value} for value in ("a.ark:3", (20, 4), 0.2, "x", "u"))).write(data)
    monkeypatch.setattr(simulation, "record_experiment", lambda *_: pytest.fail("recorded"))
    for name, encoder in (("asr_x", "iml_spikeformer"), ("asr_y", "conformer")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"encoder: {encoder}\n")
    words = ["--asr_exp", str(tmp_path / "asr_x"), str(tmp_path / "asr_y"), "--data_dir", str(data)]
    with pytest.raises(UserError, match="ConformerEncoder cannot be simulated"):
        command.main(words)
    (data / "feats_shape").unlink()
    with pytest.raises(UserError, match="data: no feats_shape"):
        command.main(words)


def test_many_verdicts_are_counted():
    judged = [Finding("(a) x", "confirmed", f"core{n}, 16 scan states", "why") for n in range(30)]
    judged.append(Finding("(a) x", "refuted", "core30, 16 scan states", "why"))
    assert verdicts(judged) == [
        "- (a) x: **confirmed** 30 times with 16 scan states",
        "- (a) x: **refuted** 1 times with 16 scan states",
    ]
    assert verdicts(judged[-2:])[1] == "- (a) x: **refuted** (core30, 16 scan states). why"


def test_the_benchmark_runs(tmp_path):
    kernels = [f"linear_{kind}_blocked" for kind in ("dense", "event", "spike")]
    options = ["--hardware", "small", "--mcycles", "0.1", "--repeats", "1", "--kernels", *kernels]
    bench_simulator.main([*options, "--out", str(tmp_path / "x")])
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert len(rows) == 3 and all(row["Mcycles/s, median"] > 0.1 for row in rows)
    cost = {row["kernel"]: row["cycles a weight"] for row in rows}
    assert cost["linear_dense_blocked"] < 5.8 and cost["linear_event_blocked"] < 3.1
    with pytest.raises(UserError, match=r"below 1e\+06"):
        bench_simulator.main([*options, "--out", str(tmp_path / "x"), "--floor", "1e6"])
