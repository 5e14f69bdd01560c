"""Shapes and feature statistics of the training and validation data."""

import argparse
import logging
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.kaldi_dir import name_some, read_table, write_lines

_logger = logging.getLogger(__name__)


def feature_size(shape_file: Path) -> int:
    """Return the feature dimension of a shape file "utt frames,dim".

    Raises:
        UserError: no such file, it is empty or malformed, or utterances differ in dimension.
    """
    if not shape_file.is_file():
        raise UserError(f"missing: {shape_file}", "run the stats stage (7) first")
    sizes: dict[str, str] = {}
    for utt, shape in read_table(shape_file).items():
        frames, comma, size = shape.partition(",")
        if not (frames.isdigit() and comma and size.isdigit()):
            raise UserError(f"{shape_file}: {utt} has shape {shape!r}, not 'frames,dim'")
        sizes.setdefault(size, utt)
    if not sizes:
        raise UserError(f"{shape_file} is empty", "check the data of the stages before")
    if len(sizes) > 1:
        some = ", ".join(f"{utt} has {size}" for size, utt in sizes.items())
        raise UserError(f"{shape_file}: the feature dimension differs: {some}")
    return int(next(iter(sizes)))


def check_finite(stats_dir: Path, data_dir: Path) -> None:
    """Check that the feature statistics are finite.

    One NaN frame in one utterance makes ESPnet skip every update and end with status 0.

    Raises:
        UserError: they are not; names the utterances whose features are to blame.
    """
    import numpy as np

    path = stats_dir / "feats_stats.npz"
    if not path.is_file():
        raise UserError(f"missing: {path}", "run the stats stage (7) first")
    with np.load(path) as stats:
        if np.isfinite(stats["sum"]).all() and np.isfinite(stats["sum_square"]).all():
            return
    raise damage(data_dir) or UserError(
        f"{path} is not finite, but the features now are", "run the stats stage (7) again"
    )


def check_keys(data_dir: Path) -> None:
    """Check that features, shapes and transcripts name the same utterances in the same order.

    ESPnet reads the files side by side, and stops at a difference without a helpful word.

    Raises:
        UserError: naming the files and the utterances.
    """
    keys = {}
    for name in ("feats.scp", "feats_shape", "text"):
        table = read_table(data_dir / name)
        keys[name] = list(table)
        empty = [utt for utt, value in table.items() if not value]
        if empty:
            raise UserError(
                f"{data_dir / name}: nothing behind {name_some(empty)}",
                "run the data and filter stages, which drop such utterances",
            )
    for name in ("feats_shape", "text"):
        odd = set(keys["feats.scp"]) ^ set(keys[name])
        if odd:
            raise UserError(
                f"{data_dir}: feats.scp and {name} do not name the same utterances: "
                f"{name_some(sorted(odd))}",
                "run the stages that make this folder again",
            )
        if keys["feats.scp"] != keys[name]:
            raise UserError(
                f"{data_dir}: feats.scp and {name} are not in the same order",
                "sort both by utterance (LC_ALL=C sort)",
            )


def damage(data_dir: Path) -> UserError | None:
    """Read all features of a data directory; return what is wrong with them, or None.

    Missing and truncated arks, garbage and non-finite values are found, each with its utterance,
    which ESPnet does not name.
    """
    from espnet_spike.ark import ArkReader

    found: dict[str, str] = {}
    with ArkReader() as reader:
        for utt, entry in read_table(data_dir / "feats.scp").items():
            try:
                reader.read(utt, entry)
            except UserError as error:
                found[utt] = error.message
    if not found:
        return None
    more = f" (and {len(found) - 1} more: {name_some(found)})" if len(found) > 1 else ""
    return UserError(
        f"{data_dir}: {next(iter(found.values()))}{more}",
        "mend or remove the audio, then extract the features again (stage 3)",
    )


def collect(options: argparse.Namespace) -> None:
    """Run ESPnet's statistics over two data directories and check them.

    Writes ``{train,valid}/{speech_shape,text_shape,text_shape.<token_type>,feats_stats.npz}``
    under ``options.output_dir``.

    Args:
        options: of ``espnet_spike.bin.collect_stats``.

    Raises:
        UserError: bad configuration, or features that cannot be read or are not finite.
    """
    from espnet_spike import launch
    from espnet_spike.asr_training import check_data_dir, data_options
    from espnet_spike.config import read_training_config
    from espnet_spike.progress import logged

    config, _ = read_training_config(options.asr_config)
    launch.check_token_options(options)
    folders = {"train": options.train_dir, "valid": options.valid_dir}
    sizes = {}
    words = launch.espnet_options(options)
    for part, folder in folders.items():
        check_data_dir(folder)
        check_keys(folder)
        sizes[part] = feature_size(folder / "feats_shape")
        words += data_options(part, folder)
        words += [f"--{part}_shape_file", str(folder / "feats_shape")]
    if sizes["train"] != sizes["valid"]:
        raise UserError(
            f"the features have {sizes['train']} dimensions in {folders['train']} and "
            f"{sizes['valid']} in {folders['valid']}"
        )

    from espnet_spike.config_check import check_training_config
    from espnet_spike.task import SpikeASRTask

    tokens = len(options.token_list.read_text(encoding="utf-8").splitlines())
    check_training_config(
        SpikeASRTask, config, options.asr_config, options.asr_args, tokens, sizes["train"]
    )
    args = launch.parse_espnet(SpikeASRTask, config, words, options.asr_args)
    args.input_size = sizes["train"]
    args.collect_stats = True
    # the statistics are those of the raw features; global_mvn needs what is being made here
    args.normalize, args.normalize_conf = None, {}
    # a fallen run must not leave statistics that look complete
    for part in folders:
        (options.output_dir / part / "feats_stats.npz").unlink(missing_ok=True)
    try:
        with logged(options.output_dir / "stats.log", show_epochs=False):
            SpikeASRTask.main(args=args)
    except UserError as error:
        raise damage(folders["train"]) or damage(folders["valid"]) or error from error
    for part, folder in folders.items():
        stats_dir = options.output_dir / part
        check_finite(stats_dir, folder)
        _check_complete(stats_dir, folder)
        shapes = read_table(stats_dir / "text_shape")
        # ESPnet's recipes: the size of the vocabulary counts for batches by numel
        with_size = [f"{utt} {shape},{tokens}" for utt, shape in shapes.items()]
        write_lines(stats_dir / f"text_shape.{options.token_type}", with_size)
        _logger.info("%s: %d utterances", stats_dir, len(shapes))


def _check_complete(stats_dir: Path, data_dir: Path) -> None:
    wanted = read_table(data_dir / "feats_shape").keys()
    found = read_table(stats_dir / "speech_shape").keys()
    if wanted != found:
        raise UserError(
            f"{stats_dir}: {len(found)} of {len(wanted)} utterances have statistics, "
            f"missing: {name_some(wanted - found)}",
            f"see {stats_dir.parent / 'stats.log'}",
        )
