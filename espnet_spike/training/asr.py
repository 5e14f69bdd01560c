"""Train an ASR model: check everything, run ESPnet, judge what came out."""

import argparse
import copy
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_spike.data.feature_extractor import FEATURES, hand_on
from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint
from espnet_spike.tasks import arguments, oom_scan
from espnet_spike.tasks.config import read_training_config
from espnet_spike.training import options as training_options
from espnet_spike.training.data import (
    check_data_dir,
    check_finite,
    damage,
    data_options,
    feature_size,
)
from espnet_spike.training.judge import is_finished
from espnet_spike.training.splits import split
from espnet_spike.utils.files import write_lines

# fold_length of ESPnet's recipes, for batch_type folded: frames and tokens
FOLD_LENGTH = (800, 150)
SPLITS = "splits"  # folder of the parts of a large corpus

_logger = logging.getLogger(__name__)


def train(options: argparse.Namespace) -> Path | None:
    """Train, or go on training, and return the model file to decode with.

    In a process that a launcher started beside the first, return None.

    Args:
        options: of ``espnet_spike.bin.asr_train``.

    Raises:
        UserError: bad input, a changed configuration, nothing learnt, or an unfinished training.
    """
    config, meta = read_training_config(options.config)
    oom_scan.ask(meta.get("scan_batches"))
    training_options.check_token_options(options)
    exp_dir = options.output_dir
    data = _data_files(options)
    request = training_options.request_digest(config, options, data)
    if is_finished(exp_dir, request):
        _logger.info("already finished: %s", exp_dir)
        return best_checkpoint(exp_dir)

    for folder in (options.train_dir, options.valid_dir):
        check_data_dir(folder)
    size = feature_size(options.stats_dir / "train" / "speech_shape")

    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.config_check import check_training_config
    from espnet_spike.training.guard import train_guarded

    tokens = len(options.token_list.read_text(encoding="utf-8").splitlines())
    check_training_config(
        SpikeASRTask, config, options.config, options.asr_args, tokens, input_size=size
    )
    args = espnet_args(config, options, size)

    def prepare(model: Any) -> None:
        hand_on(options.train_dir, exp_dir)
        check_finite(options.stats_dir / "train", options.train_dir)
        check_finite(options.stats_dir / "valid", options.valid_dir)
        _drop_short(options, args, model)
        if args.multiple_iterator:
            shapes = options.output_dir / "shapes" / "train"
            tables = {name: shapes / name for name in ("speech_shape", "text_shape")}
            tables |= {name: options.train_dir / name for name in ("feats.scp", "text")}
            split(tables, options.num_splits, options.output_dir / SPLITS)

    try:
        return train_guarded(SpikeASRTask, args, config, request, prepare, data)
    except UserError as error:
        if _is_of_data(error.__cause__):
            raise damage(options.train_dir) or damage(options.valid_dir) or error from error
        raise


def _data_files(options: argparse.Namespace) -> dict[str, Path]:
    """Return the files that tell whether an experiment still has its data."""
    files = {"features": options.train_dir / FEATURES}
    for part, folder in (("train", options.train_dir), ("valid", options.valid_dir)):
        files[f"{part} text"] = folder / "text"
        files[f"{part} frames"] = options.stats_dir / part / "speech_shape"
    # a missing file is told later; features that were made elsewhere have no description
    return {name: path for name, path in files.items() if path.is_file()}


def _is_of_data(error: BaseException | None) -> bool:
    """Return whether ESPnet failed in reading features; it does not name the utterance."""
    # the text, since a data loading process hands on its traceback as text
    text = "".join(traceback.format_exception(error)) if error is not None else ""
    return "espnet2/train/dataset.py" in text


def espnet_args(
    config: Mapping[str, Any], options: argparse.Namespace, size: int
) -> argparse.Namespace:
    """Return ESPnet's arguments for a training on features of dimension ``size``.

    Raises:
        UserError: unknown or malformed options.
    """
    from espnet_spike.tasks.asr import SpikeASRTask

    words = training_options.espnet_options(options)
    shapes = options.output_dir / "shapes"
    parts = getattr(options, "num_splits", 1)
    if parts < 1:
        raise UserError(f"--num_splits {parts}", "give a whole number from 1 up")
    for part, folder in (("train", options.train_dir), ("valid", options.valid_dir)):
        shape_dir = shapes / part
        if parts > 1 and part == "train":  # folders of parts with the names of the files
            folder = shape_dir = options.output_dir / SPLITS
            words += ["--multiple_iterator", "true"]
        words += data_options(part, folder)
        words += [f"--{part}_shape_file", str(shape_dir / "speech_shape")]
        words += [f"--{part}_shape_file", str(shape_dir / "text_shape")]
    args = arguments.parse_espnet(SpikeASRTask, config, words, options.asr_args)
    args.input_size = size
    if args.batch_type == "folded" and not args.fold_length:
        args.fold_length = list(FOLD_LENGTH)
    if args.normalize == "global_mvn" and "stats_file" not in args.normalize_conf:
        stats_file = str(options.stats_dir / "train" / "feats_stats.npz")
        args.normalize_conf = {"stats_file": stats_file, **args.normalize_conf}
    return args


def _drop_short(options: argparse.Namespace, args: argparse.Namespace, model: Any) -> None:
    """Write the shape files without the utterances that are too short; list those, count them."""
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.output_length import OutputLength
    from espnet_spike.training.short_utterances import drop_short

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
