"""Shapes and feature statistics of the training and validation data."""

import logging
from typing import Any

from espnet_spike.data.feature_extractor import FEATURES, check_same_features, hand_on
from espnet_spike.errors import UserError
from espnet_spike.tasks.config_check import check_training_config
from espnet_spike.tasks.loaders import explained
from espnet_spike.training.asr import (
    FRONT_END,
    Features,
    check_front_end,
    feature_options,
    front_end_of,
    is_raw,
)
from espnet_spike.training.check import (
    check_complete,
    check_data_dir,
    check_finite,
    check_keys,
    feature_size,
)
from espnet_spike.training.progress import logged
from espnet_spike.training.request import TrainingRequest
from espnet_spike.utils.files import plural, read_table, write_lines
from espnet_spike.utils.yaml import write_config

_logger = logging.getLogger(__name__)


def collect(request: TrainingRequest[Features]) -> None:
    """Run ESPnet's statistics over two data directories and check them.

    Writes ``{train,valid}/{speech_shape,text_shape,text_shape.<token_type>,feats_stats.npz}``
    under ``request.exp_dir``.

    Raises:
        UserError: bad configuration, or features that cannot be read or are not finite.
    """
    vocabulary_size = request.tokens.vocabulary_size()
    features = request.data
    size = check_features(features)
    words = request.words()
    for name, folder, _ in features.parts:
        words += feature_options(name, folder, folder / "feats_shape")
    task: Any = features.task
    args, _ = check_training_config(
        task, request.config, request.path, request.overrides, vocabulary_size, size, words
    )
    check_front_end(args, features.train_dir)
    args.collect_stats = True
    # the statistics are those of features as they are read, or as the front end makes them;
    # global_mvn needs what is being made here
    args.normalize, args.normalize_conf = None, {}
    for name in (FEATURES, FRONT_END):
        (request.exp_dir / name).unlink(missing_ok=True)
    # a failed run must not leave statistics that look complete
    for part in features.parts:
        (part.stats_dir / "feats_stats.npz").unlink(missing_ok=True)
    try:
        with logged(request.exp_dir / "stats.log", show_epochs=False), explained():
            task.main(args=args)
    except UserError as error:
        if found := features.damage():
            raise found from error
        raise
    for part in features.parts:
        check_finite(part.stats_dir, part.folder)
        check_complete(part.stats_dir, part.folder)
        shapes = read_table(part.stats_dir / "text_shape")
        # ESPnet's recipes: the size of the vocabulary counts for batches by numel
        with_size = [f"{utt} {shape},{vocabulary_size}" for utt, shape in shapes.items()]
        write_lines(part.stats_dir / f"text_shape.{request.tokens.token_type}", with_size)
        _logger.info("%s: %s", part.stats_dir, plural(len(shapes), "utterance"))
    hand_on(features.train_dir, request.exp_dir)
    if size is None:
        write_config(request.exp_dir / FRONT_END, front_end_of(args))


def check_features(features: Features) -> int | None:
    """Check both data directories; return the dimension of their features, None of raw audio.

    Raises:
        UserError: files are missing or do not match, or the definitions or dimensions differ.
    """
    sizes = []
    for part in features.parts:
        check_data_dir(part.folder)
        check_keys(part.folder)
        sizes.append(feature_size(part.folder / "feats_shape"))
    check_same_features(features.train_dir, [features.valid_dir])
    train, valid = sizes
    if train != valid:
        raise UserError(
            f"the features have {train} dimensions in {features.train_dir} and "
            f"{valid} in {features.valid_dir}"
        )
    return None if is_raw(features.train_dir) else train
