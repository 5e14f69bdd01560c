import json
import re

import pytest
import yaml

from espnet_spike.errors import UserError
from espnet_spike.results import experiments as experiments_module
from espnet_spike.results.comparison import pool
from espnet_spike.results.experiments import find_normalization
from tests.helpers.experiments import make_experiment
from tests.results.test_markdown import count_of


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
    # no other stage writes into sets: a count that is gone takes its energies with it
    assert (
        "energy" not in merged["sets"]["test"]
        and "energy" not in merged["decodes"]["decode"]["test"]
    )
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


# ---- the text normalization of a recipe is found where stage 11 has written it


def scored(folder, normalization):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"normalization": normalization}))
    return folder


def test_it_is_that_of_the_decodings(tmp_path):
    scored(tmp_path / "decode_a" / "dev", "upper")
    scored(tmp_path / "decode_b" / "test", "upper")
    assert find_normalization(tmp_path) == "upper"
    assert find_normalization(tmp_path / "decode_b", None, [tmp_path / "decode_a/dev"]) == "upper"


def test_it_is_that_of_a_packs_results(tmp_path):
    decodes = {"decode": {"test": {"normalization": "lower"}}}
    (tmp_path / "results.json").write_text(json.dumps({"decodes": decodes}))
    assert find_normalization(tmp_path) == "lower"
    scored(tmp_path / "decode" / "test", "upper")  # scored again since
    assert find_normalization(tmp_path) == "upper"


def test_what_is_given_goes_first_and_is_told_when_it_differs(tmp_path, caplog):
    assert find_normalization(tmp_path, "none") == "none"
    scored(tmp_path / "decode" / "test", "none")
    assert find_normalization(tmp_path, "none") == "none" and not caplog.records
    assert find_normalization(tmp_path, "upper") == "upper"
    assert "do not compare" in caplog.text and "decode/test/result.json" in caplog.text
    with pytest.raises(UserError, match="unknown text normalization 'uper'"):
        find_normalization(tmp_path, "uper")


def test_it_is_asked_for_where_it_is_not_known(tmp_path):
    with pytest.raises(UserError, match="nothing has been scored") as error:
        find_normalization(tmp_path)
    assert "--normalization" in error.value.hint
    scored(tmp_path / "decode" / "a", "none")
    scored(tmp_path / "decode" / "b", "lower")
    with pytest.raises(UserError, match=r"several text normalizations: none \(.*lower \("):
        find_normalization(tmp_path)


def damages(content):
    """Return what may have become of a JSON or YAML file."""
    text = content.decode()
    return [
        *(content[: len(content) * part // 4] for part in range(4)),
        *(b"[]", b"{}", b"null", b"[1]", b'"x"', b"\xff\xfe", b"[" * 5000),
        *(text.replace(a, b).encode() for a, b in (("{", "["), ("0", "x"), (": ", ": null ,"))),
        *(re.sub(r"\d+(\.\d+)?", new, text).encode() for new in ('"a"', "null", "[1]", "{}")),
        *(re.sub(r'"[^"]*"(?!:)', new, text).encode() for new in ("7", "null", "[]", "{}")),
    ]


@pytest.mark.parametrize(
    "name", ["decode/test/result.json", "decode/test/decode.json", "config.yaml", "epochs.jsonl"]
)
def test_a_damaged_file_is_named_or_does_no_harm(tmp_path, name):
    path = make_experiment(tmp_path, "a", {"u00": "one two two"}) / name
    content = path.read_bytes()
    refused = 0
    for damage in damages(content):
        path.write_bytes(damage)
        try:
            (experiment,) = experiments_module.find_experiments(tmp_path / "exp")
            experiments_module.write_results(experiment)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and error.hint, damage
    assert refused >= 5 or name == "epochs.jsonl"
    path.write_bytes(content)
    (experiment,) = experiments_module.find_experiments(tmp_path / "exp")
    assert experiments_module.write_results(experiment)["sets"]["test"]["wer"] > 0


def test_damaged_results_are_made_anew(tmp_path, caplog):
    exp = make_experiment(tmp_path, "a", {"u00": "one two two"})
    (experiment,) = experiments_module.find_experiments(tmp_path / "exp")
    experiments_module.write_results(experiment)
    content = (exp / "results.json").read_bytes()
    for damage in damages(content):
        (exp / "results.json").write_bytes(damage)
        experiments_module.write_results(experiment)
        sets = json.loads((exp / "results.json").read_bytes())["sets"]
        assert sets == json.loads(content)["sets"]
    assert "results.json is damaged" in caplog.text and "--stage simulate" in caplog.text


def test_the_count_of_another_checkpoint_is_not_shown(tmp_path, caplog):
    exp = make_experiment(tmp_path, "a", {})
    count = {"sparsity": {}, "per_second": {}, "energy": {}, "uncovered": {}, "execution": {}}
    path = exp / "decode/test/count.json"
    for name, shown in (("valid.x.ave.pth", True), ("3epoch.pth", False)):
        path.write_text(json.dumps(count | {"fold_qk": False, "checkpoint": name}))
        assert ("count" in experiments_module.read_decodes(exp)["decode"]["test"]) == shown
    assert "is of 3epoch.pth, and valid.x.ave.pth has decoded the set" in caplog.text


@pytest.mark.parametrize(
    ("counted", "decoded", "said"),
    [
        ({"execution": {"T": 2}}, {}, "options spike_mode integer, T 2, T_rule keep"),
        ({}, {"options": {"T": 2, "T_rule": "rescale"}}, "that with options spike_mode integer, T"),
        ({"execution": {"T": 6}}, {"options": {"spike_mode": "integer"}}, ""),
        ({"execution": {"T": 2}}, {"options": {"T": 2, "T_rule": "keep"}}, ""),
        ({"execution": {"spike_mode": "binary"}}, {}, "options spike_mode binary, T 6"),
        ({"checkpoint_sha256": "a"}, {"checkpoint_sha256": "b"}, "is of other weights named v"),
        ({"checkpoint_sha256": "a"}, {"checkpoint_sha256": "a"}, ""),
        ({"checkpoint_sha256": "a"}, {}, ""),
        ({}, {"checkpoint_sha256": "a"}, "does not say of which weights"),
        ({"checkpoint": "3epoch.pth"}, {}, "is of 3epoch.pth, and v.pth has decoded"),
    ],
)
def test_the_count_of_another_network_is_not_shown(tmp_path, caplog, counted, decoded, said):
    """A network is its weights, the file's name alone is not, and how its encoder ran."""
    exp = make_experiment(tmp_path, "a", {})
    config = yaml.safe_load((exp / "config.yaml").read_text())
    (exp / "config.yaml").write_text(yaml.safe_dump(config | {"encoder_conf": {"T": 6}}))
    path = exp / "decode/test/decode.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": "v.pth"} | decoded))
    count = count_of([1.0] * 30, [4.0] * 30) | {"checkpoint": "v.pth"} | counted
    (exp / "decode/test/count.json").write_text(json.dumps(count))
    shown = "count" in experiments_module.read_decodes(exp)["decode"]["test"]
    assert shown == (not said or "does not say" in said)
    assert said in caplog.text and bool(said) == ("count the set again" in caplog.text)


def test_damaged_counts_are_named(tmp_path):
    exp = make_experiment(tmp_path, "a", {"u00": "one two two"})
    counts = exp / "decode/test/score_wer/counts.tsv"
    content = counts.read_bytes()
    damages = [b"", b"x", content[:-4], content[30:], b"\xff"]
    damages += [content.replace(b"3", odd) for odd in (b"x", b"-1", b"3_0", "٣".encode(), b" 3")]
    for damage in damages:
        counts.write_bytes(damage)
        with pytest.raises(UserError, match=r"counts\.tsv") as caught:
            pool([exp / "decode/test"])
        assert caught.value.hint


@pytest.mark.parametrize("metric", ["wer", "cer", "ter"])
@pytest.mark.parametrize(
    "key", ["err", "corr", "sub", "del", "ins", "sentence_err", "sentences", "units"]
)
def test_a_rate_without_one_of_its_figures_is_damaged(tmp_path, metric, key):
    path = make_experiment(tmp_path, "a", {"u00": "one two two"}) / "decode/test/result.json"
    content = json.loads(path.read_text())
    del content[metric][key]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"result\.json is damaged: {metric}: {key} is missing"):
        experiments_module.find_experiments(tmp_path / "exp")
    content[metric][key] = None
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"result\.json is damaged: {metric}\.{key}: None"):
        experiments_module.find_experiments(tmp_path / "exp")


@pytest.mark.parametrize("name", ["decode.json", "count.json", "result.json"])
@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "link to nothing"),
    ],
)
def test_what_is_no_file_is_not_taken_for_none(tmp_path, name, put, said):
    path = make_experiment(tmp_path, "a", {}) / "decode/test" / name
    path.unlink(missing_ok=True)
    put(path)
    with pytest.raises(UserError, match=rf"{name}.* {said}"):
        experiments_module.find_experiments(tmp_path / "exp")


def test_a_decoding_that_lost_its_record_is_named(tmp_path):
    """ESPnet's recipes leave scores, too, but no search beside the sets."""
    exp = make_experiment(tmp_path, "a", {})
    (exp / "decode/test/decode.json").unlink()
    (exp / "decode/test/score").write_text("u00 -1.0\n")
    assert experiments_module.not_recorded(experiments_module.read_decodes(exp)["decode"]) == [
        "test"
    ]
    (exp / "decode/inference.yaml").write_text("beam_size: 2\n")
    with pytest.raises(UserError, match=r"decode\.json is missing.*\n.*--stage decode --force"):
        experiments_module.read_decodes(exp)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["energy"]["m"].pop("total"), r"energy\.m: total is missing"),
        (lambda c: c["energy"]["m"]["model"].pop("precision"), r"m\.model: precision is missing"),
        (lambda c: c["energy"]["m"]["compute"].update(ratio_ci=[1]), "ratio_ci: not two numbers"),
        (
            lambda c: c["energy"]["m"]["compute"].update(against={"twin": {"ratio_ci": ["x", 1]}}),
            r"compute\.against\.twin",
        ),
        (
            lambda c: c["energy"]["m"]["compute"].update(
                against={"twin": c["energy"]["m"]["total"] | {"ratio_ci": [1]}}
            ),
            r"compute\.against\.twin\.ratio_ci: not two numbers",
        ),
        (lambda c: c["utts"].update(u00=True), r"utts\.u00: True is no mapping"),
        (lambda c: c["utts"]["u01"]["energy"].clear(), r"utts\.u01\.energy: m is missing"),
        (lambda c: c["per_second"].pop("macs"), r"per_second\.macs is missing"),
    ],
)
def test_a_count_that_is_damaged_within_is_named(tmp_path, change, said):
    count = count_of([1.0] * 2, [2.0] * 2)
    path = tmp_path / "count.json"
    path.write_text(json.dumps(count))
    assert experiments_module.read_set_file(tmp_path, "count") == count
    change(count)
    path.write_text(json.dumps(count))
    with pytest.raises(UserError, match=said):
        experiments_module.read_set_file(tmp_path, "count")
