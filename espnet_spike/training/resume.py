"""Resume an experiment safely: the same configuration, and whole checkpoints.

ESPnet rewrites ``config.yaml`` before it finds that a checkpoint does not fit, writes checkpoints
in place, and trains on with a truncated ``Nepoch.pth`` until the final averaging fails.
"""

import argparse
import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    CHECKPOINT,
    EPOCHS,
    PREVIOUS_CHECKPOINT,
    SNAPSHOT,
    read_epochs,
)
from espnet_spike.utils.checkpoints import is_whole, load_tensors
from espnet_spike.utils.files import (
    LEFTOVERS,
    file_digest,
    flatten,
    plural,
    present,
    replacing_bytes,
    write_json,
)
from espnet_spike.utils.shapes import misfit, read_state
from espnet_spike.utils.yaml import read_yaml, write_config

# What may change between the runs of one experiment, besides anything that begins with wandb_.
MAY_CHANGE = frozenset(
    # how long
    "max_epoch patience nj"
    # where it runs
    " ngpu num_workers dist_backend dist_init_method dist_world_size dist_rank local_rank"
    " dist_master_addr dist_master_port dist_launcher multiprocessing_distributed distributed"
    " max_cache_size max_cache_fd valid_max_cache_size"
    # what is shown
    " log_level log_interval use_matplotlib use_tensorboard create_graph_in_tensorboard use_wandb"
    " num_att_plot nbest_averaging_interval"
    # not settings of the model: bookkeeping of the command line
    " config output_dir resume dry_run print_config required version collect_stats"
    " train_shape_file valid_shape_file".split()
)

TOTAL = "total_steps"  # of the schedule onecyclelr
_PUT_BACK = "train under another --asr_tag (an LM: --lm_tag), or put back a copy of the file"
DATA = "data: "
"""How the keys of files begin that are no part of the configuration."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """What ``spike_config.json`` holds.

    Attributes:
        config: a `snapshot`.
        lengthened: when the schedule of the learning rate was made longer: ``epochs`` that were
            finished, updates ``before`` and ``after``.
    """

    config: dict[str, Any]
    lengthened: list[dict[str, int]] = field(default_factory=list)


def may_change(key: str) -> bool:
    """Return whether a configuration key may differ when an experiment goes on."""
    key = key.split(".")[0]
    return key in MAY_CHANGE or key.startswith("wandb_")


def snapshot(args: argparse.Namespace, data: Mapping[str, Path]) -> dict[str, Any]:
    """Return what an experiment is started with, in JSON values, to compare a later run with.

    Token list, BPE model and the files ``data`` stand by their content, not by their path.
    """
    config = dict(vars(args))
    files = {key: config.pop(key) for key in ("token_list", "bpemodel")}
    files |= {f"{DATA}{name}": path for name, path in data.items()}
    for key, path in files.items():
        if path is not None:
            config[f"{key} (content)"] = f"sha256:{file_digest(Path(path))[:16]}"
    return json.loads(json.dumps(config, default=str))


def _fill_defaults(task: type, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Fill the defaults of the classes that both configurations choose alike into both.

    So a default that is spelt out, or a new argument with a default, is no change.
    """
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    for choices in task.class_choices_list:
        name = new.get(choices.name)
        if name is None or name != old.get(choices.name):
            continue
        defaults = json.loads(json.dumps(get_default_kwargs(choices.get_class(name)), default=str))
        for config in (old, new):
            key = f"{choices.name}_conf"
            config[key] = defaults | config.get(key, {})


def check_unchanged(exp_dir: Path, config: Mapping[str, Any], task: type) -> None:
    """Compare a configuration with the one the experiment was started with.

    An experiment without a finished epoch has nothing to lose: it starts again, and says so.

    Args:
        exp_dir: folder of the experiment.
        config: JSON values.
        task: an ESPnet task class, whose defaults are no change.

    Raises:
        UserError: a key changed that must not; lists every such key, old and new value.
    """
    path = exp_dir / SNAPSHOT
    trained = present(exp_dir / CHECKPOINT) or present(exp_dir / PREVIOUS_CHECKPOINT)
    if not present(path):
        if trained:
            raise UserError(
                f"{exp_dir} holds a checkpoint but not {SNAPSHOT}, so it was trained by another "
                "program and cannot be resumed safely",
                "train under another --asr_tag",
            )
        return
    if not trained:
        with contextlib.suppress(UserError):
            _begin_again(exp_dir, _differences(read_state(path, Started).config, config, task))
        return
    if changed := _differences(read_state(path, Started, _PUT_BACK).config, config, task):
        raise UserError(
            f"configuration or data changed since {exp_dir} was started:\n{changed}",
            "train what changed in a folder of its own with --asr_tag NEW (an LM: --lm_tag); only "
            "max_epoch (with a total_steps as long), patience, nj, ngpu, num_workers and logging "
            "keys may change on resume",
        )


def _begin_again(exp_dir: Path, changed: str) -> None:
    """Say that an experiment without a finished epoch starts again with what has changed."""
    if changed:
        _logger.warning(
            "configuration or data of %s changed before its first epoch was finished; it starts "
            "again with the new ones:\n%s",
            exp_dir,
            changed,
        )
        (exp_dir / EPOCHS).unlink(missing_ok=True)


def _differences(before: dict[str, Any], config: Mapping[str, Any], task: type) -> str:
    """Return a line for every key that differs and must not."""
    now = dict(config)
    _fill_defaults(task, before, now)
    if _lengthened(before, now):
        now["scheduler_conf"] = now["scheduler_conf"] | {TOTAL: before["scheduler_conf"][TOTAL]}
    old, new = flatten(before), flatten(now)
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if not may_change(key)
        and old.get(key) != new.get(key)
        and not (key.startswith(DATA) and key not in old)  # older experiments do not tell
    ]
    return "\n".join(f"    {key}: {_show(old, key)} -> {_show(new, key)}" for key in changed)


def _lengthened(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether a cycle of the learning rate is longer, as the training may be."""
    if not before.get("scheduler") == now.get("scheduler") == "onecyclelr":
        return False
    old, new = ((config.get("scheduler_conf") or {}).get(TOTAL) for config in (before, now))
    return isinstance(old, int) and isinstance(new, int) and old < new


def keep_cycle(exp_dir: Path, args: argparse.Namespace) -> None:
    """Let a training that has its epochs already keep the longer cycle that it was trained with.

    So the command that an experiment was begun with is done at once after it was lengthened, as
    with a schedule that knows no end.

    Args:
        exp_dir: folder of the experiment.
        args: ESPnet's arguments, of which ``scheduler_conf`` is set.
    """
    if not present(exp_dir / CHECKPOINT) or not is_recorded(exp_dir):
        return  # nothing is trained, or `check_unchanged` says what is wrong
    finished = max((epoch["epoch"] for epoch in read_epochs(exp_dir)), default=0)
    before = read_state(exp_dir / SNAPSHOT, Started).config
    if finished < args.max_epoch:
        return
    if _lengthened(vars(args), before):
        total = before["scheduler_conf"][TOTAL]
        args.scheduler_conf = {**args.scheduler_conf, TOTAL: total}
        _logger.info(
            "%s: %s are trained already, of a schedule of %s",
            *(exp_dir, plural(finished, "epoch"), plural(total, "update")),
        )


def config_file(exp_dir: Path) -> Path:
    """Return where an experiment keeps the YAML that it is trained with."""
    return exp_dir / "train_config.yaml"


def record(exp_dir: Path, config: Mapping[str, Any], started_with: Mapping[str, Any]) -> None:
    """Record what an experiment is trained with.

    Args:
        exp_dir: folder of the experiment.
        config: content of the YAML.
        started_with: a `snapshot`, for `check_unchanged`.
    """
    content: dict[str, Any] = {"config": dict(started_with)}
    if present(exp_dir / CHECKPOINT) and is_recorded(exp_dir):
        before = read_state(exp_dir / SNAPSHOT, Started)
        found = list(before.lengthened)
        if _lengthened(before.config, started_with):
            steps = [c["scheduler_conf"][TOTAL] for c in (before.config, started_with)]
            epochs = max((epoch["epoch"] for epoch in read_epochs(exp_dir)), default=0)
            found.append({"epochs": epochs, "before": steps[0], "after": steps[1]})
        content |= {"lengthened": found} if found else {}
    write_config(config_file(exp_dir), config)
    write_json(exp_dir / SNAPSHOT, content, sort_keys=True)


def is_recorded(exp_dir: Path) -> bool:
    """Return whether `record` has left both of its files here, and they can be read."""
    try:
        read_state(exp_dir / SNAPSHOT, Started)
        return bool(read_yaml(config_file(exp_dir)))
    except UserError:
        return False


def keep_config(exp_dir: Path, config: Mapping[str, Any]) -> bool:
    """Write the YAML that an experiment is trained with anew where the file holds another.

    A YAML file that was cut can still be read.

    Returns:
        Whether it was written.
    """
    if read_yaml(config_file(exp_dir)) == dict(config):
        return False
    write_config(config_file(exp_dir), config)
    return True


def drop_damaged(exp_dir: Path) -> None:
    """Remove the models of single epochs that are damaged, of an experiment that is finished.

    It does not need them; should it go on later, `repair` leaves them out.
    """
    for path in exp_dir.glob("[0-9]*epoch.pth"):
        if not is_whole(path):
            path.unlink()
            _logger.warning("%s is damaged and removed; the training is finished", path)


def put_back(exp_dir: Path, links: Mapping[str, str], lost: Sequence[str]) -> list[str]:
    """Make lost files of a finished training anew from the others; return those it cannot.

    Links are set again, and the model of the last epoch is in the checkpoint.

    Args:
        exp_dir: folder of the experiment.
        links: name of a link -> what it leads to.
        lost: names of files that are missing or damaged.
    """
    lost_epoch = any(name.endswith("epoch.pth") for name in lost)
    if lost_epoch and _is_resumable(exp_dir / CHECKPOINT):
        states = _load(exp_dir / CHECKPOINT)
        last = f"{states['reporter']['epoch']}epoch.pth"
        if last in lost:
            _save(states["model"], exp_dir / last)
            _logger.warning("%s was lost; written again from %s", exp_dir / last, CHECKPOINT)
    for name in lost:
        if links.get(name) and not is_whole(exp_dir / name) and is_whole(exp_dir / links[name]):
            (exp_dir / name).unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):  # by another process of this training
                (exp_dir / name).symlink_to(links[name])
                _logger.warning("%s was lost; it leads to %s again", exp_dir / name, links[name])
    return [name for name in lost if not is_whole(exp_dir / name)]


def epoch_before(exp_dir: Path) -> int | None:
    """Return the epoch of the checkpoint before the last, None if that is not there or damaged."""
    path = exp_dir / PREVIOUS_CHECKPOINT
    return _load(path)["reporter"]["epoch"] if _is_resumable(path) else None


def repair(exp_dir: Path, criteria: Sequence[Sequence[str]], nbest: int) -> None:
    """Make the checkpoints of an interrupted experiment loadable; say what was done.

    A truncated ``checkpoint.pth`` is replaced by the previous epoch's, or, if there is none, the
    training starts again. A truncated ``Nepoch.pth`` is written anew from the checkpoint of the
    same epoch; that of an earlier epoch is left out of the choice of the best epochs.

    Args:
        exp_dir: folder of the experiment.
        criteria: ``best_model_criterion``, (phase, key, min or max).
        nbest: how many best epochs are averaged, the largest ``keep_nbest_models``.
    """
    for leftover in exp_dir.glob(LEFTOVERS):
        leftover.unlink()
    checkpoint, previous = exp_dir / CHECKPOINT, exp_dir / PREVIOUS_CHECKPOINT
    there = present(checkpoint) or present(previous)
    if not _is_resumable(checkpoint):
        found = "is truncated" if present(checkpoint) else "is missing"
        if _is_resumable(previous):
            os.replace(previous, checkpoint)
            epoch = _load(checkpoint)["reporter"]["epoch"]
            _logger.warning(
                "%s %s; going on from the last whole epoch, %d", checkpoint, found, epoch
            )
        elif there:
            checkpoint.unlink(missing_ok=True)
            previous.unlink(missing_ok=True)
            _logger.warning(
                "%s %s and no earlier epoch is whole; the training starts again", checkpoint, found
            )
    if not present(checkpoint):
        (exp_dir / EPOCHS).unlink(missing_ok=True)
        return
    _repair_epochs(exp_dir, criteria, nbest)


def _repair_epochs(exp_dir: Path, criteria: Sequence[Sequence[str]], nbest: int) -> None:
    states = _load(exp_dir / CHECKPOINT)
    stats = states["reporter"]["stats"]
    last = states["reporter"]["epoch"]
    changed = False
    newest = exp_dir / f"{last}epoch.pth"
    if not is_whole(newest):
        _save(states["model"], newest)
        _logger.warning("%s was not whole; written again from %s", newest, CHECKPOINT)
    for path in exp_dir.glob("*epoch.pth"):
        number = path.name.removesuffix("epoch.pth")
        if number.isdigit() and int(number) != last and not is_whole(path):
            path.unlink()
            # without its model the epoch must not be chosen for the average
            if stats.pop(int(number), None) is not None:
                changed = True
                _logger.warning("%s is truncated; epoch %s is left out", path, number)
    # an epoch may be among the best and its file gone (deleted, or never written)
    while missing := _best_epochs(stats, criteria, nbest) - _present(exp_dir):
        for epoch in missing:
            stats.pop(epoch)
            changed = True
            _logger.warning("%depoch.pth is missing in %s; left out", epoch, exp_dir)
    if changed:
        _save(states, exp_dir / CHECKPOINT)


def _best_epochs(
    stats: Mapping[int, Any], criteria: Sequence[Sequence[str]], nbest: int
) -> set[int]:
    best: set[int] = set()
    for phase, key, mode in criteria:
        values = [(e, s[phase][key]) for e, s in stats.items() if key in s.get(phase, {})]
        values.sort(key=lambda pair: pair[1], reverse=mode == "max")
        best |= {epoch for epoch, _ in values[:nbest]}
    return best


def _present(exp_dir: Path) -> set[int]:
    names = [path.name.removesuffix("epoch.pth") for path in exp_dir.glob("*epoch.pth")]
    return {int(name) for name in names if name.isdigit()}


@dataclass(frozen=True)
class Reported:
    """What the reporter in a checkpoint has to hold; statistics are by epoch, phase and key."""

    epoch: int
    stats: dict[int, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Checkpoint:
    """What ``checkpoint.pth`` has to hold for us; ESPnet reads the rest."""

    model: dict[str, Any]
    reporter: Reported


def _is_resumable(path: Path) -> bool:
    """Return whether a checkpoint is whole, and one at all."""
    if not is_whole(path):
        return False
    try:
        return not misfit(_load(path), Checkpoint)
    except UserError:
        return False


def _load(path: Path) -> dict[str, Any]:
    return load_tensors(path)


def _save(states: Any, path: Path) -> None:
    import torch

    with replacing_bytes(path) as file:
        torch.save(states, file)


def _show(config: Mapping[str, Any], key: str) -> str:
    return json.dumps(config[key]) if key in config else "(not set)"
