import json

import pytest

from espnet_spike.errors import UserError
from espnet_spike.results import experiments as experiments_module
from tests.helpers.experiments import make_experiment


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_json_has_the_figures_of_the_set(recipe):
    exp = make_experiment(recipe, "x", {"u00": "one two", "u01": "", "u02": "one too three four"})
    (experiment,) = experiments_module.find_experiments(recipe / "exp")
    experiments_module.write_results(experiment)
    found = json.loads((exp / "results.json").read_text())
    assert found["parameters"] == 12345
    assert found["encoder"] == "transformer"
    assert found["training"]["epochs"] == 3
    figures = found["sets"]["test"]
    assert figures["wer"] == pytest.approx(100 * 6 / 90, abs=1e-3)
    assert figures["del"] == pytest.approx(100 * 4 / 90, abs=1e-3)
    assert figures["sub"] == figures["ins"] == pytest.approx(100 / 90, abs=1e-3)
    low, high = figures["wer_ci"]
    assert low <= figures["wer"] <= high
    assert figures["rtf"] == 0.05
    assert figures["blank"] == 1


def test_keys_of_other_stages_stay(recipe):
    exp = make_experiment(recipe, "x", {})
    old = {"energy": {"total": 1.5}, "sets": {"test": {"energy": 2, "wer": 99}, "gone": {"wer": 1}}}
    (exp / "results.json").write_text(json.dumps(old))
    (experiment,) = experiments_module.find_experiments(recipe / "exp")
    merged = experiments_module.write_results(experiment)
    assert merged["energy"] == {"total": 1.5}
    assert merged["sets"]["test"]["energy"] == 2
    assert merged["sets"]["test"]["wer"] == 0.0
    assert "gone" not in merged["sets"]
    # and again: writing is idempotent
    assert experiments_module.write_results(experiment) == merged


def test_sets_are_those_of_the_decoding_made_last(recipe):
    exp = make_experiment(recipe, "x", {"u00": "one"}, tag="first")
    make_experiment(recipe, "x", {}, tag="second")
    path = exp / "first" / "test" / "decode.json"
    decode = json.loads(path.read_text()) | {"finished": "2026-02-01T00:00:00+0000"}
    path.write_text(json.dumps(decode))
    (experiment,) = experiments_module.find_experiments(recipe / "exp")
    found = experiments_module.experiment_results(experiment)
    assert found["inference_tag"] == "first"
    assert found["sets"]["test"]["wer"] > 0
    assert set(found["decodes"]) == {"first", "second"}


def test_no_experiment_and_damaged_files_are_told(recipe):
    (recipe / "exp").mkdir()
    with pytest.raises(UserError, match="no scored experiment"):
        experiments_module.find_experiments(recipe / "exp")
    exp = make_experiment(recipe, "x", {})
    (exp / "decode" / "test" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        experiments_module.find_experiments(recipe / "exp")


def test_seeds_make_a_group():
    tags = ["a", "a_seed1", "a_seed12", "b_seed1", "seedling"]
    experiments = [
        experiments_module.Experiment(experiments_module.Path(f"exp/asr_{tag}"), {}, {})
        for tag in tags
    ]
    found = {
        name: [e.tag for e in members]
        for name, members in experiments_module.groups(experiments).items()
    }
    assert found == {"a": ["a", "a_seed1", "a_seed12"], "b": ["b_seed1"], "seedling": ["seedling"]}


def test_commands_are_listed_once(recipe):
    exp = make_experiment(recipe, "x", {})
    lines = ["./run.sh --corpus_dir /a", "./run.sh --corpus_dir /a", "./run.sh --stage score"]
    (exp / "commands.txt").write_text("\n".join(lines) + "\n")
    assert experiments_module.user_commands(exp) == ["./run.sh --corpus_dir <corpus_dir>", lines[2]]


def test_the_training_config_is_taken_from_the_marker(recipe):
    exp = make_experiment(recipe, "x", {})
    assert experiments_module.training_config(exp) is None
    marker = recipe / "exp" / ".done" / "train_x.json"
    marker.parent.mkdir()
    marker.write_text(
        json.dumps({"command": f"python -m a --config {recipe}/conf/t.yaml --seed 0"})
    )
    assert experiments_module.training_config(exp) == "conf/t.yaml"


@pytest.mark.parametrize("suffix", ["", "_sparsified", "_naive0.2"])
def test_seeds_of_a_group_and_the_training_behind_stage_9(recipe, suffix):
    for seed in (1, 2):
        make_experiment(recipe, f"x_fbank_seed{seed}{suffix}", {})
    (recipe / "exp" / ".done").mkdir()
    marker = recipe / "exp" / ".done" / "train_x_fbank_seed1.json"
    marker.write_text(json.dumps({"command": "python -m x --config conf/x.yaml"}))
    experiments = experiments_module.find_experiments(recipe / "exp")
    assert list(experiments_module.groups(experiments)) == [f"x_fbank{suffix}"]
    found = {e.path.name: experiments_module.training_config(e.path) for e in experiments}
    assert found == {
        f"asr_x_fbank_seed1{suffix}": "conf/x.yaml",
        f"asr_x_fbank_seed2{suffix}": None,
    }
