"""Train an ASR model: check everything, run ESPnet, judge what came out."""

import argparse
import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_spike import launch, resume
from espnet_spike.config import read_training_config
from espnet_spike.errors import UserError
from espnet_spike.kaldi_dir import write_lines
from espnet_spike.progress import logged
from espnet_spike.stats import check_finite, feature_size
from espnet_spike.training import (
    FINISHED,
    LOG,
    best_checkpoint,
    check_finished,
    check_learnt,
    read_epochs,
)

# fold_length of ESPnet's recipes, for batch_type folded: frames and tokens
FOLD_LENGTH = (800, 150)

_logger = logging.getLogger(__name__)


def train(options: argparse.Namespace) -> Path:
    """Train, or go on training, and return the model file to decode with.

    Args:
        options: of ``espnet_spike.bin.asr_train``.

    Raises:
        UserError: bad input, a changed configuration, nothing learnt, or an unfinished training.
    """
    config, _ = read_training_config(options.config)
    launch.check_token_options(options)
    exp_dir = options.output_dir
    request = launch.request_digest(config, options)
    if resume.is_finished(exp_dir, request):
        _logger.info("already finished: %s", exp_dir)
        return best_checkpoint(exp_dir)

    for folder in (options.train_dir, options.valid_dir):
        check_data_dir(folder)
    size = feature_size(options.stats_dir / "train" / "speech_shape")

    from espnet_spike.task import SpikeASRTask

    args = espnet_args(config, options, size)
    leader = launch.rank() == 0
    if leader:
        _prepare(options, config, args)
    args.config = str(exp_dir / "train_config.yaml")
    log = exp_dir / (LOG if leader else f"train.rank{launch.rank()}.log")
    if leader:
        _logger.info("training in %s, full log in %s", exp_dir, log)
    # config.yaml and the process group are ESPnet's; a copy, since it changes its arguments
    with logged(log, show_epochs=leader):
        SpikeASRTask.main(args=copy.deepcopy(args))
    if not leader:
        return best_checkpoint(exp_dir)
    epochs = read_epochs(exp_dir)
    check_learnt(epochs, log)
    check_finished(epochs, vars(args), log)
    best = best_checkpoint(exp_dir)
    resume.write_json(exp_dir / FINISHED, {"request": request, "files": [best.name]})
    return best


def espnet_args(
    config: Mapping[str, Any], options: argparse.Namespace, size: int
) -> argparse.Namespace:
    """Return ESPnet's arguments for a training on features of dimension ``size``.

    Raises:
        UserError: unknown options, or a front end or ``input_size`` that does not fit features.
    """
    from espnet_spike.task import SpikeASRTask

    words = launch.espnet_options(options)
    shapes = options.output_dir / "shapes"
    for part, folder in (("train", options.train_dir), ("valid", options.valid_dir)):
        words += data_options(part, folder)
        words += [f"--{part}_shape_file", str(shapes / part / "speech_shape")]
        words += [f"--{part}_shape_file", str(shapes / part / "text_shape")]
    args = launch.parse_espnet(SpikeASRTask, config, words, options.asr_args)
    check_input(config, args, size)
    args.input_size = size
    if args.batch_type == "folded" and not args.fold_length:
        args.fold_length = list(FOLD_LENGTH)
    if args.normalize == "global_mvn" and "stats_file" not in args.normalize_conf:
        stats_file = str(options.stats_dir / "train" / "feats_stats.npz")
        args.normalize_conf = {"stats_file": stats_file, **args.normalize_conf}
    return args


def data_options(part: str, folder: Path) -> list[str]:
    """Return ESPnet's options for the features and transcripts of a data directory.

    Raises:
        UserError: the path holds a comma, at which ESPnet would split it.
    """
    if "," in str(folder):
        raise UserError(f"the path {folder} holds a comma", "ESPnet splits there; rename it")
    option = f"--{part}_data_path_and_name_and_type"
    return [
        *(option, f"{folder / 'feats.scp'},speech,kaldi_ark"),
        *(option, f"{folder / 'text'},text,text"),
    ]


def check_input(config: Mapping[str, Any], args: argparse.Namespace, size: int) -> None:
    """Check front end and ``input_size`` of a configuration against features of ``size``.

    Raises:
        UserError: the configuration asks for audio, or for another feature dimension.
    """
    frontend = config.get("frontend")
    if frontend is not None:
        raise UserError(
            f"frontend: {frontend} takes audio, but training reads features",
            "write frontend: null; features are made by the fbank stage",
        )
    if args.input_size is not None and args.input_size != size:
        raise UserError(
            f"input_size: {args.input_size}, but the features have {size} dimensions",
            "leave input_size out of the configuration; it is read from feats_shape",
        )


def check_data_dir(folder: Path) -> None:
    """Raise a ``UserError`` if features or transcripts are missing in a data directory."""
    for name in ("feats.scp", "text"):
        if not (folder / name).is_file():
            raise UserError(f"missing: {folder / name}", "run the stages before training first")


def _prepare(
    options: argparse.Namespace, config: Mapping[str, Any], args: argparse.Namespace
) -> None:
    """Check and repair all that ESPnet would stumble over, in the order of cost."""
    import torch

    from espnet_spike.task import SpikeASRTask

    exp_dir = options.output_dir
    flat = launch.resolved(SpikeASRTask, args)
    resume.check_unchanged(exp_dir, flat)
    check_finite(options.stats_dir / "train", options.train_dir)
    check_finite(options.stats_dir / "valid", options.valid_dir)
    exp_dir.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = SpikeASRTask.build_model(copy.deepcopy(args))
    nbest = args.keep_nbest_models
    nbest = max(nbest) if isinstance(nbest, Sequence) else nbest
    parameters = sum(p.numel() for p in model.parameters())
    launch.check_disk(exp_dir, parameters, nbest)
    _drop_short(options, args, model)
    resume.repair(exp_dir, args.best_model_criterion, nbest)
    launch.write_config(exp_dir / "train_config.yaml", config)
    resume.write_snapshot(exp_dir, flat)
    _logger.info("%s: %.2f million parameters", args.encoder, parameters / 1e6)


def _drop_short(options: argparse.Namespace, args: argparse.Namespace, model: Any) -> None:
    """Write the shape files without the utterances that are too short; list those, count them."""
    from espnet_spike.lengths import OutputLength, drop_short
    from espnet_spike.task import SpikeASRTask

    length = OutputLength(
        model, lambda: SpikeASRTask.build_model(copy.deepcopy(args)), args.input_size
    )
    preprocess = SpikeASRTask.build_preprocess_fn(args, train=False)

    def tokenize(text: str) -> list[int]:
        return preprocess("utt", {"text": text})["text"].tolist()

    lines = []
    for part, folder in (("train", options.train_dir), ("valid", options.valid_dir)):
        stats = options.stats_dir / part
        dropped = drop_short(
            stats / "speech_shape",
            stats / f"text_shape.{options.token_type}",
            folder / "text",
            options.output_dir / "shapes" / part,
            length,
            tokenize,
            ctc=model.ctc is not None,
        )
        lines += [f"{part} {utt} {reason}" for utt, reason in dropped]
        if dropped:
            _logger.warning("%s: %d utterances are too short and dropped", part, len(dropped))
    listing = options.output_dir / "dropped.txt"
    write_lines(listing, lines)
    if lines:
        _logger.warning("the dropped utterances are listed in %s", listing)
