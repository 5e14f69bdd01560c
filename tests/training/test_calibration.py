"""Calibration of thresholds and the sparsify stage."""

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
from espnet_spike.nn.layers.fatrelu import FATReLU, named_fatrelus
from espnet_spike.tasks.config import read_training_config
from espnet_spike.tasks.loading import build
from espnet_spike.training.calibration import (
    STATE,
    Calibration,
    Calibrator,
    collect_activations,
    finetuning_state,
    naive_thresholds,
    task_loss,
    violations,
)
from espnet_spike.training.sparsify import merge, read_part
from tests.helpers.features import write_features, write_tokens

STEPS = {"percentiles": (20, 50, 80)}


class Encoder(nn.Module):
    """Two points; ``wide`` matters to the loss only by its large values."""

    def __init__(self, **conf):
        super().__init__()
        self.narrow = FATReLU(T=0.0, learn=False, macs=1, **conf)
        self.wide = FATReLU(T=0.0, learn=False, macs=10, **conf)

    def auxiliary_losses(self):
        return {"extra": torch.tensor(5.0)}


class Model(nn.Module):
    """The loss an utterance is the mean of all it gets, less what the points take away."""

    def __init__(self, **conf):
        super().__init__()
        self.encoder = Encoder(**conf)
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, speech, speech_lengths):
        mask = torch.arange(speech.shape[1]) < speech_lengths[:, None]
        lost = 0.0
        for layer, weight in ((self.encoder.narrow, 1.0), (self.encoder.wide, 0.005)):
            y = layer(speech, mask)
            want = speech if layer.two_sided else speech.clamp(min=0)
            lost = lost + weight * ((want - y).abs() * mask[..., None]).sum() / mask.sum()
        loss = 1.0 + self.weight * lost + 5.0
        return loss, {}, torch.tensor(len(speech))


def batches():
    g = torch.Generator().manual_seed(0)
    return [
        {
            "speech": torch.randn(size, 40, 3, generator=g),
            "speech_lengths": torch.tensor([40] + [25] * (size - 1)),
        }
        for size in (3, 2, 4)
    ]


def calibrator(folder, key="k", **conf):
    return Calibrator(Model(), batches, Calibration(**STEPS | conf), folder, key)


def test_thresholds_rise_until_the_loss_does(tmp_path):
    search = calibrator(tmp_path)
    thresholds = search.run()
    state = search.state
    assert state["base_loss"] == pytest.approx(1.0)
    assert 1 < state["final_ratio"] < 1.05
    # what costs little goes further; the point with more operations is tried first
    assert thresholds["encoder.wide"] > thresholds["encoder.narrow"]
    order = [step["point"] for step in state["log"] if step["percentile"] == 20]
    assert order == ["encoder.wide", "encoder.narrow"]
    assert state["frozen"]
    # each point's thresholds rise, a frozen one never changes again
    assert violations(state["log"], thresholds, 1.05) == []
    assert {step["point"] for step in state["log"] if not step["accepted"]} == set(state["frozen"])
    assert state == json.loads((tmp_path / STATE).read_text())


def step(point, T, ratio=1.01, accepted=True):
    return {"percentile": 20, "point": point, "T": T, "ratio": ratio, "accepted": accepted}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ([step("a", 0.1, ratio=1.2)], "a at 20 %: ratio 1.2"),
        ([step("a", 0.1, accepted=False)], "a at 20 %: ratio 1.01"),
        ([step("a", 0.2), step("a", 0.1)], "the threshold of a fell to 0.1"),
        ([step("a", 0.1, 1.2, False), step("a", 0.2)], "a was frozen and tried again"),
        ([step("a", 0.1)], "a has not the T of the log"),
    ],
)
def test_what_a_search_must_not_do(log, said):
    assert said in violations(log, {"a": 0.3}, 1.05)
    fine = [step("all", None), step("a", 0.2), step("a", 0.3), step("a", 0.4, 1.2, False)]
    assert violations(fine, {"a": 0.3}, 1.05) == []


def test_first_thresholds_and_percentiles(tmp_path):
    model = Model()
    layers = named_fatrelus(model)
    values, costs = collect_activations(model, layers, batches(), 10**6)
    positive = torch.cat(
        [b["speech"][torch.arange(40) < b["speech_lengths"][:, None]].flatten() for b in batches()]
    )
    positive = positive[positive > 0].sort().values
    assert torch.equal(values["encoder.wide"], positive)
    assert costs["encoder.wide"] == 10 * costs["encoder.narrow"]
    search = calibrator(tmp_path, loss_factor=1e9)
    thresholds = search.run()
    expected = float(positive[int(0.8 * len(positive))])
    assert thresholds == {"encoder.narrow": expected, "encoder.wide": expected}
    assert not search.state["frozen"]
    # thinning keeps both ends and the shape
    thin, _ = collect_activations(model, layers, batches(), 60)
    assert len(thin["encoder.wide"]) <= 60
    assert thin["encoder.wide"].median() == pytest.approx(float(positive.median()), rel=0.2)


def test_interrupted_search_goes_on(tmp_path, monkeypatch):
    whole = calibrator(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    thresholds = whole.run()
    for trials in range(1, 6):
        search, left = calibrator(tmp_path / "cut"), trials
        original = search._try

        def stop_after(*args, original=original):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            original(*args)

        monkeypatch.setattr(search, "_try", stop_after)
        try:
            assert search.run() == thresholds
        except KeyboardInterrupt:
            continue
        break
    assert search.state == whole.state
    other = calibrator(tmp_path / "cut", key="another model")
    assert other.state["done"] == 0


def test_calibration_refuses(tmp_path):
    with pytest.raises(UserError, match="no FATReLU point"):
        Calibrator(nn.Linear(1, 1), batches, Calibration(), tmp_path, "k")
    model = Model()
    model.encoder.wide.set_T(0.5)
    with pytest.raises(UserError, match="thresholds already"):
        Calibrator(model, batches, Calibration(), tmp_path, "k")
    with pytest.raises(UserError, match="already raise the loss"):
        calibrator(tmp_path, loss_factor=1.0000001).run()
    for wrong in ({"loss_factor": 1.0}, {"percentiles": (5, 20)}, {"utterances": 0}):
        with pytest.raises(ValueError):
            Calibration(**wrong)


def test_task_loss_stops_early_and_leaves_auxiliary_losses_out():
    model = Model()
    assert task_loss(model, batches()) == pytest.approx(1.0)
    model.encoder.narrow.set_T(10.0)
    full = task_loss(model, batches())
    bound = task_loss(model, batches(), enough=0.1)
    assert 0.1 < bound < full


def test_finetuning_state():
    state = {"encoder.f.fixed_T": torch.tensor(0.0), "encoder.g.fixed_T": torch.tensor(0.0),
             "w": torch.ones(2)}  # fmt: skip
    new = finetuning_state(state, {"encoder.f": 0.4})
    layer = FATReLU(T=0.1)
    layer.load_state_dict({"tau": new["encoder.f.tau"], "T_init": new["encoder.f.T_init"]})
    torch.testing.assert_close(layer.T, torch.tensor(0.4))
    assert set(new) == {"w", *(f"encoder.{p}.{k}" for p in "fg" for k in ("tau", "T_init"))}
    assert new["encoder.g.T_init"] == torch.tensor(1e-3)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_naive_thresholds_reach_the_share(share):
    model = Model(two_sided=True)
    thresholds, reached = naive_thresholds(model, batches, share)
    assert reached == pytest.approx(share, abs=0.005)
    zeros = 0.0
    for batch in batches():
        mask = torch.arange(40) < batch["speech_lengths"][:, None]
        zeros += float((batch["speech"][mask].abs() < thresholds["encoder.wide"]).double().mean())
    assert zeros / 3 == pytest.approx(share, abs=0.006)


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
        ({"loss_factor": 0.9}, "must be above 1"),
        ("yes", "must be a mapping"),
        ({"finetune": 3}, "finetune must be a mapping"),
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
    "decoder": "transformer",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "linear_units": 16},
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
    assert len(thresholds) == 7  # F1 to F7, no feed-forward module
    assert all(T > 0 for T in thresholds.values())
    assert not (sparse / "config.yaml").exists()
    caplog.set_level("INFO")
    command.main(words)
    assert "already calibrated" in caplog.text
    assert len(read_epochs(sparse)) == 1
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
    assert record["loss_sparsity_threshold"] > 0
    # a YAML without the part asks for nothing
    config.write_text(yaml.safe_dump({k: v for k, v in CONFIG.items() if k != "spike_meta"}))
    command.main([*words[:-1], str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
    # the baseline without training
    with pytest.raises(UserError, match="only speech_mamba"):
        naive_sparse.main(naive_words(exp, tmp_path))
    dense = CONFIG | {"encoder": "speech_mamba", "max_epoch": 1}
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
