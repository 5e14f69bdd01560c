import json

import numpy as np
import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator import simulate as command
from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.replay import Cost
from tests.helpers.simulated import record

pytestmark = pytest.mark.xdist_group("simulator")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment folder whose recording is at hand."""
    exp = tmp_path / "exp" / "asr_x"
    exp.mkdir(parents=True)
    (exp / "config.yaml").write_text(
        "encoder: iml_spikeformer\nencoder_conf: {}\ndecoder: transformer\n"
    )
    (exp / "results.json").write_text(json.dumps({"wer": 1.0}))
    made = record("iml")[2]
    monkeypatch.setattr(command, "record_experiment", lambda *_: (made, "x.pth"))
    return exp


def test_an_experiment_gets_its_figures(experiment, tmp_path):
    hardware = {"small": Hardware(), "slow_memory": Hardware(data_wait_states=3)}
    found = command.simulate_experiment(experiment, tmp_path / "test", hardware, 2, 1)
    folder = experiment / "simulate"
    assert {path.name for path in folder.iterdir()} == {
        *("small.json", "small.png", "slow_memory.json", "slow_memory.png"),
        *("events.npz", "calls.jsonl"),
    }
    small, slow = (found[name]["codings"]["event"] for name in hardware)
    assert slow["cycles"] > small["cycles"] and slow["instructions"] == small["instructions"]
    results = json.loads((experiment / "results.json").read_text())
    assert results["wer"] == 1.0
    kept = results["simulate"]["small"]
    assert kept["model"] == "iml_spikeformer" and kept["data"] == "test"
    assert kept["left_out"] == ["CTC", "decoder transformer"]
    assert 0.2 < kept["sparsity"] < 0.95
    parts = sum(forms["event"]["cycles"] for forms in kept["parts"].values())
    layers = sum(forms["event"]["cycles"] for forms in kept["layers"].values())
    assert parts == pytest.approx(small["cycles"], abs=2) == pytest.approx(layers, abs=2)
    assert small["latency_ms"] == pytest.approx(small["cycles"] / 1e5, rel=1e-3)
    # the log holds both machines: nothing runs again
    lines = len((folder / "calls.jsonl").read_text().splitlines())
    command.simulate_experiment(experiment, tmp_path / "test", hardware, 2, 1)
    assert len((folder / "calls.jsonl").read_text().splitlines()) == lines


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("encoder: speech_mamba", "dense"),
        ("encoder: spiking_speech_mamba", "S"),
        ("encoder: event_speech_mamba", "E"),
        ("encoder: event_speech_mamba\nencoder_conf: {fat_points: optimized}", "E, optimized"),
        ("encoder: event_speech_mamba\nencoder_conf: {fat_points: [F5, F9]}", "E, optimized"),
        ("encoder: iml_spikeformer\nencoder_conf: {neuron: relu}", "iml_spikeformer (ReLU twin)"),
    ],
)
def test_models_have_the_names_of_the_paper(tmp_path, config, name):
    (tmp_path / "config.yaml").write_text(config)
    assert command.model_name(tmp_path) == name
    (tmp_path / "naive.json").write_text("{}")
    assert command.model_name(tmp_path) == "naive"


def test_the_command_says_what_it_lacks():
    from espnet_spike.bin.simulate import main

    main(["--check"])
    with pytest.raises(UserError, match="--asr_exp and --data_dir"):
        main([])
    with pytest.raises(UserError, match="no such file"):
        main(["--asr_exp", "x", "--data_dir", "y", "--hardware", "nowhere.yaml"])


def test_a_cost_that_misses_calls_it_has_not_seen_is_not_fitted():
    def cost(*held_out):
        return Cost(np.zeros((2, 4)), 3, held_out, None)

    costs = {("near", (1,)): cost(0.001, 0.02), ("far", (1,)): cost(0.001, 0.021)}
    costs |= {("far", (2,)): cost(0.5), ("alone", (1,)): cost()}
    assert command._fit_figures(costs)["not_fitted"] == ["far"]
    fitted = [command._cost_figures(key, made)["fitted"] for key, made in costs.items()]
    assert fitted == [True, False, False, None]
