"""Run an ESPnet training that ends well only if it learnt: what ASR and LM training share."""

import argparse
import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from espnet_spike.experiment import LOG
from espnet_spike.tasks import determinism
from espnet_spike.tasks.build import build_on_meta
from espnet_spike.training import options as training_options
from espnet_spike.training import resume
from espnet_spike.training.judge import finish, judge
from espnet_spike.training.progress import logged
from espnet_spike.utils import yaml

_logger = logging.getLogger(__name__)


def train_guarded(
    task: type,
    args: argparse.Namespace,
    config: Mapping[str, Any],
    request: str,
    prepare: Callable[[Any], None],
    data: Mapping[str, Path],
) -> Path | None:
    """Train, or go on training, in ``args.output_dir``.

    In order: the configuration is that of the folder, ``prepare``, the disk holds the
    checkpoints, interrupted checkpoints are mended, ESPnet trains, and the epochs are judged.
    Where a launcher started several processes, all but the first only train; ESPnet's process
    group makes them wait until the first has prepared the folder.

    Args:
        task: ``SpikeASRTask`` or ``SpikeLMTask``.
        args: ESPnet's arguments.
        config: content of the YAML, without ``spike_meta``.
        request: digest of the request, to know it when it is finished.
        prepare: given the model on the meta device, checks and writes what the task needs.
        data: files whose content must not change while the experiment lasts, by name.

    Returns:
        the model file to decode with; None in a process that is not the first.

    Raises:
        UserError: changed configuration or data, nothing learnt, or an unfinished training.
    """
    exp_dir = Path(args.output_dir)
    rank = training_options.rank(args.dist_launcher)
    leader = rank == 0
    log = exp_dir / (LOG if leader else f"train.rank{rank}.log")
    args.config = str(exp_dir / "train_config.yaml")
    if leader:
        _prepare(task, args, config, prepare, data)
        _logger.info("training in %s, full log in %s", exp_dir, log)
    with logged(log, show_epochs=leader):
        # a copy: ESPnet changes its arguments
        task.main(args=copy.deepcopy(args))
    if not leader:
        return None
    judge(exp_dir)
    return finish(exp_dir, request)


def _prepare(
    task: type,
    args: argparse.Namespace,
    config: Mapping[str, Any],
    prepare: Callable[[Any], None],
    data: Mapping[str, Path],
) -> None:
    exp_dir = Path(args.output_dir)
    training_options.check_gpus(args.ngpu)
    started_with = training_options.snapshot(args, data)
    resume.check_unchanged(exp_dir, started_with, partial(training_options.fill_defaults, task))
    exp_dir.mkdir(parents=True, exist_ok=True)
    determinism.check(exp_dir)
    model = build_on_meta(task, args)
    prepare(model)
    nbest = args.keep_nbest_models
    nbest = max(nbest) if isinstance(nbest, Sequence) else nbest
    parameters = sum(p.numel() for p in model.parameters())
    training_options.check_disk(exp_dir, parameters, nbest)
    resume.repair(exp_dir, args.best_model_criterion, nbest)
    yaml.write_config(exp_dir / "train_config.yaml", config)
    resume.write_snapshot(exp_dir, started_with)
    _logger.info("%.2f million parameters", parameters / 1e6)
