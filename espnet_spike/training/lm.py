"""Train a language model on transcripts: statistics, then training, guarded as ASR training is."""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint
from espnet_spike.tasks import arguments, oom_scan
from espnet_spike.tasks.config import read_training_config
from espnet_spike.training import options as training_options
from espnet_spike.training.judge import is_finished
from espnet_spike.utils.files import file_digest, write_lines

# fold_length of ESPnet's recipes, in tokens, for batch_type folded
FOLD_LENGTH = 150

_logger = logging.getLogger(__name__)


def train(options: argparse.Namespace) -> Path | None:
    """Train, or go on training, a language model; return its model file.

    Args:
        options: of ``espnet_spike.bin.lm_train``.

    Raises:
        UserError: bad input, a changed configuration, nothing learnt, or an unfinished training.
    """
    config, meta = read_training_config(options.lm_config)
    oom_scan.ask(meta.get("scan_batches"))
    training_options.check_token_options(options)
    given = [*options.train_text, options.valid_text]
    for text in given:
        if not text.is_file():
            raise UserError(f"no such text: {text}", "run the stages before this one first")
        if "," in str(text):
            raise UserError(f"the path {text} holds a comma", "ESPnet splits there; rename it")
    data = {f"text {number}": text for number, text in enumerate(given, 1)}
    request = training_options.request_digest(config, options, data)
    if is_finished(options.output_dir, request):
        _logger.info("already finished: %s", options.output_dir)
        return best_checkpoint(options.output_dir)

    from espnet_spike.tasks.config_check import check_training_config
    from espnet_spike.tasks.lm import SpikeLMTask
    from espnet_spike.training.guard import train_guarded

    tokens = _count_lines(options.token_list)
    check_training_config(
        SpikeLMTask, config, options.lm_config, options.lm_args, tokens, input_size=None
    )
    texts = {
        "train": _without_empty_lines(options.train_text, options.stats_dir / "train" / "text"),
        "valid": _without_empty_lines([options.valid_text], options.stats_dir / "valid" / "text"),
    }
    args = _espnet_args(config, options, texts)

    def prepare(model: Any) -> None:
        _collect_stats(options, args, texts, tokens)

    return train_guarded(SpikeLMTask, args, config, request, prepare, data)


def _espnet_args(
    config: Mapping[str, Any], options: argparse.Namespace, texts: Mapping[str, Path]
) -> argparse.Namespace:
    from espnet_spike.tasks.lm import SpikeLMTask

    words = training_options.espnet_options(options)
    for part, text in texts.items():
        words += [f"--{part}_data_path_and_name_and_type", f"{text},text,text"]
        words += [f"--{part}_shape_file", str(_shapes(options, part))]
    args = arguments.parse_espnet(SpikeLMTask, config, words, options.lm_args)
    if args.batch_type == "folded" and not args.fold_length:
        args.fold_length = [FOLD_LENGTH]
    return args


def _shapes(options: argparse.Namespace, part: str) -> Path:
    return options.stats_dir / part / f"text_shape.{options.token_type}"


def _collect_stats(
    options: argparse.Namespace,
    args: argparse.Namespace,
    texts: Mapping[str, Path],
    tokens: int,
) -> None:
    """Count the tokens of every line, unless that was done for these texts and tokens."""
    from espnet_spike.tasks.lm import SpikeLMTask
    from espnet_spike.training.progress import logged

    inputs = (*texts.values(), options.token_list, options.bpemodel)
    content = [file_digest(path) for path in inputs if path is not None]
    mark = options.stats_dir / "content"
    if mark.is_file() and mark.read_text(encoding="utf-8").splitlines() == content:
        return
    mark.unlink(missing_ok=True)
    args = argparse.Namespace(**vars(args))
    args.collect_stats = True
    args.output_dir = str(options.stats_dir)
    # without a shape file every line is read, in order
    args.train_shape_file, args.valid_shape_file = [], []
    args.multiprocessing_distributed, args.ngpu = False, 0
    # alone, also where a launcher started several processes: they wait for the training
    args.dist_world_size, args.dist_launcher = 1, None
    with logged(options.stats_dir / "stats.log", show_epochs=False):
        SpikeLMTask.main(args=args)
    for part in texts:
        with open(options.stats_dir / part / "text_shape", encoding="utf-8") as f:
            write_lines(_shapes(options, part), (f"{line.rstrip()},{tokens}" for line in f))
    write_lines(mark, content)


def _without_empty_lines(texts: Sequence[Path], copy: Path) -> Path:
    """Return a text without the lines that hold a key alone, which ESPnet refuses.

    A single text without such lines is returned as it is. Line by line: the text of a language
    model may be larger than memory.
    """

    def lines(path: Path) -> Iterator[str]:
        with open(path, encoding="utf-8") as f:
            yield from f

    empty = sum(len(line.split(maxsplit=1)) < 2 for path in texts for line in lines(path))
    names = ", ".join(map(str, texts))
    if not any(path.stat().st_size for path in texts):
        raise UserError(f"{names} is empty")
    if not empty and len(texts) == 1:
        return texts[0]
    copy.parent.mkdir(parents=True, exist_ok=True)
    kept = (line for path in texts for line in lines(path) if len(line.split(maxsplit=1)) == 2)
    write_lines(copy, (line.rstrip("\n") for line in kept))
    if copy.stat().st_size == 0:
        raise UserError(f"{names} holds no text, only keys")
    if empty:
        _logger.warning("%s: %d empty lines are left out", names, empty)
    return copy


def _count_lines(path: Path) -> int:
    with open(path, encoding="utf-8") as f:
        return sum(1 for _ in f)
