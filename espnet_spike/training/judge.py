"""Judge what ESPnet leaves: did the training learn, did it come to its end, is it done?"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    CHECKPOINT,
    EPOCHS,
    FINISHED,
    LOG,
    Epochs,
    best_checkpoint,
    read_config,
    read_epochs,
)
from espnet_spike.utils.checkpoints import is_whole
from espnet_spike.utils.files import plural, write_json
from espnet_spike.utils.shapes import read_state

# A loss that moved less than this, relatively, has not moved.
UNMOVED = 1e-6
# what ESPnet writes last into config.yaml
LAST_KEY = "distributed"
AVERAGE = re.compile(r"[^/]+\.ave(_\d+best)?(\.\d+epoch)?\.pth")
"""Model files that ESPnet makes of those of epochs, whenever it comes to the end of a training."""
_MADE = re.compile(rf"checkpoint\.pth|latest\.pth|\d+epoch\.pth|[^/]+\.best\.pth|{AVERAGE.pattern}")


@dataclass(frozen=True)
class Finished:
    """What ``spike_finished.json`` holds.

    Attributes:
        request: digest of the request.
        files: the model to decode with.
        made: every file of tensors that the training has left, with what it is a link to, or an
            empty text. Earlier versions did not note them, nor the ``epochs``.
        epochs: number of the records in ``epochs.jsonl``.
    """

    request: str
    files: list[str]
    made: dict[str, str] = field(default_factory=dict)
    epochs: int = 0


def judge(exp_dir: Path) -> None:
    """Judge a training by the records in its folder; see `check_learnt` and `check_finished`.

    Raises:
        UserError: nothing was learnt, or the training did not come to its end.
    """
    epochs, config, log = read_epochs(exp_dir), read_config(exp_dir), exp_dir / LOG
    check_learnt(epochs, log)
    check_finished(epochs, config, log)


def finish(exp_dir: Path, request: str) -> Path:
    """Record that a request is done, and return the model file to decode with.

    Args:
        exp_dir: folder of the experiment.
        request: digest by which `is_finished` knows the request again.

    Raises:
        UserError: there is no whole model file.
    """
    best = best_checkpoint(exp_dir)
    made = {
        path.name: os.readlink(path) if path.is_symlink() else ""
        for path in sorted(exp_dir.glob("*.pth"))
        if _MADE.fullmatch(path.name) and path.exists()
    }
    epochs = len(read_epochs(exp_dir))
    record = {"request": request, "files": [best.name], "made": made, "epochs": epochs}
    write_json(exp_dir / FINISHED, record, sort_keys=True)
    return best


def read_finished(exp_dir: Path) -> Finished | None:
    """Return what `finish` has recorded, None of a training that is not finished.

    Raises:
        UserError: a name in it is none that a training gives: what is lost is written by these.
    """
    path = exp_dir / FINISHED
    try:
        record = read_state(path, Finished)
    except (OSError, UserError):
        return None
    for name in filter(None, (*record.made, *record.made.values())):
        if not _MADE.fullmatch(name):
            raise UserError(
                f"{path}: made: {name!r} is no model file that a training leaves",
                "take it out of that file, or 'rm -r' the folder if it is not yours",
            )
    return record


def lost(exp_dir: Path, record: Finished) -> list[str]:
    """Return which files of a finished training are missing or damaged, by their names."""
    names = [name for name in record.made if not is_whole(exp_dir / name)]
    try:
        epochs = len(read_epochs(exp_dir))
    except UserError:
        epochs = -1
    return [*names, EPOCHS] if record.epochs and epochs != record.epochs else names


def is_finished(exp_dir: Path, request: str) -> bool:
    """Return whether this very request was finished here, and model and configuration are whole."""
    record = read_finished(exp_dir)
    if record is None or record.request != request:
        return False
    try:
        whole = LAST_KEY in read_config(exp_dir)
    except (OSError, UserError):
        return False
    needed = {name for name in record.made if AVERAGE.fullmatch(name) or name == CHECKPOINT}
    return whole and all(is_whole(exp_dir / name) for name in {*record.files, *needed})


def stopped_early(epochs: Epochs, patience: int | None, criterion: Sequence[str]) -> bool:
    """Return whether ESPnet's early stopping has ended the training at the last epoch."""
    phase, key, mode = criterion
    values = [(e["epoch"], e[phase].get(key)) for e in epochs]
    values = [(epoch, value) for epoch, value in values if value is not None]
    if patience is None or not values:
        return False
    sign = 1 if mode == "min" else -1
    best = min(values, key=lambda pair: sign * pair[1])[0]
    return epochs[-1]["epoch"] - best > patience


def check_learnt(epochs: Epochs, log: Path) -> None:
    """Raise if the training ran and learnt nothing, which ESPnet does not notice.

    Raises:
        UserError: no update was applied, no parameter changed, the loss is not finite, or it did
            not move.
    """
    hint = f"see {log}; check learning rate, features and transcripts"
    if not epochs:
        raise UserError("no epoch was trained", hint)
    last = epochs[-1]
    if not any(e["applied"] for e in epochs):
        steps = sum(e["steps"] for e in epochs)
        cause = (
            "accum_grad is larger than the number of batches an epoch"
            if steps == 0
            else f"the gradient was NaN or infinite in each of {plural(steps, 'step')}"
        )
        raise UserError(f"nothing learnt: no update was applied, {cause}", hint)
    for phase in ("train", "valid"):
        if last[phase].get("loss") is None:
            raise UserError(
                f"nothing learnt: the {phase} loss of epoch {last['epoch']} is not finite", hint
            )
    if not last["applied"]:
        raise UserError(
            f"training broke down: no update was applied in epoch {last['epoch']}, "
            f"the gradient was NaN or infinite in each of {plural(last['steps'], 'step')}",
            "lower the learning rate (optim_conf lr) or grad_clip and train under a new --asr_tag",
        )
    if not any(e["parameters_moved"] for e in epochs):
        raise UserError("nothing learnt: no parameter changed", f"is the learning rate 0? {hint}")
    losses = [e["valid"]["loss"] for e in epochs if e["valid"].get("loss") is not None]
    probe = [loss for loss in epochs[0]["probe_loss"] if loss is not None]
    if _unmoved(losses) and _unmoved(probe):
        raise UserError(
            f"nothing learnt: the loss did not move ({losses[-1]:g} after "
            f"{plural(len(epochs), 'epoch')})",
            f"is the learning rate too small? {hint}",
        )


def check_finished(epochs: Epochs, config: Mapping[str, Any], log: Path) -> None:
    """Raise if the training ended before ``max_epoch`` for another reason than early stopping."""
    done = epochs[-1]["epoch"] if epochs else 0
    if done >= config["max_epoch"]:
        return
    if stopped_early(epochs, config["patience"], config["early_stopping_criterion"]):
        return
    raise UserError(
        f"training ended after {done} of {plural(config['max_epoch'], 'epoch')}",
        f"see {log}; run the same command again to resume",
    )


def _unmoved(losses: Sequence[float]) -> bool:
    if len(losses) < 2:
        return True
    low, high = min(losses), max(losses)
    return math.isclose(low, high, rel_tol=UNMOVED, abs_tol=0.0)
