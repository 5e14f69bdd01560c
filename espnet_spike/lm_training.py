"""Train a language model on transcripts: statistics, then training, guarded as ASR training is."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_spike import launch, resume
from espnet_spike.config import read_training_config
from espnet_spike.errors import UserError
from espnet_spike.kaldi_dir import read_table, write_lines, write_table
from espnet_spike.training import best_checkpoint

# fold_length of ESPnet's recipes, in tokens, for batch_type folded
FOLD_LENGTH = 150

_logger = logging.getLogger(__name__)


def train(options: argparse.Namespace) -> Path:
    """Train, or go on training, a language model; return its model file.

    Args:
        options: of ``espnet_spike.bin.lm_train``.

    Raises:
        UserError: bad input, a changed configuration, nothing learnt, or an unfinished training.
    """
    config, _ = read_training_config(options.lm_config)
    launch.check_token_options(options)
    for text in (options.train_text, options.valid_text):
        if not text.is_file():
            raise UserError(f"no such text: {text}", "run the stages before this one first")
        if "," in str(text):
            raise UserError(f"the path {text} holds a comma", "ESPnet splits there; rename it")
    request = launch.request_digest(config, options)
    if resume.is_finished(options.output_dir, request):
        _logger.info("already finished: %s", options.output_dir)
        return best_checkpoint(options.output_dir)

    from espnet_spike.config_check import check_training_config
    from espnet_spike.guarded import train_guarded
    from espnet_spike.lm_task import SpikeLMTask

    tokens = len(options.token_list.read_text(encoding="utf-8").splitlines())
    check_training_config(
        SpikeLMTask, config, options.lm_config, options.lm_args, tokens, input_size=None
    )
    args = _espnet_args(config, options)

    def prepare(model: Any) -> None:
        _collect_stats(options, args)
        for part in ("train", "valid"):
            _drop_empty(options, part)

    return train_guarded(SpikeLMTask, args, config, request, prepare)


def _espnet_args(config: Mapping[str, Any], options: argparse.Namespace) -> argparse.Namespace:
    from espnet_spike.lm_task import SpikeLMTask

    words = launch.espnet_options(options)
    for part, text in (("train", options.train_text), ("valid", options.valid_text)):
        words += [f"--{part}_data_path_and_name_and_type", f"{text},text,text"]
        words += [f"--{part}_shape_file", str(options.output_dir / "shapes" / part / "text_shape")]
    args = launch.parse_espnet(SpikeLMTask, config, words, options.lm_args)
    if args.batch_type == "folded" and not args.fold_length:
        args.fold_length = [FOLD_LENGTH]
    return args


def _collect_stats(options: argparse.Namespace, args: argparse.Namespace) -> None:
    """Count the tokens of every line, unless that was done for these texts and tokens."""
    from espnet_spike.lm_task import SpikeLMTask
    from espnet_spike.progress import logged

    files = (options.train_text, options.valid_text, options.token_list, options.bpemodel)
    content = resume.digest(*(path.read_bytes() for path in files if path is not None))
    mark = options.stats_dir / "content"
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == content:
        return
    mark.unlink(missing_ok=True)
    args = argparse.Namespace(**vars(args))
    args.collect_stats = True
    args.output_dir = str(options.stats_dir)
    # without a shape file every line is read, in order
    args.train_shape_file, args.valid_shape_file = [], []
    args.multiprocessing_distributed, args.ngpu = False, 0
    with logged(options.stats_dir / "stats.log", show_epochs=False):
        SpikeLMTask.main(args=args)
    tokens = len(options.token_list.read_text(encoding="utf-8").splitlines())
    for part in ("train", "valid"):
        shapes = read_table(options.stats_dir / part / "text_shape")
        with_size = [f"{utt} {shape},{tokens}" for utt, shape in shapes.items()]
        write_lines(options.stats_dir / part / f"text_shape.{options.token_type}", with_size)
    write_lines(mark, [content])


def _drop_empty(options: argparse.Namespace, part: str) -> None:
    shapes = read_table(options.stats_dir / part / f"text_shape.{options.token_type}")
    kept = {utt: shape for utt, shape in shapes.items() if int(shape.split(",")[0]) > 0}
    if not kept:
        raise UserError(f"the {part} text of the language model holds no token")
    if len(kept) < len(shapes):
        _logger.warning("%s: %d empty lines are dropped", part, len(shapes) - len(kept))
    folder = options.output_dir / "shapes" / part
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "text_shape", kept)
