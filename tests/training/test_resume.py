import argparse
import json
import logging

import pytest
import torch
import yaml

from espnet_spike.errors import UserError
from espnet_spike.experiment import CHECKPOINT, EPOCHS, PREVIOUS_CHECKPOINT
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.training import resume

CRITERIA = [("valid", "loss", "min")]
CONFIG = {
    "encoder": "transformer",
    "encoder_conf": {"output_size": 64},
    "max_epoch": 5,
    "patience": None,
    "ngpu": 0,
    "num_workers": 1,
    "log_interval": None,
    "use_wandb": False,
    "wandb_name": None,
}


def save(exp, number, losses, name=CHECKPOINT):
    """Write a checkpoint of epoch ``number`` as ESPnet does, with a model that tells its epoch."""
    stats = {e: {"valid": {"loss": losses[e - 1]}} for e in range(1, number + 1)}
    reporter = {"stats": stats, "epoch": number}
    model = {"weight": torch.full((50,), float(number))}
    torch.save({"model": model, "reporter": reporter, "optimizers": []}, exp / name)
    torch.save(model, exp / f"{number}epoch.pth")


@pytest.fixture
def exp(tmp_path):
    losses = [5.0, 4.0, 3.0]
    for number in (1, 2):
        save(tmp_path, number, losses)
    save(tmp_path, 2, losses, PREVIOUS_CHECKPOINT)
    save(tmp_path, 3, losses)
    (tmp_path / EPOCHS).write_text("{}\n")
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def epoch_of(path):
    return torch.load(path, weights_only=True)["reporter"]["epoch"]


def repair(exp, caplog, nbest=3):
    with caplog.at_level(logging.WARNING):
        resume.repair(exp, CRITERIA, nbest)
    return "\n".join(record.message for record in caplog.records)


def contents(exp):
    return {path.name: path.read_bytes() for path in exp.iterdir()}


def test_whole_files_are_left_alone(exp, caplog):
    before = contents(exp)
    assert repair(exp, caplog) == ""
    assert contents(exp) == before


@pytest.mark.parametrize("harm", [truncate, lambda path: path.unlink()])
def test_back_to_the_last_whole_epoch(exp, caplog, harm):
    harm(exp / CHECKPOINT)
    said = repair(exp, caplog)
    assert "going on from the last whole epoch, 2" in said
    assert epoch_of(exp / CHECKPOINT) == 2
    assert "UNSAFE" not in said.upper()


def test_no_whole_checkpoint_starts_again(exp, caplog):
    truncate(exp / CHECKPOINT)
    truncate(exp / PREVIOUS_CHECKPOINT)
    assert "the training starts again" in repair(exp, caplog)
    assert not (exp / CHECKPOINT).exists() and not (exp / EPOCHS).exists()


@pytest.mark.parametrize("harm", [truncate, lambda path: path.unlink()])
def test_the_newest_epoch_is_written_again(exp, caplog, harm):
    whole = torch.load(exp / "3epoch.pth", weights_only=True)
    harm(exp / "3epoch.pth")
    assert "written again" in repair(exp, caplog)
    assert torch.equal(torch.load(exp / "3epoch.pth", weights_only=True)["weight"], whole["weight"])


def test_an_older_epoch_is_left_out_of_the_average(exp, caplog):
    from espnet2.main_funcs.average_nbest_models import average_nbest_models
    from espnet2.train.reporter import Reporter

    truncate(exp / "2epoch.pth")
    (exp / "1epoch.pth").unlink()
    said = repair(exp, caplog)
    assert "epoch 2 is left out" in said and "1epoch.pth is missing" in said
    reporter = Reporter()
    reporter.load_state_dict(torch.load(exp / CHECKPOINT, weights_only=True)["reporter"])
    average_nbest_models(exp, reporter, CRITERIA, [3])
    averaged = torch.load(exp / "valid.loss.ave.pth", weights_only=True)
    assert averaged["weight"].eq(3.0).all()


def test_an_old_epoch_that_espnet_removed_is_no_fault(exp, caplog):
    (exp / "1epoch.pth").unlink()
    assert repair(exp, caplog, nbest=2) == ""


def test_a_fresh_folder(tmp_path, caplog):
    assert repair(tmp_path, caplog) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_yaml_file_that_was_cut_is_written_anew(tmp_path):
    config = {"max_epoch": 2, "optim": "adam", "optim_conf": {"lr": 0.1, "betas": [0.9, 0.98]}}
    path = resume.config_file(tmp_path)
    path.write_text("max_epoch: 2\n")
    assert resume.keep_config(tmp_path, config)
    kept, when = path.read_bytes(), path.stat().st_mtime_ns
    assert yaml.safe_load(kept) == config
    assert not resume.keep_config(tmp_path, config)
    assert path.stat().st_mtime_ns == when


@pytest.mark.parametrize(
    "change",
    [
        {"max_epoch": 50},
        {"patience": 3, "ngpu": 2, "num_workers": 4},
        {"log_interval": 10, "use_wandb": True, "wandb_name": "x"},
        {"encoder_conf": {"output_size": 64, "num_blocks": 6}},  # a default, spelt out
    ],
)
def test_what_may_change(exp, change):
    resume.record(exp, {}, CONFIG)
    resume.check_unchanged(exp, CONFIG | change, SpikeASRTask)


CYCLE = {"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": 0.1, "total_steps": 20}}


def test_a_cycle_may_become_longer_and_that_is_recorded(exp):
    epoch = {"epoch": 5, "train": {}, "valid": {}, "steps": 4, "applied": 4}
    (exp / EPOCHS).write_text(json.dumps(epoch) + "\n")
    resume.record(exp, CONFIG, CONFIG | CYCLE)
    longer = {"max_epoch": 9, "scheduler_conf": {"max_lr": 0.1, "total_steps": 36}}
    resume.check_unchanged(exp, CONFIG | CYCLE | longer, SpikeASRTask)
    resume.record(exp, CONFIG, CONFIG | CYCLE | longer)
    resume.record(exp, CONFIG, CONFIG | CYCLE | longer)
    recorded = json.loads((exp / "spike_config.json").read_text())
    assert recorded["lengthened"] == [{"epochs": 5, "before": 20, "after": 36}]
    for total, rate in ((20, 0.1), (40, 0.2)):  # shorter, or of another rate too
        other = {"scheduler_conf": {"max_lr": rate, "total_steps": total}}
        with pytest.raises(UserError, match="scheduler_conf"):
            resume.check_unchanged(exp, CONFIG | CYCLE | other, SpikeASRTask)
    # what it was begun with: its epochs are trained, so the longer cycle stays what it has
    for epochs, kept in ((5, 36), (6, 20)):
        args = argparse.Namespace(**CONFIG | CYCLE | {"max_epoch": epochs})
        resume.keep_cycle(exp, args)
        assert args.scheduler_conf == {"max_lr": 0.1, "total_steps": kept}


def test_what_may_not_change_is_listed_with_old_and_new(exp):
    resume.record(exp, {}, CONFIG)
    change = {"encoder_conf": {"output_size": 32, "num_blocks": 3}, "max_epoch": 9, "seed": 1}
    with pytest.raises(UserError) as info:
        resume.check_unchanged(exp, CONFIG | change, SpikeASRTask)
    text = str(info.value)
    assert "encoder_conf.output_size: 64 -> 32" in text
    assert "encoder_conf.num_blocks: 6 -> 3" in text  # 6 is the default
    assert "seed: (not set) -> 1" in text
    assert "max_epoch:" not in text
    assert "--asr_tag NEW" in text


def test_before_the_first_epoch_a_change_starts_again(tmp_path, caplog):
    resume.record(tmp_path, {}, CONFIG)
    with caplog.at_level(logging.WARNING):
        resume.check_unchanged(tmp_path, CONFIG | {"encoder": "conformer"}, SpikeASRTask)
    assert 'encoder: "transformer" -> "conformer"' in caplog.text


def test_a_folder_of_another_program_is_refused(exp):
    with pytest.raises(UserError, match="trained by another program"):
        resume.check_unchanged(exp, CONFIG, SpikeASRTask)
