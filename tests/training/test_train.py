"""Training through ESPnet on a few synthetic utterances, and every way in which it can go wrong."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import yaml

from espnet_spike.bin import asr_train
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    SNAPSHOT,
    best_checkpoint,
    read_epochs,
)
from espnet_spike.training import train as train_module
from espnet_spike.training.judge import finish, judge
from espnet_spike.training.request import asr_request
from espnet_spike.training.train import check, prepare
from espnet_spike.training.train import run as run_espnet
from espnet_spike.utils.cli import run
from espnet_spike.utils.files import read_table
from tests.helpers.tiny_training import (
    CONFIG,
    poison,
    same,
    stats,
    train,
    train_words,
    weights,
    write_config,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_a_training_leaves(data, capsys):
    exp = data / "exp"
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert "spike_meta" not in config and config["model"] == "spike_asr"
    assert best_checkpoint(exp).name == "valid.cer_ctc.ave.pth"
    epochs = read_epochs(exp)
    assert [e["epoch"] for e in epochs] == [1, 2]
    assert all(e["applied"] == e["steps"] == 2 and e["parameters_moved"] for e in epochs)
    assert (exp / "dropped.txt").read_text() == ""
    assert "2epoch results" in (exp / "train.log").read_text()


def test_a_finished_training_returns_at_once(work, data, monkeypatch):
    exp = train(work)
    before = {path.name: path.stat().st_mtime_ns for path in exp.iterdir()}
    monkeypatch.setattr("espnet_spike.training.train.check", None)
    train(work)
    assert {path.name: path.stat().st_mtime_ns for path in exp.iterdir()} == before
    assert same(weights(exp / "2epoch.pth"), weights(data / "exp" / "2epoch.pth"))


@pytest.mark.parametrize(
    ("scheduler", "conf"),  # those that configurations of ours have
    [
        ("onecyclelr", {"max_lr": 0.01, "total_steps": 4, "pct_start": 0.5}),
        ("warmuplr", {"warmup_steps": 3}),
    ],
)
def test_a_finished_training_goes_on_for_more_epochs(work, scheduler, conf, capfd):
    change = {"scheduler": scheduler, "scheduler_conf": conf, "num_iters_per_epoch": 2}
    write_config(work, **change)
    assert len(read_epochs(train(work, exp="exp_resumed"))) == 2
    capfd.readouterr()
    resumed = train(work, "--max_epoch 4", exp="exp_resumed")
    said = "8 updates in place of 4: after 4 of them" in capfd.readouterr().out
    assert said == (scheduler == "onecyclelr")
    fresh = train(work, "--max_epoch 4", exp="exp_fresh")
    rates = {
        exp.name: [epoch["train"]["optim0_lr0"] for epoch in read_epochs(exp)]
        for exp in (resumed, fresh)
    }
    assert len(rates["exp_resumed"]) == 4
    # from there on it is the schedule of the longer training
    assert rates["exp_resumed"][2:] == pytest.approx(rates["exp_fresh"][2:])
    lengthened = json.loads((resumed / SNAPSHOT).read_text()).get("lengthened")
    cycle = [{"epochs": 2, "before": 4, "after": 8}]
    assert lengthened == (cycle if scheduler == "onecyclelr" else None)
    # the command that it was begun with has nothing left to do, and changes nothing of the model
    model = weights(best_checkpoint(resumed))
    for _ in range(2):
        again = train(work, exp="exp_resumed")
        assert len(read_epochs(again)) == 4 and same(weights(best_checkpoint(again)), model)
    assert json.loads((resumed / SNAPSHOT).read_text()).get("lengthened") == lengthened


def break_file(path, how):
    """Delete a file, or cut it; a YAML file after a line, so that it can still be read."""
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        kept = content[: len(content) * 2 // 3]
        path.write_bytes(kept[: kept.rindex(b"\n") + 1] if path.suffix == ".yaml" else kept)


# what ESPnet makes anew, from the epochs, and what we do
@pytest.mark.parametrize(
    "names",
    [
        ["config.yaml", "valid.cer_ctc.ave_2best.pth", "spike_finished.json"],
        ["features.yaml", "spike_config.json", "train_config.yaml", "dropped.txt"],
        ["shapes/train/speech_shape", "shapes/valid/text_shape"],
    ],
    ids=lambda names: names[0],
)
def test_a_finished_training_makes_anew_what_it_has_lost(work, names):
    FeatureExtractor(16000, FbankConfig()).write(work / "train")
    FeatureExtractor(16000, FbankConfig()).write(work / "dev")
    exp = train(work)
    model = weights(best_checkpoint(exp))
    for name in names:
        kept = (exp / name).read_bytes()
        for how in ("delete", "cut"):
            if not kept and how == "cut":
                continue
            break_file(exp / name, how)
            assert train(work) == exp
            if name.endswith(".pth"):
                assert same(weights(best_checkpoint(exp)), model)
            else:
                assert (exp / name).read_bytes() == kept, (name, how)


def test_a_finished_training_puts_back_what_others_of_its_files_tell(work):
    exp = train(work)
    made = {path.name: path.read_bytes() for path in exp.glob("*.pth")}
    epoch = weights(exp / "2epoch.pth")
    break_file(exp / "2epoch.pth", "cut")
    for name in ("latest.pth", "valid.acc.best.pth", "valid.acc.ave.pth"):
        (exp / name).unlink()
    break_file(exp / "valid.acc.ave_2best.pth", "cut")  # averaged anew: it is not what is decoded
    train(work)
    assert {path.name for path in exp.glob("*.pth")} == made.keys()
    assert same(weights(exp / "2epoch.pth"), epoch) and (exp / "latest.pth").is_symlink()
    average = "valid.acc.ave_2best.pth"
    assert (exp / average).read_bytes() == made[average]


@pytest.mark.parametrize("extra", ["", "--max_epoch 3"])
def test_a_finished_training_says_what_only_a_new_one_makes_again(work, extra):
    """Nothing begins again by itself, and no average is made of fewer epochs."""
    exp = train(work)
    (exp / PREVIOUS_CHECKPOINT).unlink()  # with it the last epoch is trained again
    for name in ("1epoch.pth", CHECKPOINT, "epochs.jsonl"):
        kept = (exp / name).read_bytes()
        for how in ("delete", "cut"):
            break_file(exp / name, how)
            before = {path.name: path.read_bytes() for path in exp.iterdir() if path.is_file()}
            with pytest.raises(UserError, match=name) as error:
                train(work, extra)
            assert "rm -r" in error.value.hint and "valid.cer_ctc.ave.pth" in error.value.hint
            found = {path.name: path.read_bytes() for path in exp.iterdir() if path.is_file()}
            assert found == before
            (exp / name).write_bytes(kept)
    # who wants to do without says so, of the checkpoint too
    record = json.loads((exp / "spike_finished.json").read_text())
    for name in ("1epoch.pth", CHECKPOINT):
        (exp / name).unlink()
        del record["made"][name]
        (exp / "spike_finished.json").write_text(json.dumps(record))
        train(work)
    (exp / "2epoch.pth").unlink()
    with pytest.raises(UserError, match=r"2epoch\.pth is missing"):  # nothing to write it from
        train(work)


@pytest.mark.parametrize("made", [{"../mine.pth": "2epoch.pth"}, {"latest.pth": "../mine.pth"}])
def test_a_record_names_files_of_its_own_folder_alone(work, made):
    exp = train(work)
    mine = exp.parent / "mine.pth"
    mine.write_text("not a model")
    record = json.loads((exp / "spike_finished.json").read_text())
    (exp / "spike_finished.json").write_text(json.dumps(record | {"made": made}))
    with pytest.raises(UserError, match=r"spike_finished\.json: made: '\.\./mine\.pth'"):
        train(work)
    assert mine.read_text() == "not a model" and not mine.is_symlink()


def test_a_scan_of_the_worst_batches_changes_nothing(work, data):
    """The training has dropout, so random numbers must be as before, too."""
    write_config(work, spike_meta={"scan_batches": True})
    exp = train(work)
    assert "worst batches fit into memory" in (exp / "train.log").read_text()
    assert same(weights(exp / "2epoch.pth"), weights(data / "exp" / "2epoch.pth"))


def test_mixed_precision_on_a_cpu_is_no_silent_fp32(work, data):
    write_config(work, use_amp=True, spike_meta={"scan_batches": True})
    exp = train(work)
    epochs, exact = read_epochs(exp), read_epochs(data / "exp")
    assert all(e["applied"] == e["steps"] == 2 for e in epochs)
    losses = [[e["train"]["loss"] for e in found] for found in (epochs, exact)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["use_amp"] and config["amp_dtype"] is None


def test_lists_read_in_parts_train_on_every_utterance(work):
    write_config(work, spike_meta={"scan_batches": True})
    words = ["--num_splits", "2", "--asr_args", "--max_epoch 2"]
    exp = train(work, more=words)
    log = (exp / "train.log").read_text()
    assert "Building 1th iter-factory" in log and "the 2 worst batches fit" in log
    assert [e["batches"] for e in read_epochs(exp)] == [2, 2]
    parts = [read_table(exp / "splits/text" / f"split.{n}") for n in range(2)]
    assert parts[0] | parts[1] == read_table(work / "train/text") and len(parts[0]) == 3
    with pytest.raises(UserError, match="multiple_iterator: true -> false"):
        train(work, "--max_epoch 3")


def test_a_batch_that_does_not_fit_is_named_before_the_first_update(work, monkeypatch):
    from espnet_spike.tasks.model import SpikeASRModel

    whole = SpikeASRModel.forward

    def forward(self, speech, *args, **kwargs):
        if len(speech) == 3:
            torch.empty(1 << 50)  # torch's own error
        return whole(self, speech, *args, **kwargs)

    monkeypatch.setattr(SpikeASRModel, "forward", forward)
    with pytest.raises(
        UserError, match=r"batch of 3 utterances .*speech \(3, 60, 80\).* u3 "
    ) as info:
        write_config(work, spike_meta={"scan_batches": True})
        train(work)
    assert "lower batch_bins" in info.value.hint and "accum_grad" in info.value.hint
    assert not (work / "exp" / CHECKPOINT).exists()
    write_config(work)
    with pytest.raises(UserError, match="can't allocate memory") as info:
        train(work)  # without a scan the cure is named, too
    assert "lower batch_bins" in info.value.hint


def test_more_epochs_go_on_in_the_same_folder(work, capfd):
    whole = train(work, "--max_epoch 4", exp="whole")
    exp = train(work)
    capfd.readouterr()
    assert train(work, "--max_epoch 4 --log_interval 1") == exp
    shown = capfd.readouterr().out
    assert "epoch 3/4" in shown and "epoch 2/4" not in shown and "ETA" in shown
    assert [e["epoch"] for e in read_epochs(exp)] == [1, 2, 3, 4]
    assert same(weights(exp / "4epoch.pth"), weights(whole / "4epoch.pth"))


def test_a_changed_configuration_is_refused_and_harms_nothing(work):
    exp = train(work)
    before = {path.name: path.read_bytes() for path in exp.iterdir() if path.is_file()}
    with pytest.raises(UserError) as info:
        train(work, "--encoder_conf linear_units=64 --max_epoch 9 --optim_conf lr=0.1")
    text = str(info.value)
    assert "encoder_conf.linear_units: 32 -> 64" in text and "optim_conf.lr: 0.002 -> 0.1" in text
    assert "max_epoch:" not in text and "--asr_tag NEW" in text
    assert {path.name: path.read_bytes() for path in exp.iterdir() if path.is_file()} == before
    # a default that is spelt out is no change
    train(work, "--encoder_conf normalize_before=true --max_epoch 3")
    (work / "tokens.txt").write_text((work / "tokens.txt").read_text().replace("\na\n", "\nd\n"))
    with pytest.raises(UserError, match=r'token_list .content.: "sha256'):
        train(work)


@pytest.mark.parametrize(("part", "folder"), [("train", "train"), ("valid", "dev")])
def test_changed_transcripts_are_refused_although_the_training_is_finished(work, part, folder):
    exp = train(work)
    before = (exp / "2epoch.pth").read_bytes()
    text = work / folder / "text"
    lines = text.read_text().splitlines()
    text.write_text("\n".join([*lines[:-1], lines[-1].split()[0] + " ab"]) + "\n")
    with pytest.raises(UserError, match=rf'data: {part} text .content.: "sha256') as info:
        train(work)
    assert "--asr_tag NEW" in info.value.hint
    assert (exp / "2epoch.pth").read_bytes() == before
    text.write_text("\n".join(lines) + "\n")
    train(work)


def test_features_of_another_kind_are_refused(work):
    FeatureExtractor(16000, FbankConfig()).write(work / "train")
    train(work)
    FeatureExtractor(16000, FbankConfig(mel_floor=128.0)).write(work / "train")
    with pytest.raises(UserError, match="data: features"):
        train(work)


def test_experiments_that_do_not_tell_their_data_go_on(work):
    exp = train(work)
    record = json.loads((exp / SNAPSHOT).read_text())
    told = {key for key in record["config"] if key.startswith("data: ")}
    assert len(told) == 4
    record["config"] = {k: v for k, v in record["config"].items() if k not in told}
    (exp / SNAPSHOT).write_text(json.dumps(record))
    train(work, "--max_epoch 3")
    assert told <= json.loads((exp / SNAPSHOT).read_text())["config"].keys()


def test_a_truncated_checkpoint_goes_back_an_epoch(work, data, caplog):
    exp = train(work)
    for name in (CHECKPOINT, "2epoch.pth"):
        (exp / name).write_bytes((exp / name).read_bytes()[:5000])
    train(work, "--patience 9")
    assert "going on from the last whole epoch, 1" in caplog.text
    assert same(weights(exp / "2epoch.pth"), weights(data / "exp" / "2epoch.pth"))


def test_a_criterion_that_nothing_reports_ends_a_training_before_it_learns(work):
    with pytest.raises(UserError, match="best_model_criterion: valid cer_ctcc: not reported"):
        train(work, "--best_model_criterion valid,cer_ctcc,min")
    assert not list((work / "exp").glob("*epoch.pth"))
    shutil.rmtree(work / "exp")
    wrong = "--early_stopping_criterion valid losss min"
    exp = train(work, wrong)  # which nobody asks for yet
    with pytest.raises(UserError, match="early_stopping_criterion: valid losss: not reported"):
        train(work, f"{wrong} --patience 1 --max_epoch 6")
    assert len(read_epochs(exp)) == 2


def test_killed_training_resumes(work):
    whole = train(work, "--max_epoch 6", exp="whole")
    child = start(work, "--max_epoch 6", wait_for_epochs=2)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    done = len(read_epochs(work / "exp"))
    assert 2 <= done < 6
    exp = train(work, "--max_epoch 6")
    assert len(read_epochs(exp)) == 6
    assert same(weights(exp / "6epoch.pth"), weights(whole / "6epoch.pth"))


def test_ctrl_c_leaves_with_130_and_resumes(work):
    child = start(work, "--max_epoch 500", wait_for_epochs=1)
    os.kill(child.pid, signal.SIGINT)
    child.join(30)
    assert child.exitcode == 130
    done = len(read_epochs(work / "exp"))
    train(work, f"--max_epoch {done + 1}")
    assert read_epochs(work / "exp")[-1]["epoch"] == done + 1


def start(work, extra, wait_for_epochs):
    """Train in a forked process and return it when that many epochs are finished."""
    context = multiprocessing.get_context("fork")
    child = context.Process(target=run, args=(lambda argv: train(work, extra),))
    child.start()
    deadline = time.monotonic() + 60
    while len(read_epochs(work / "exp")) < wait_for_epochs:
        assert child.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    return child


@pytest.mark.parametrize(
    ("extra", "cause"),
    [
        ("--optim_conf lr=1.0e-50", "no parameter changed"),
        ("--optim_conf lr=1.0e-14", "did not move|no parameter changed"),
        ("--optim_conf lr=1000000.0", "is not finite|no update was applied"),
        ("--accum_grad 10", "accum_grad is larger than the number of batches"),
        ("--freeze_param encoder decoder ctc", "no parameter is left to train"),
    ],
)
def test_nothing_learnt_is_an_error_each_time(work, extra, cause):
    for _ in range(2):
        with pytest.raises(UserError, match=cause):
            train(work, extra)


def test_a_bad_frame_is_named_by_the_training(work):
    poison(work / "train", "u4")
    with pytest.raises(UserError, match=r"u4: .* holds values that are not finite"):
        train(work)  # the statistics are of before
    found = dict(np.load(work / "stats" / "train" / "feats_stats.npz"))
    found["sum"][0] = np.nan
    np.savez(work / "stats" / "train" / "feats_stats.npz", **found)
    shutil.rmtree(work / "exp")
    with pytest.raises(UserError, match=r"u4.*not finite"):
        train(work)
    assert not (work / "exp" / "train.log").exists()


def test_a_truncated_ark_is_named_by_statistics_and_training(work):
    ark = work / "train" / "data" / "feats.1.ark"
    ark.write_bytes(ark.read_bytes()[:-100])
    for step in (train, stats):
        with pytest.raises(UserError, match=r"u5: .*truncated or damaged ark"):
            step(work)


def test_firing_rates_are_in_log_and_tensorboard(work):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_config(work, encoder="iml_spikeformer", use_tensorboard=True)
    exp = train(work, "--max_epoch 1")
    events = EventAccumulator(str(exp / "tensorboard" / "valid")).Reload()
    tags = set(events.Tags()["scalars"])
    rates = {key for key in read_epochs(exp)[0]["valid"] if key.startswith("firing_rate_")}
    assert rates and rates | {"firing_rate"} <= tags
    log = (exp / "train.log").read_text()
    assert all(f"{rate}=" in log for rate in rates)


def test_short_utterances_are_dropped_counted_and_listed(work, caplog):
    for file, shape in (("speech_shape", "u2 7,80"), ("text_shape.char", "u2 4,7")):
        path = work / "stats" / "train" / file
        lines = [shape if line.startswith("u2") else line for line in path.read_text().split("\n")]
        path.write_text("\n".join(lines))
    exp = train(work)
    listed = (exp / "dropped.txt").read_text()
    assert listed == "train u2 1 encoder frame, CTC needs 4\n"
    assert "train: 1 utterance dropped as too short" in caplog.text
    assert "u2" not in (exp / "shapes" / "train" / "speech_shape").read_text()


def test_no_utterance_left(work):
    path = work / "stats" / "valid" / "speech_shape"
    path.write_text("v1 6,80\nv2 5,80\n")
    with pytest.raises(UserError, match=r"no utterance .* long enough.*v1"):
        train(work)


def test_early_stopping_is_a_good_end(work):
    best = "--early_stopping_criterion valid cer_ctc max --patience 0 --max_epoch 50"
    exp = train(work, best)
    done = len(read_epochs(exp))
    assert done < 50
    train(work, best)
    assert len(read_epochs(exp)) == done


def test_an_unfinished_training_is_an_error(work, monkeypatch):
    from espnet_spike.tasks.trainer import SpikeTrainer

    whole = SpikeTrainer.train_one_epoch.__func__

    def stop_in_the_second(cls, **kwargs):
        return whole(cls, **kwargs) or kwargs["reporter"].get_epoch() == 2

    monkeypatch.setattr(SpikeTrainer, "train_one_epoch", classmethod(stop_in_the_second))
    with pytest.raises(UserError, match="ended after 2 of 4 epochs"):
        train(work, "--max_epoch 4")


@pytest.mark.parametrize(
    ("encoder", "conf"),
    [
        ("iml_spikeformer", CONFIG["encoder_conf"]),
        ("conformer", CONFIG["encoder_conf"]),
        ("rnn", {"num_layers": 1, "hidden_size": 8, "output_size": 8, "subsample": [2]}),
    ],
)
def test_other_encoders_and_statistics_over_the_corpus(work, encoder, conf):
    change = {"encoder": encoder, "encoder_conf": conf, "normalize": "global_mvn"}
    write_config(work, **change, model_conf=..., batch_type="sorted")  # the RNN wants that
    exp = train(work, "--model_conf ctc_weight=1.0 --max_epoch 1")
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["normalize_conf"]["stats_file"] == "work/stats/train/feats_stats.npz"
    record = read_epochs(exp)[0]
    assert ("firing_rate" in record["valid"]) == (encoder == "iml_spikeformer")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda w: (w / "tokens.txt").unlink(), "no such token list"),
        (lambda w: (w / "train" / "feats.scp").unlink(), "missing: .*feats.scp"),
        (lambda w: shutil.rmtree(w / "stats"), "run the stats stage"),
        (lambda w: (w / "c.yaml").unlink(), "no such configuration file"),
        (lambda w: write_config(w, encodr="x"), "did you mean 'encoder'"),
        (lambda w: write_config(w, frontend="default"), "takes audio"),
    ],
)
def test_what_is_missing_is_named(work, harm, message):
    harm(work)
    with pytest.raises(UserError, match=message):
        train(work)


def test_gpus_are_counted(work, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match="--ngpu 4, but 1 GPU seen"):
        train(work, "--ngpu 4")


def test_disk_space_is_checked(work, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="GB free, training needs about"):
        train(work)


def test_the_record_is_plain_json(data):
    for line in (data / "exp" / "epochs.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_check_writes_nothing(work):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    args, model = check(request(work))
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
    assert (args.output_dir, args.input_size, args.max_epoch) == ("work/exp", 80, 2)
    assert next(model.parameters()).is_meta


def test_the_steps_one_by_one_make_the_same_training(work, data):
    asked = request(work)
    args, model = check(asked)
    prepare(asked, args, model)
    assert not (work / "exp" / CHECKPOINT).exists()
    run_espnet(asked.data.task, args, 0)
    judge(asked.exp_dir)
    best = finish(asked.exp_dir, asked.digest)
    assert same(weights(best), weights(data / "exp" / best.name))
    assert train(work) == best.parent  # known as finished


def test_only_the_first_process_prepares_and_judges(work, monkeypatch):
    """The second trains where the first has prepared, and has a log of its own."""
    asked = request(work, "--dist_launcher", "mpi", "--dist_world_size", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    calls = []
    monkeypatch.setattr(train_module, "run", lambda task, args, number: calls.append(number))
    monkeypatch.setattr(train_module, "prepare", None)
    monkeypatch.setattr(train_module, "judge", None)
    assert train_module.train(asked) is None and calls == [1]
    assert not (work / "exp").exists()


def request(folder, *more):
    words = [*train_words(folder, "exp"), *more]
    return asr_request(vars(asr_train.get_parser().parse_args(words)))
