import io
import json
import logging
import os
import subprocess
import sys

import pytest

from espnet_spike.errors import UserError
from espnet_spike.experiment import EPOCHS, unhealthy_layers
from espnet_spike.training.progress import EpochLines, duration, epoch_line, logged, perplexity_of


def record(epoch=3, **more):
    return {
        "epoch": epoch,
        "max_epoch": 10,
        "steps": 4,
        "applied": 4,
        "seconds": 2.0,
        "train": {"loss": 41.234567},
        "valid": {"loss": 39.5, "cer_ctc": 0.25, "firing_rate": 0.125},
    } | more


def test_a_line_tells_loss_error_firing_rate_and_time_left():
    line = epoch_line(record(), 3.0)
    for part in ("3/10", "41.23", "39.5", "cer_ctc 0.25", "firing rate 0.125", "ETA 21.0s"):
        assert part in line
    assert "ETA" not in epoch_line(record(10), 3.0)
    assert "acc" not in line
    assert "3 of 4 updates skipped" in epoch_line(record(applied=1), 3.0)
    assert "not finite" in epoch_line(record(train={"loss": None}), 3.0)


def test_sparsity_and_layers_that_hardly_fire_or_always(tmp_path):
    assert "perplexity" not in epoch_line(record(), 1.0)
    line = epoch_line(record(valid={"loss": 2.0}), 1.0, perplexity=True)
    assert "(valid 2)  perplexity 7.389" in line
    assert "perplexity not finite" in epoch_line(record(valid={"loss": None}), 1.0, True)
    assert perplexity_of(1e9) is None
    assert "sparsity 0.62" in epoch_line(record(valid={"sparsity": 0.62}), 1.0)
    rates = {"firing_rate": 0.3, "firing_rate_a.b": 0.005, "firing_rate_c": 0.3}
    assert unhealthy_layers(rates) == "firing rate below 0.01: a.b"
    rates |= {"firing_rate_d": 0.61, "firing_rate_e": None}
    assert unhealthy_layers(rates) == "firing rate below 0.01: a.b; firing rate above 0.6: d"
    assert unhealthy_layers({"loss": 0.0, "cer": 1.0}) == ""
    path, terminal = tmp_path / EPOCHS, io.StringIO()
    lines = EpochLines(path, terminal, interval=0.01)
    path.write_text(json.dumps(record(valid=rates)) + "\n" + json.dumps(record()) + "\n")
    lines.stop()
    shown = terminal.getvalue().splitlines()
    assert len(shown) == 3 and shown[1].startswith("  warning: firing rate below 0.01: a.b")


def test_duration():
    assert [duration(s) for s in (3.21, 65, 3599, 7625)] == ["3.2s", "1m05s", "59m59s", "2h07m"]


def test_epochs_are_followed_as_they_are_written(tmp_path):
    path = tmp_path / EPOCHS
    path.write_text(json.dumps(record(1)) + "\n")  # of an earlier run: not shown again
    terminal = io.StringIO()
    lines = EpochLines(path, terminal, interval=0.01)
    with open(path, "a") as f:
        f.write(json.dumps(record(2)) + "\n")
        whole = json.dumps(record(3))
        f.write(whole[:20])
        f.flush()
        f.write(whole[20:] + "\n")
    lines.stop()
    shown = terminal.getvalue().splitlines()
    assert [line.split()[1] for line in shown] == ["2/10", "3/10"]


def test_everything_goes_to_the_log_and_back_to_the_terminal(tmp_path, capfd):
    log = tmp_path / "exp" / "train.log"
    with logged(log):
        print("from python")
        logging.info("from logging")
        os.write(1, b"from the descriptor\n")
        subprocess.run(["sh", "-c", "echo from a child; echo errors too >&2"], check=True)
    print("afterwards")
    text = log.read_text()
    for part in ("python", "logging", "the descriptor", "a child", "errors too"):
        assert part in text
    out, err = capfd.readouterr()
    assert (out, err) == ("afterwards\n", "")


def test_a_failure_shows_the_last_lines_and_the_cure(tmp_path, capfd):
    log = tmp_path / "train.log"
    with pytest.raises(UserError, match="training failed: RuntimeError: boom") as info, logged(log):
        for number in range(100):
            print("line", number)
        raise RuntimeError("boom\nmore")
    assert str(log) in info.value.hint
    err = capfd.readouterr().err
    assert "RuntimeError: boom" in err and "line 99" in err and "line 10\n" not in err
    assert "Traceback" in log.read_text()
    with pytest.raises(UserError) as info, logged(log):
        raise OSError(28, "No space left on device", "x.pth")
    assert "x.pth cannot be written" in info.value.message and "free disk space" in info.value.hint
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("error", [UserError("mine"), KeyboardInterrupt()])
def test_what_the_user_caused_passes_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as info, logged(tmp_path / "train.log"):
        raise error
    assert info.value is error


def test_ctrl_c_while_training_exits_with_130(tmp_path):
    code = (
        "import os, signal, pathlib\n"
        "from espnet_spike.utils.cli import run\n"
        "from espnet_spike.training.progress import logged\n"
        "def main(argv):\n"
        f"    with logged(pathlib.Path({str(tmp_path)!r}) / 'train.log'):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and "run the same command again" in done.stderr
