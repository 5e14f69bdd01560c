"""The sparsify stage, and the baseline without training."""

import json
from argparse import Namespace

import pytest
import torch
import yaml
from torch import nn

from espnet_spike.bin import asr_train, collect_stats, decode, naive_sparse
from espnet_spike.bin import sparsify as command
from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint, read_config, read_epochs
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.tasks.config import read_training_config
from espnet_spike.tasks.loading import build
from espnet_spike.training.sparsify import merge, read_part
from tests.helpers.features import write_features, write_tokens


def test_merge():
    config = {"optim": "adam", "encoder_conf": {"a": 1, "b": 2}, "x": [1]}
    changes = {"encoder_conf": {"b": 3}, "x": [2], "max_epoch": 4}
    expected = {"optim": "adam", "encoder_conf": {"a": 1, "b": 3}, "x": [2], "max_epoch": 4}
    assert merge(config, changes) == expected
    assert config["encoder_conf"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"los_factor": 1.1}, "did you mean 'loss_factor'"),
        ({"loss_factor": 0.9}, "loss_factor: 0.9 is out of range"),
        ({"order": "points"}, r"'points' is out of range(.|\n)*network, percentile"),
        ({"base": "runing"}, r"sparsify: base: (.|\n)*did you mean 'running'"),
        ({"quantile_over": 0}, "quantile_over: 0 is out of range"),
        ("yes", "'yes' is out of range"),
        ({"finetune": 3}, "finetune: 3 is out of range"),
    ],
)
def test_mistakes_in_the_part(tmp_path, part, message):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"spike_meta": {"sparsify": part}}))
    with pytest.raises(UserError, match=message):
        read_part(path, read_training_config(path)[1])


CONFIG = {
    "encoder": "event_speech_mamba",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "d_state": 2,
                     "dropout_rate": 0.0, "positional_dropout_rate": 0.0},
    "decoder": "speech_mamba",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "d_state": 2, "fat_points": "e"},
    "model_conf": {"ctc_weight": 0.5},
    "normalize": "utterance_mvn",
    "optim": "adam",
    "optim_conf": {"lr": 0.003},
    "batch_type": "unsorted",
    "batch_size": 5,
    "num_workers": 0,
    "max_epoch": 2,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
    "spike_meta": {
        "sparsify": {
            "utterances": 4,
            "percentiles": [50],
            "loss_factor": 2.0,
            "finetune": {"max_epoch": 1, "optim_conf": {"lr": 0.001},
                         "encoder_conf": {"lambda_act": 0.002}},
        }
    },
}  # fmt: skip


def test_the_stage_after_a_training(tmp_path, caplog):
    torch.set_num_threads(1)
    train = {f"u{i}": text for i, text in enumerate(["ab", "bc a", "cab", "abc b", "ca"])}
    write_features(tmp_path / "train", train)
    write_features(tmp_path / "dev", {"v1": "ba"}, seed=1)
    write_tokens(tmp_path / "tokens.txt")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    data = ["--train_dir", str(tmp_path / "train"), "--valid_dir", str(tmp_path / "dev")]
    data += ["--token_list", str(tmp_path / "tokens.txt"), "--token_type", "char"]
    collect_stats.main(
        ["--asr_config", str(config), *data, "--output_dir", str(tmp_path / "stats")]
    )
    data += ["--config", str(config), "--stats_dir", str(tmp_path / "stats")]
    exp, sparse = tmp_path / "exp", tmp_path / "sparse"
    asr_train.main([*data, "--output_dir", str(exp)])
    words = [*data, "--asr_exp", str(exp), "--output_dir", str(sparse)]
    with pytest.raises(UserError, match="no thresholds yet"):
        command.main([*words, "--steps", "finetune"])
    command.main([*words, "--steps", "calibrate"])
    thresholds = json.loads((sparse / "calibration" / "init.json").read_text())["thresholds"]
    of_decoder = [name for name in thresholds if name.startswith("decoder.")]
    assert len(of_decoder) == 8  # F3, F4, and F5 to F7 in two Mamba layers
    # two of F1, F2, and as many within a layer as in the decoder; no feed-forward module
    assert len(thresholds) == 8 + 3 + 8
    assert all(T > 0 for T in thresholds.values())
    assert not (sparse / "config.yaml").exists()
    # another search is another calibration, whatever it starts from
    former = {"order": "percentile", "base": "fixed"}
    changed = {"sparsify": CONFIG["spike_meta"]["sparsify"] | former}
    other = tmp_path / "former.yaml"
    other.write_text(yaml.safe_dump(CONFIG | {"spike_meta": changed}))
    before = (sparse / "calibration" / "init.json").read_text()
    command.main([*words, "--steps", "calibrate", "--config", str(other)])
    assert (
        json.loads((sparse / "calibration" / "init.json").read_text())["thresholds"] != thresholds
    )
    command.main([*words, "--steps", "calibrate"])
    assert (sparse / "calibration" / "init.json").read_text() == before
    caplog.set_level("INFO")
    command.main(words)
    assert "already calibrated" in caplog.text
    assert len(read_epochs(sparse)) == 1
    assert (sparse / "verdict.json").is_file()
    trained = read_config(sparse)
    assert trained["encoder_conf"]["lambda_act"] == 0.002
    assert trained["optim_conf"]["lr"] == 0.001
    state = torch.load(best_checkpoint(sparse), weights_only=True)
    for name, T in thresholds.items():
        assert state[f"{name}.T_init"] == pytest.approx(T)
        learnt = nn.functional.softplus(state[f"{name}.tau"])
        assert 0 < abs(float(learnt) / T - 1) < 0.5
    record = read_epochs(sparse)[0]["valid"]
    assert 0 < record["sparsity"] < 1
    assert record["loss_sparsity_threshold"] > 0 and record["loss_decoder_sparsity_threshold"] > 0
    # a YAML without the part asks for nothing
    config.write_text(yaml.safe_dump({k: v for k, v in CONFIG.items() if k != "spike_meta"}))
    command.main([*words[:-1], str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
    # the baseline without training
    with pytest.raises(UserError, match="only speech_mamba"):
        naive_sparse.main(naive_words(exp, tmp_path))
    path = exp / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("encoder: event_speech_mamba", "encoder: speech_mamba"))
    with pytest.raises(UserError, match="its decoder has FATReLU points"):
        naive_sparse.main(naive_words(exp, tmp_path))
    path.write_text(text)
    dense = CONFIG | {"encoder": "speech_mamba", "max_epoch": 1}
    dense["decoder_conf"] = CONFIG["decoder_conf"] | {"fat_points": "none"}
    config.write_text(yaml.safe_dump(dense))
    asr_train.main([*data, "--output_dir", str(tmp_path / "dense")])
    naive_sparse.main(naive_words(tmp_path / "dense", tmp_path))
    record = json.loads((tmp_path / "naive" / "naive.json").read_text())
    assert record["sparsity"] == pytest.approx(0.3, abs=0.005)
    model = build(Namespace(**read_config(tmp_path / "naive")), best_checkpoint(tmp_path / "naive"))
    found = {name: layer.T.item() for name, layer in named_fatrelus(model).items()}
    assert found == pytest.approx(record["thresholds"])
    assert all(layer.two_sided for layer in named_fatrelus(model).values())
    (tmp_path / "dev" / "utt2dur").write_text("v1 1.0\n")
    words = ["--asr_exp", str(tmp_path / "naive"), "--out", str(tmp_path / "naive" / "dec")]
    words += ["--inference_args", "--ctc_weight 1.0 --beam_size 2", f"dev={tmp_path / 'dev'}"]
    decode.main(words)
    assert (tmp_path / "naive" / "dec" / "dev" / "text").is_file()


def naive_words(exp, folder):
    words = ["--asr_exp", str(exp), "--output_dir", str(folder / "naive"), "--sparsity", "0.3"]
    return [*words, "--train_dir", str(folder / "train")]
