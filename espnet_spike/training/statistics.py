"""Shapes and feature statistics of the training and validation data."""

import argparse
import logging

from espnet_spike.errors import UserError
from espnet_spike.training.data import (
    _check_complete,
    check_finite,
    check_keys,
    damage,
    feature_size,
)
from espnet_spike.utils.files import read_table, write_lines

_logger = logging.getLogger(__name__)


def collect(options: argparse.Namespace) -> None:
    """Run ESPnet's statistics over two data directories and check them.

    Writes ``{train,valid}/{speech_shape,text_shape,text_shape.<token_type>,feats_stats.npz}``
    under ``options.output_dir``.

    Args:
        options: of ``espnet_spike.bin.collect_stats``.

    Raises:
        UserError: bad configuration, or features that cannot be read or are not finite.
    """
    from espnet_spike.tasks import arguments
    from espnet_spike.tasks.config import read_training_config
    from espnet_spike.training import options as training_options
    from espnet_spike.training.data import check_data_dir, data_options
    from espnet_spike.training.progress import logged

    config, _ = read_training_config(options.asr_config)
    training_options.check_token_options(options)
    folders = {"train": options.train_dir, "valid": options.valid_dir}
    sizes = {}
    words = training_options.espnet_options(options)
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

    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.config_check import check_training_config

    tokens = len(options.token_list.read_text(encoding="utf-8").splitlines())
    check_training_config(
        SpikeASRTask, config, options.asr_config, options.asr_args, tokens, sizes["train"]
    )
    args = arguments.parse_espnet(SpikeASRTask, config, words, options.asr_args)
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
