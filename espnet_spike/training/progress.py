"""Run a training with its full log in a file and a line an epoch on the terminal."""

import contextlib
import json
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from espnet_spike.errors import UserError, cure_of, system_error
from espnet_spike.experiment import EPOCHS, unhealthy_layers
from espnet_spike.tasks.oom_scan import HINT, is_out_of_memory
from espnet_spike.utils.cli import ON_TERMINAL
from espnet_spike.utils.files import last_lines, plural, present

MOST_NATS = 700.0  # of a loss whose exponential is a number
_FORMAT = "%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"


@contextlib.contextmanager
def logged(log: Path, show_epochs: bool = True, perplexity: bool = False) -> Iterator[None]:
    """Send everything this process and its children print to ``log``, appending.

    With ``show_epochs`` a line an epoch goes to the terminal meanwhile, of a language model with
    its ``perplexity``, and so does what this process logs with ``ON_TERMINAL``. An exception leaves
    its traceback in the log and its last lines on the terminal.

    Raises:
        UserError: for any exception but ``UserError`` and ``KeyboardInterrupt``, which pass.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8")
    errors = os.dup(2)
    stream = open(log, "a", encoding="utf-8", buffering=1)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(_FORMAT))
    shown = logging.StreamHandler(terminal)
    shown.addFilter(lambda record: show_epochs and getattr(record, ON_TERMINAL, False))
    shown.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root.handlers[:] = [handler, shown]
    root.setLevel(logging.INFO)
    failure: BaseException | None = None
    lines = EpochLines(log.parent / EPOCHS, terminal, perplexity) if show_epochs else None
    try:
        stream.write(f"# started {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    except BaseException as error:
        failure = error
        stream.write(traceback.format_exc())
    finally:
        if lines is not None:
            lines.stop()
        stream.flush()
        root.handlers[:] = handlers
        root.setLevel(level)
        os.dup2(terminal.fileno(), 1)
        os.dup2(errors, 2)
        os.close(errors)
        terminal.close()
        stream.close()
    if failure is None:
        return
    if isinstance(failure, UserError | KeyboardInterrupt):
        raise failure
    if isinstance(failure, OSError) and (known := system_error(failure)) is not None:
        raise known from failure
    print(f"--- last lines of {log}", file=sys.stderr)
    print(last_lines(log), file=sys.stderr, flush=True)
    message = f"{type(failure).__name__}: {failure}".strip().splitlines()
    raise UserError(
        f"training failed: {message[0]}", f"{_cure(failure)}the full log is {log}"
    ) from failure


def perplexity_of(loss: float | None) -> float | None:
    """Return the perplexity of a token whose mean negative log-probability is ``loss`` nats."""
    return None if loss is None or loss > MOST_NATS else math.exp(loss)


def epoch_line(record: dict[str, Any], mean_seconds: float, perplexity: bool = False) -> str:
    """Describe a finished epoch in one line: losses, cer_ctc, firing rate or sparsity, time.

    Args:
        record: a line of ``epochs.jsonl``.
        mean_seconds: of an epoch.
        perplexity: show that of the validation set, as the loss is a mean over tokens.
    """
    train, valid = record["train"], record["valid"]
    parts = [f"epoch {record['epoch']}/{record['max_epoch']}"]
    parts.append(f"loss {_number(train.get('loss'))} (valid {_number(valid.get('loss'))})")
    if perplexity:
        parts.append(f"perplexity {_number(perplexity_of(valid.get('loss')))}")
    for key in ("cer_ctc", "acc", "firing_rate", "sparsity"):
        if valid.get(key) is not None:
            parts.append(f"{key.replace('firing_rate', 'firing rate')} {_number(valid[key])}")
    if record["applied"] < record["steps"]:
        parts.append(
            f"{record['steps'] - record['applied']} of {plural(record['steps'], 'update')} skipped"
        )
    parts.append(duration(record["seconds"]))
    left = record["max_epoch"] - record["epoch"]
    if left > 0:
        parts.append(f"ETA {duration(left * mean_seconds)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Format seconds as 3.2s, 4m05s or 2h07m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
    return f"{int(seconds) // 3600}h{int(seconds) % 3600 // 60:02d}m"


class EpochLines:
    """Follow ``epochs.jsonl`` in a thread and print a line for each epoch that gets finished.

    A file, not a callback: with several GPUs the training runs in spawned processes.
    """

    def __init__(
        self, path: Path, terminal: TextIO, perplexity: bool = False, interval: float = 0.2
    ) -> None:
        self._perplexity = perplexity
        self._path = path
        self._terminal = terminal
        self._interval = interval
        self._offset = path.stat().st_size if present(path) else 0
        self._seconds: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Print what is left and end the thread."""
        self._stop.set()
        self._thread.join()
        self._print_new()

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            self._print_new()

    def _print_new(self) -> None:
        if not self._path.exists():
            return
        with open(self._path, "rb") as f:
            f.seek(self._offset)
            data = f.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # of a process that was killed
            self._seconds.append(record["seconds"])
            mean = sum(self._seconds) / len(self._seconds)
            print(epoch_line(record, mean, self._perplexity), file=self._terminal, flush=True)
            if odd := unhealthy_layers(record["valid"]):
                print(f"  warning: {odd}", file=self._terminal, flush=True)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _cure(error: BaseException) -> str:
    text = str(error)
    if is_out_of_memory(error):
        return f"{HINT}; "
    if cure := cure_of(text):
        return f"{cure}; "
    if "equal or more than world_size" in text:
        return "raise batch_size or batch_bins: each batch is split over all processes; "
    if "DataLoader worker" in text:
        return "a data loading process died, perhaps for lack of memory; "
    return ""
