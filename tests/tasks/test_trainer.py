"""What is recorded of an epoch beside what ESPnet tells."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from espnet2.train import trainer as espnet_trainer
from espnet2.train.reporter import Average, Reporter
from torch import nn

from espnet_spike.errors import UserError
from espnet_spike.tasks import trainer
from espnet_spike.tasks.trainer import SpikeTrainer


class Model(nn.Module):
    """Its loss is the sum of the input times one weight; the text it is given is spoilt."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, speech, text, utt_id):
        loss = self.weight * speech.sum() * (3 if self.training else 1)
        text.fill_(-1)
        return loss, {}, 1


BATCHES = [
    (["a"], {"speech": torch.tensor([1.0, 4.0]), "text": torch.tensor([3])}),
    (["b"], {"speech": torch.tensor([7.0]), "text": torch.tensor([4])}),
]


def test_the_first_batch_is_measured_again_in_evaluation_mode():
    model = Model()
    probe = trainer._Probe(BATCHES, model, active=True)
    assert [utts for utts, _ in probe] == [["a"], ["b"]] and len(probe) == 2
    assert probe.loss_before == 10.0
    with torch.no_grad():
        model.weight.fill_(1.0)
    assert probe.loss_now() == 5.0 and model.training
    assert probe.batch["text"].item() == 3 == BATCHES[0][1]["text"].item()
    with torch.no_grad():
        model.weight.fill_(math.nan)
    assert probe.loss_now() is None


def test_later_epochs_are_not_probed():
    probe = trainer._Probe(BATCHES, Model(), active=False)
    list(probe)
    assert probe.loss_before is None and probe.loss_now() is None


def options(best=(("valid", "cer_ctc", "min"),), patience=None):
    return SimpleNamespace(
        best_model_criterion=best,
        patience=patience,
        early_stopping_criterion=("valid", "los", "min"),
        val_scheduler_criterion=("train", "acccc"),
    )


REPORTED = {"loss": 1.0, "cer_ctc": 0.5, "acc": None, "firing_rate_a": 0.1}


def test_a_statistic_that_no_model_reports_is_told_before_anything_is_learnt():
    found = trainer._Criteria(options([("valid", "cer_ctcc", "min")]), [])
    probe = trainer._Probe(BATCHES, Model(), active=True, look=found.check_valid)
    with pytest.raises(UserError, match="best_model_criterion: valid cer_ctcc: not reported"):
        next(iter(probe))
    with pytest.raises(UserError, match="did you mean 'cer_ctc'") as info:
        found.check_valid(REPORTED)
    assert info.value.hint == "name one of loss, cer_ctc"
    found.check("train", REPORTED)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(_cycle(9).optimizer)
    found = trainer._Criteria(options(patience=3), [plateau])
    with pytest.raises(UserError, match=r"early_stopping_criterion: valid los: .* 'loss'"):
        found.check_valid(REPORTED)
    with pytest.raises(UserError, match="val_scheduler_criterion: train acccc: not reported"):
        found.check("train", REPORTED)
    trainer._Criteria(options(), [_cycle(9)]).check_valid(REPORTED)


def test_of_several_statistics_those_of_another_kind_of_model_may_be_absent():
    acc, wer, loss = (("valid", key, "min") for key in ("acc", "wer", "loss"))
    trainer._Criteria(options([acc, loss]), []).check_valid(REPORTED)
    trainer._Criteria(options([acc, ("train", "loss", "min")]), []).check_valid(REPORTED)
    with pytest.raises(UserError, match="best_model_criterion: valid acc: not reported"):
        trainer._Criteria(options([acc, wer]), []).check_valid(REPORTED)
    with pytest.raises(UserError, match="valid losss: not reported"):
        trainer._Criteria(options([loss, ("valid", "losss", "min")]), []).check_valid(REPORTED)


def test_the_fingerprint_tells_whether_a_trainable_parameter_moved():
    model = Model()
    before = trainer._fingerprint(model)
    with torch.no_grad():
        model.frozen.add_(1)
    assert trainer._fingerprint(model) == before
    with torch.no_grad():
        model.weight.neg_()
    assert trainer._fingerprint(model) != before


def test_means_are_weighted_and_what_is_not_finite_is_none():
    stats = {"loss": [Average(1.0), Average(4.0)], "acc": [Average(math.inf)]}
    assert trainer._means(SimpleNamespace(stats=stats)) == {"loss": 2.5, "acc": None}


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_an_epoch_is_a_line_and_the_last_checkpoint_is_set_aside(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(SpikeTrainer, "_current", {"epoch": 1, "start": 0.0, "train": {}})
    (tmp_path / "checkpoint.pth").write_bytes(b"whole")
    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as sub:
        monkeypatch.setattr(
            trainer.Trainer, "validate_one_epoch", lambda **_: sub.register({"loss": 0.5})
        )
        SpikeTrainer.validate_one_epoch(
            model=Model(),
            iterator=[],
            reporter=sub,
            options=SimpleNamespace(output_dir=tmp_path, ngpu=0),
            distributed_option=SimpleNamespace(distributed=rank is not None, dist_rank=rank),
        )
        sub.next()
    if rank == 1:  # the first process alone writes
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
        return
    (line,) = (tmp_path / "epochs.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["valid"] == {"loss": 0.5} and record["seconds"] == record["end"] > 0
    assert not (tmp_path / "checkpoint.pth").exists()
    assert (tmp_path / trainer.PREVIOUS_CHECKPOINT).read_bytes() == b"whole"


def _cycle(total):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.1)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, pct_start=0.2)


def _take(scheduler, steps):
    rates = []
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    return rates


@pytest.mark.parametrize("done", [4, 10])
def test_a_finished_or_unfinished_cycle_goes_on_as_a_longer_one(tmp_path, caplog, done):
    """torch puts the old length back, and raises at the step after it."""
    model, reporter = Model(), Reporter()
    short, longer, fresh = _cycle(10), _cycle(25), _cycle(25)
    _take(short, done)
    expected = _take(fresh, 25)
    states = {"model": model.state_dict(), "reporter": reporter.state_dict(), "scaler": None}
    states["optimizers"] = [short.optimizer.state_dict()]
    states["schedulers"] = [short.state_dict()]
    torch.save(states, tmp_path / "checkpoint.pth")
    SpikeTrainer.resume(
        tmp_path / "checkpoint.pth",
        model=model,
        reporter=reporter,
        optimizers=[longer.optimizer],
        schedulers=[longer],
        scaler=None,
    )
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(expected[done - 1])
    assert _take(longer, 25 - done) == pytest.approx(expected[done:])
    assert f"25 updates in place of 10: after {done} of them" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "device", "computes"),
    [(None, "cpu", torch.bfloat16), ("bfloat16", "cpu", torch.bfloat16), ("float16", "cuda", None)],
)
def test_mixed_precision_is_that_of_device_and_option(dtype, device, computes):
    before = dict(vars(espnet_trainer))
    x = torch.ones(2, 2)
    with trainer.mixed_precision(device, dtype):
        conf: dict[str, Any] = espnet_trainer.autocast_args
        assert conf["dtype"] == (computes or torch.float16)
        if device == "cpu":
            with espnet_trainer.autocast("cuda", enabled=True, **conf):
                assert (x @ x).dtype == computes
            with espnet_trainer.autocast("cuda", enabled=False, **conf):
                assert (x @ x).dtype == torch.float32
            assert not espnet_trainer.GradScaler().is_enabled()
        else:
            assert espnet_trainer.autocast is before["autocast"]
    assert vars(espnet_trainer) == before


def test_a_batch_is_looked_at_before_it_goes_to_a_gpu(monkeypatch):
    speech = torch.ones(2, 3, 4)
    speech[1, 2] = math.nan
    batches = [(["a", "b"], {"speech": speech})]
    monkeypatch.setattr(trainer.Trainer, "validate_one_epoch", lambda iterator, **_: list(iterator))
    conf = {"model": Model(), "iterator": batches, "reporter": None}
    distributed = SimpleNamespace(distributed=True, dist_rank=1)
    for ngpu in (0, 1):
        options = SimpleNamespace(output_dir="", ngpu=ngpu)
        with pytest.raises(UserError, match="in utterance b") if ngpu else nullcontext():
            SpikeTrainer.validate_one_epoch(options=options, distributed_option=distributed, **conf)
    assert len(trainer._Checked(batches)) == 1


def test_the_precision_is_an_option_of_every_training():
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.lm import SpikeLMTask

    for task in (SpikeASRTask, SpikeLMTask):
        args = task.get_parser().parse_args(["--output_dir", "x", "--amp_dtype", "float16"])
        assert SpikeTrainer.build_options(args).amp_dtype == "float16"
        args = task.get_parser().parse_args(["--output_dir", "x"])
        assert SpikeTrainer.build_options(args).amp_dtype is None
        assert not SpikeTrainer.build_options(args).compile_encoder
