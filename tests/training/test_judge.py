import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.experiment import EPOCHS
from espnet_spike.training.judge import (
    check_finished,
    check_learnt,
    finish,
    is_finished,
    judge,
    stopped_early,
)

LOG = Path("train.log")
CONFIG = {"max_epoch": 3, "patience": 1, "early_stopping_criterion": ["valid", "loss", "min"]}


def epoch(number, valid=1.0, train=1.0, applied=5, steps=5, moved=True, probe=(2.0, 1.0)):
    return {
        "epoch": number,
        "max_epoch": 9,
        "steps": steps,
        "applied": applied,
        "parameters_moved": moved,
        "probe_loss": list(probe) if number == 1 else [None, None],
        "train": {"loss": train},
        "valid": {"loss": valid},
        "seconds": 1.0,
    }


def test_learnt():
    check_learnt([epoch(1, 2.0), epoch(2, 1.5)], LOG)
    check_learnt([epoch(1)], LOG)  # a single epoch: the probe tells


@pytest.mark.parametrize(
    ("epochs", "cause"),
    [
        ([], "no epoch was trained"),
        ([epoch(1, applied=0)], "no update was applied, the gradient was NaN .* each of 5 steps"),
        ([epoch(1, applied=0, steps=0)], "accum_grad is larger"),
        ([epoch(1), epoch(2, train=None)], "the train loss of epoch 2 is not finite"),
        ([epoch(1), epoch(2, valid=None)], "the valid loss of epoch 2 is not finite"),
        ([epoch(1), epoch(2, 0.5, applied=0)], "no update was applied in epoch 2"),
        ([epoch(1, moved=False), epoch(2, moved=False)], "no parameter changed"),
        ([epoch(1, probe=(1.0, 1.0))], "the loss did not move"),
        ([epoch(1, 1.0, probe=(1.0, 1.0 + 1e-9)), epoch(2, 1.0 + 1e-9)], "did not move"),
    ],
)
def test_nothing_learnt(epochs, cause):
    with pytest.raises(UserError, match=cause):
        check_learnt(epochs, LOG)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12), st.integers(0, 5))
def test_early_stopping_is_that_of_espnet(losses, patience):
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    reporter.stats = {e: {"valid": {"loss": loss}} for e, loss in enumerate(losses, 1)}
    reporter.set_epoch(len(losses))
    records = [epoch(e, loss) for e, loss in enumerate(losses, 1)]
    for mode in ("min", "max"):
        expected = reporter.check_early_stopping(patience, "valid", "loss", mode)
        assert stopped_early(records, patience, ("valid", "loss", mode)) == expected


def test_finished():
    check_finished([epoch(1), epoch(2), epoch(3)], CONFIG, LOG)
    check_finished([epoch(1, 1.0), epoch(2, 2.0), epoch(3, 3.0)], CONFIG | {"max_epoch": 9}, LOG)
    with pytest.raises(UserError, match="ended after 2 of 3 epochs"):
        check_finished([epoch(1, 2.0), epoch(2, 1.0)], CONFIG, LOG)
    with pytest.raises(UserError, match="ended after 2 of 3 epochs"):
        check_finished([epoch(1), epoch(2)], CONFIG | {"patience": None}, LOG)


@pytest.fixture
def exp(tmp_path):
    """What ESPnet leaves after three epochs."""
    config = CONFIG | {"best_model_criterion": [["valid", "loss", "min"]], "distributed": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [epoch(number, 4.0 - number) for number in (1, 2, 3)]
    (tmp_path / EPOCHS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    torch.save({"weight": torch.ones(50)}, tmp_path / "valid.loss.ave.pth")
    return tmp_path


def test_a_folder_is_judged_by_its_records(exp):
    judge(exp)
    lines = (exp / EPOCHS).read_text().splitlines()
    (exp / EPOCHS).write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(UserError, match="ended after 2 of 3 epochs"):
        judge(exp)
    (exp / EPOCHS).unlink()
    with pytest.raises(UserError, match="no epoch was trained"):
        judge(exp)


def test_finished_only_for_the_same_request_and_whole_files(exp):
    assert not is_finished(exp, "r")
    best = finish(exp, "r")
    assert best == exp / "valid.loss.ave.pth"
    assert is_finished(exp, "r") and not is_finished(exp, "another")
    whole = best.read_bytes()
    best.write_bytes(whole[:200])
    assert not is_finished(exp, "r")
    with pytest.raises(UserError, match="truncated or damaged"):
        finish(exp, "r")
    best.write_bytes(whole)
    assert is_finished(exp, "r")
    config = (exp / "config.yaml").read_text()
    for damage in ("", config[:30]):
        (exp / "config.yaml").write_text(damage)
        assert not is_finished(exp, "r")
    (exp / "config.yaml").write_text(config)
    (exp / "spike_finished.json").write_text("{")
    assert not is_finished(exp, "r")
    (exp / "spike_finished.json").write_text('{"request": "r", "files": [1]}')
    assert not is_finished(exp, "r")
