"""Sweeps: settings are undone, nothing beats the Pareto set, the command writes its files."""

import json

import pytest
import torch
import yaml

from espnet_spike.bin import sweep as command
from espnet_spike.counting import sweep as sweeping
from espnet_spike.counting.sweep import Setting, recognise
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import EventSpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.inference.beam_search import BeamSearch
from espnet_spike.inference.decode import read_settings
from espnet_spike.results.scoring import character_units, score_set
from espnet_spike.tasks.loading import open_model
from espnet_spike.utils.files import write_table
from tests.helpers import tiny_model

SMALL = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}


def output(encoder):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 40, 24, generator=generator)
    with torch.inference_mode():
        return encoder.eval()(x, torch.tensor([40]))[0]


def encoders():
    torch.manual_seed(0)
    return {
        "imls": IMLSpikeformerEncoder(24, **SMALL),
        "lif": IMLSpikeformerEncoder(24, **SMALL, neuron="lif", T=2),
        "fat": EventSpeechMambaEncoder(24, **SMALL, d_state=4, fat_threshold=0.1),
    }


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("imls", Setting(T=2, T_rule="keep")),
        ("imls", Setting(T=2, T_rule="rescale")),
        ("imls", Setting(scale=1.5)),
        ("lif", Setting(scale=0.2)),
        ("fat", Setting(scale=3.0)),
        ("fat", Setting(fat_threshold=0.5)),
    ],
)
def test_a_setting_changes_the_encoder_inside_its_context_only(name, setting):
    encoder = encoders()[name]
    before = output(encoder)
    with setting.applied(encoder):
        assert not torch.allclose(output(encoder), before)
    assert torch.allclose(output(encoder), before, atol=1e-6)


def test_a_setting_of_something_absent_is_refused():
    found = encoders()
    for name, setting in (
        ("fat", Setting(T=2, T_rule="keep")),
        ("imls", Setting(fat_threshold=0.1)),
    ):
        with pytest.raises(UserError, match="the encoder has no"), setting.applied(found[name]):
            pass


def test_only_an_impossible_setting_is_the_users_error():
    found = encoders()
    with pytest.raises(UserError, match=r"FATReLU at 0: .* cannot be"):
        with Setting(fat_threshold=0.0).applied(found["fat"]):
            pass
    # what goes wrong under a setting is not the setting's fault, and keeps its traceback
    with pytest.raises(ValueError, match=r"^odd$"), Setting(scale=2.0).applied(found["imls"]):
        raise ValueError("odd")


def make_experiment(tmp_path, ctc_weight):
    """Return an untrained model's folder and its data."""
    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    exp = tmp_path / "asr_s"
    exp.mkdir()
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(tiny_model.TOKENS) + "\n")
    config = tiny_model.CONFIG | {"encoder": "iml_spikeformer", "encoder_conf": SMALL}
    config |= {"model_conf": {"ctc_weight": ctc_weight}}
    words = ["--output_dir", str(exp), "--token_list", str(tokens), "--token_type", "char"]
    args = parse_espnet(SpikeASRTask, config, [*words, "--input_size", "24"])
    torch.manual_seed(0)
    torch.save(SpikeASRTask.build_model(args).state_dict(), exp / "valid.cer_ctc.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    data = tiny_model.write_features(
        tmp_path / "dump", tiny_model.make_texts(3, seed=4), seed=4, seconds=1.0
    )
    return exp, data


def test_a_model_without_ctc_is_swept(tmp_path):
    exp, data = make_experiment(tmp_path, 0.0)
    words = ["--asr_exp", str(exp), "--out", str(tmp_path / "out"), f"test={data}"]
    words += ["--normalization", "none"]
    search = "--ctc_weight 0.0 --beam_size 2 --maxlenratio -3"
    command.main([*words, "--inference_args", search, "--threshold_scale", "2"])
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [p["setting"] for p in found["sets"]["test"]] == ["as trained", "threshold x 2"]


def test_a_setting_that_the_model_cannot_have_is_refused_before_anything_is_decoded(
    tmp_path, monkeypatch
):
    exp, data = make_experiment(tmp_path, 0.5)
    monkeypatch.setattr(sweeping, "measure", lambda *_: pytest.fail("decoded"))
    words = ["--asr_exp", str(exp), "--out", str(tmp_path / "out"), f"test={data}"]
    with pytest.raises(UserError, match=r"FATReLU at 0\.1: the encoder has no FATReLU layers"):
        command.main([*words, "--normalization", "none", "--T", "2", "--fat_threshold", "0.1"])


def test_errors_are_those_of_stage_11(tmp_path):
    """What the model says is right but for case, which the recipe's normalization ignores."""
    exp, folder = make_experiment(tmp_path, 0.5)
    data = FeatureDir.read(folder)
    state = torch.load(exp / "valid.cer_ctc.ave.pth", weights_only=True)
    state["ctc.ctc_lo.weight"].normal_(std=2.0)  # says something
    torch.save(state, exp / "valid.cer_ctc.ave.pth")
    search = ["--inference_args", "--ctc_weight 1.0 --beam_size 2"]
    words = ["--asr_exp", str(exp), "--out", str(tmp_path / "out"), *search]
    words += ["--threshold_scale", "2", f"test={folder}"]
    with pytest.raises(UserError, match="nothing has been scored, so its text normalization"):
        command.main(words)
    with open_model(exp) as found:
        said, _ = recognise(BeamSearch(found.files(), read_settings(None, search[1])), data)
    assert any(text.upper() != text for text in said.values())
    write_table(folder / "text", {utt: f"{text.upper()} X" for utt, text in said.items()})
    set_dir = exp / "decode" / "test"
    set_dir.mkdir(parents=True)
    write_table(set_dir / "text", said)
    place = "test", folder, set_dir, character_units, frozenset(tiny_model.LETTERS)
    as_it_is, stage_11 = score_set(*place)["wer"], score_set(*place, "upper")["wer"]
    assert stage_11["err"] < as_it_is["err"]

    command.main(words)
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    point = found["sets"]["test"][0]
    assert found["normalization"] == "upper" and point["wer"] == stage_11["err"]
    assert point["wer_ci"] == pytest.approx(stage_11["ci"], abs=1e-4)
    command.main([*words, "--normalization", "none"])
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert found["sets"]["test"][0]["wer"] == as_it_is["err"]


def test_the_encoder_runs_as_it_was_decoded(tmp_path):
    exp, data = make_experiment(tmp_path, 0.5)
    words = ["--asr_exp", str(exp), f"test={data}", "--normalization", "none", "--T", "2"]
    found = {}
    for name, options in (("trained", ""), ("decoded", "--T 2")):
        search = ["--inference_args", f"--ctc_weight 1.0 --beam_size 2 {options}"]
        command.main([*words, *search, "--T_rule", "keep", "--out", str(tmp_path / name)])
        content = json.loads((tmp_path / name / "sweep.json").read_text())
        found[name] = {p["setting"]: p["synops"] for p in content["sets"]["test"]}
    assert list(found["decoded"]) == ["as decoded", "T=2 keep"]
    assert found["decoded"]["as decoded"] == found["trained"]["T=2 keep"]
    assert found["trained"]["as trained"] != found["trained"]["T=2 keep"]


def test_the_command_writes_table_and_plot(tmp_path, capsys):
    exp, data = make_experiment(tmp_path, 0.5)
    words = ["--asr_exp", str(exp), "--out", str(tmp_path / "out"), f"test={data}"]
    words += ["--normalization", "none"]
    search = ["--inference_args", "--ctc_weight 1.0 --beam_size 2 --batch_size 2"]
    command.main([*words, *search, "--T", "2", "--threshold_scale", "2"])
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    points = {p["setting"]: p for p in found["sets"]["test"]}
    assert list(points) == ["as trained", "T=2 keep", "T=2 rescale", "threshold x 2"]
    # a clipped or coarser count has fewer spikes
    assert all(p["synops"] <= points["as trained"]["synops"] for p in points.values())
    assert found["cost_model"]["source"]
    assert (tmp_path / "out" / "test.png").read_bytes().startswith(b"\x89PNG")
    assert "|T=2 rescale|" in (tmp_path / "out" / "sweep.md").read_text()
    with pytest.raises(UserError, match="nothing to sweep"):
        command.main(words)
    with pytest.raises(UserError, match="no number"):
        command.main([*words, "--T", "two"])
