"""Train a model in five steps: check, prepare, run, judge, finish."""

import argparse
import copy
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    CHECKPOINT,
    FINISHED,
    LOG,
    best_checkpoint,
    keep_files,
    read_config,
)
from espnet_spike.tasks import determinism, oom_scan
from espnet_spike.tasks.config_check import Checked, check_training_config
from espnet_spike.training import resume
from espnet_spike.training.check import check_machine
from espnet_spike.training.judge import (
    AVERAGE,
    finish,
    is_finished,
    judge,
    lost,
    read_finished,
)
from espnet_spike.training.processes import rank
from espnet_spike.training.progress import logged
from espnet_spike.training.request import TrainingRequest
from espnet_spike.training.twin import check_twin, convert, start_settings

_logger = logging.getLogger(__name__)


def train(request: TrainingRequest) -> Path | None:
    """Train, or resume training, and return the model file to decode with.

    Where a launcher started several processes, all but the first only check and run; ESPnet's
    process group makes them wait until the first has prepared the folder. They return None.

    Raises:
        UserError: bad input, a changed configuration, nothing learnt, or an unfinished training;
            or a finished one has lost what only a new training makes again.
    """
    exp_dir = request.exp_dir
    check_left(exp_dir)
    if is_finished(exp_dir, request.digest):
        _logger.info("already finished: %s", exp_dir)
        restore(request)
        return best_checkpoint(exp_dir)
    args, model = check(request)
    number = rank(args.dist_launcher)
    if number == 0:
        prepare(request, args, model)
    oom_scan.ask(request.meta.get("scan_batches"))
    try:
        run(request.data.task, args, number)
    except UserError as error:
        raise request.data.explain(error.__cause__) or error from error.__cause__
    if number > 0:
        return None
    judge(exp_dir)
    return finish(exp_dir, request.digest)


def check_left(exp_dir: Path) -> None:
    """Make anew what a finished training has lost of its models, as far as others tell it.

    A training that is finished never begins again by itself, and its average is never made of
    fewer epochs: what was decoded and counted is of the model that is there.

    Raises:
        UserError: something is lost that only a new training makes again.
    """
    record = read_finished(exp_dir)
    if record is None:
        return
    missing = resume.put_back(exp_dir, record.made, lost(exp_dir, record))
    again = set()  # what comes of training the last epoch again
    if CHECKPOINT in missing and resume.epoch_before(exp_dir) == record.epochs - 1:
        again = {CHECKPOINT, f"{record.epochs}epoch.pth"}
    # averages are made at the end of any training, and a link goes with what it leads to
    gone = [
        name
        for name in missing
        if name not in again and not record.made.get(name) and not AVERAGE.fullmatch(name)
    ]
    if gone:
        raise UserError(
            f"{exp_dir} is of a finished training, and {', '.join(gone)} "
            f"{'is' if len(gone) == 1 else 'are'} missing or damaged",
            f"put back a copy; or 'rm -r {shlex.quote(str(exp_dir))}' and give the same command, "
            "which trains the same model again. To do without, take what is lost out of 'made' (or "
            "'epochs') in "
            f"{exp_dir / FINISHED}: decoding needs only {', '.join(record.files)}",
        )


def restore(request: TrainingRequest) -> None:
    """Make anew what a finished experiment has lost besides model and ``config.yaml``.

    Raises:
        UserError: as `check`.
    """
    exp_dir, data = request.exp_dir, request.data
    keep_files(exp_dir, read_config(exp_dir))
    resume.drop_damaged(exp_dir)
    recorded = resume.is_recorded(exp_dir)
    if recorded and resume.keep_config(exp_dir, request.config):
        _logger.info("%s had changed, and is written anew", resume.config_file(exp_dir))
    if recorded and data.is_prepared(exp_dir):
        return
    args, model = check(request)
    data.prepare(exp_dir, args, model)
    if not recorded:
        resume.record(exp_dir, request.config, started_with(request, args))
    _logger.info("%s: lists and records were lost, and are written anew", exp_dir)


def check(request: TrainingRequest) -> Checked:
    """Check tokens, data and configuration; nothing is written.

    Returns:
        ESPnet's arguments, and the model that they describe.

    Raises:
        UserError: the first mistake; of the configuration, all of them.
    """
    vocabulary_size = request.tokens.vocabulary_size()
    input_size = request.data.check()
    checked = check_training_config(
        request.data.task,
        request.config,
        request.path,
        request.overrides,
        vocabulary_size,
        input_size,
        words=[*request.words(), *request.data.words(request.exp_dir)],
    )
    checked.args.config = str(resume.config_file(request.exp_dir))
    request.data.complete(checked.args)
    resume.keep_cycle(request.exp_dir, checked.args)
    check_twin(request.meta, request.exp_dir, checked.args)
    return checked


def started_with(request: TrainingRequest, args: argparse.Namespace) -> dict[str, Any]:
    """Return what an experiment is started with, to compare a later run with."""
    settings = {f"{resume.DATA}{key}": value for key, value in start_settings(request.meta).items()}
    return resume.snapshot(args, request.files()) | settings


def prepare(request: TrainingRequest, args: argparse.Namespace, model: Any) -> None:
    """Make the folder of the experiment ready.

    First nothing may have changed since the experiment was begun; last, and only if all has gone
    well, the folder records what it is trained with.

    Args:
        request: what was asked for.
        args: ESPnet's arguments.
        model: on the meta device.

    Raises:
        UserError: changed configuration or data, or a machine that does not suffice.
    """
    exp_dir = request.exp_dir
    parameters = sum(p.numel() for p in model.parameters())
    nbest = args.keep_nbest_models
    nbest = max(nbest) if isinstance(nbest, Sequence) else nbest
    check_machine(exp_dir, args.ngpu, parameters, nbest)
    start = started_with(request, args)
    resume.check_unchanged(exp_dir, start, request.data.task)
    exp_dir.mkdir(parents=True, exist_ok=True)
    determinism.check(exp_dir)
    request.data.prepare(exp_dir, args, model)
    convert(request.meta, exp_dir, getattr(request.data, "train_dir", None), args)
    resume.repair(exp_dir, args.best_model_criterion, nbest)
    resume.record(exp_dir, request.config, start)
    keep_files(exp_dir, vars(args))
    (exp_dir / FINISHED).unlink(missing_ok=True)  # until this one is
    _logger.info("%.2f million parameters", parameters / 1e6)


def run(task: Any, args: argparse.Namespace, number: int) -> None:
    """Run ESPnet in ``args.output_dir``, with its full log in a file there.

    Args:
        task: ``SpikeASRTask`` or ``SpikeLMTask``.
        args: ESPnet's arguments.
        number: of this process; each has a log of its own.

    Raises:
        UserError: whatever ESPnet raises, which is its cause.
    """
    log = Path(args.output_dir) / (LOG if number == 0 else f"train.rank{number}.log")
    if number == 0:
        _logger.info("training in %s, full log in %s", args.output_dir, log)
    with logged(log, number == 0, getattr(task, "has_perplexity", False)):
        # a copy: ESPnet changes its arguments
        task.main(args=copy.deepcopy(args))
