"""What an ASR model is trained on: features and transcripts of utterances."""

import argparse
import copy
import logging
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from espnet_spike.data.feature_extractor import (
    FEATURES,
    FeatureExtractor,
    check_same_features,
    hand_on,
)
from espnet_spike.errors import UserError
from espnet_spike.tasks.config_values import check_rates
from espnet_spike.training.check import check_data_dir, check_finite, damage, feature_size
from espnet_spike.training.splits import split
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import plural, present, read_lines, read_table, write_lines
from espnet_spike.utils.yaml import read_yaml

# fold_length of ESPnet's recipes, for batch_type folded: frames and tokens
FOLD_LENGTH = (800, 150)
SHAPES = "shapes"  # folder of the lengths of what is trained on
SPLITS = "splits"  # folder of the parts of a large corpus

_logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """The training or the validation part of `Features`."""

    name: str
    """``train`` or ``valid``, as in the names of ESPnet's options"""
    folder: Path
    stats_dir: Path


@dataclass(frozen=True)
class Features:
    """Two data directories with features, and their statistics.

    Args:
        train_dir: holds ``feats.scp`` and ``text``.
        valid_dir: holds the same.
        stats_dir: made by ``collect_stats``.
        num_splits: into how many parts the lists of the training data are cut.
    """

    train_dir: Path
    valid_dir: Path
    stats_dir: Path
    num_splits: int = 1

    @property
    def task(self) -> type:
        """ESPnet's task, with our encoders in it."""
        from espnet_spike.tasks.asr import SpikeASRTask

        return SpikeASRTask

    @property
    def parts(self) -> tuple[Part, Part]:
        """The training and the validation part."""
        return (
            Part("train", self.train_dir, self.stats_dir / "train"),
            Part("valid", self.valid_dir, self.stats_dir / "valid"),
        )

    def files(self) -> dict[str, Path]:
        """Return the description of the features, and of each part text and lengths."""
        # features that were made elsewhere have no description
        files = {"features": self.train_dir / FEATURES}
        for name, folder, stats_dir in self.parts:
            files[f"{name} text"] = folder / "text"
            files[f"{name} frames"] = stats_dir / "speech_shape"
        return {name: path for name, path in files.items() if present(path)}

    def check(self) -> int | None:
        """Check that files are there, features of one definition and statistics finite.

        Returns:
            the dimension of the features; None of raw audio.

        Raises:
            UserError: the first mistake.
        """
        if self.num_splits < 1:
            raise UserError(f"--num_splits {self.num_splits}", "give a whole number from 1 up")
        for part in self.parts:
            check_data_dir(part.folder)
        check_same_features(self.train_dir, [self.valid_dir])
        if present(self.stats_dir / FEATURES):  # those made before do not tell
            check_same_features(self.stats_dir, [self.train_dir])
        size = feature_size(self.stats_dir / "train" / "speech_shape")
        if (size is None) != is_raw(self.train_dir):
            raise UserError(
                f"{self.stats_dir} is not of {self.train_dir}: one of them is of raw audio",
                "run the stats stage (7) again",
            )
        for part in self.parts:
            check_finite(part.stats_dir, part.folder)
        return size

    def words(self, exp_dir: Path) -> list[str]:
        """Return ESPnet's options for what `prepare` writes to ``exp_dir``.

        Raises:
            UserError: a path holds a comma.
        """
        words = []
        for name, folder, _ in self.parts:
            shapes = exp_dir / SHAPES / name
            if self.num_splits > 1 and name == "train":
                # folders of parts with the names of the files
                folder = shapes = exp_dir / SPLITS
                words += ["--multiple_iterator", "true"]
            words += feature_options(name, folder, shapes / "speech_shape", shapes / "text_shape")
        return words

    def complete(self, args: argparse.Namespace) -> None:
        """Set what neither the YAML nor an option says.

        Raises:
            UserError: the front end is of another sampling rate, or the statistics are of another
                front end.
        """
        check_front_end(args, self.train_dir, self.stats_dir)
        if args.batch_type == "folded" and not args.fold_length:
            args.fold_length = list(FOLD_LENGTH)
        if args.normalize == "global_mvn" and "stats_file" not in args.normalize_conf:
            stats_file = str(self.stats_dir / "train" / "feats_stats.npz")
            args.normalize_conf = {"stats_file": stats_file, **args.normalize_conf}

    def prepare(self, exp_dir: Path, args: argparse.Namespace, model: Any) -> None:
        """Write the lists of the utterances that are trained on to ``exp_dir``.

        Args:
            exp_dir: folder of the experiment.
            args: ESPnet's arguments.
            model: on the meta device.

        Raises:
            UserError: no utterance is long enough, or there are fewer than parts.
        """
        hand_on(self.train_dir, exp_dir)
        self._drop_short(exp_dir, args, model)
        if self.num_splits > 1:
            shapes = exp_dir / SHAPES / "train"
            tables = {name: shapes / name for name in ("speech_shape", "text_shape")}
            tables |= {name: self.train_dir / name for name in ("feats.scp", "text")}
            split(tables, self.num_splits, exp_dir / SPLITS)

    def is_prepared(self, exp_dir: Path) -> bool:
        """Return whether definition and lengths of the features are there, and right."""

        def without(table: dict[str, str], utts: set[str]) -> dict[str, str]:
            return {utt: value for utt, value in table.items() if utt not in utts}

        try:
            if FeatureExtractor.read(exp_dir) != FeatureExtractor.read(self.train_dir):
                return False
            dropped = [line.split()[:2] for line in read_lines(exp_dir / "dropped.txt")]
            for name, _, stats_dir in self.parts:
                shapes = exp_dir / SHAPES / name
                left_out = {line[1] for line in dropped if line[0] == name and len(line) > 1}
                sources = {"speech_shape": [stats_dir / "speech_shape"]}
                sources["text_shape"] = [*stats_dir.glob("text_shape.*")]
                for table, paths in sources.items():
                    found = read_table(shapes / table)
                    wanted = [read_table(path) for path in paths]
                    if found not in [without(one, left_out) for one in wanted]:
                        return False
        except UserError:
            return False
        return True

    def explain(self, error: BaseException | None) -> UserError | None:
        """Return which utterance made ESPnet fail with ``error``, which does not name it, or None.

        All features are read for it, if it was in reading them.
        """
        # the text, since a data loading process hands on its traceback as text
        text = "".join(traceback.format_exception(error)) if error is not None else ""
        if "espnet2/train/dataset.py" not in text:
            return None
        return self.damage()

    def damage(self) -> UserError | None:
        """Read all features; return what is wrong with them, or None."""
        return damage(self.train_dir) or damage(self.valid_dir)

    def _drop_short(self, exp_dir: Path, args: argparse.Namespace, model: Any) -> None:
        """Write the shape files without utterances that are too short; list and count those."""
        from espnet_spike.tasks.output_length import OutputLength
        from espnet_spike.training.short_utterances import drop_short

        task: Any = self.task

        def build() -> Any:
            with quiet():
                return task.build_model(copy.deepcopy(args))

        length = OutputLength(model, build, args.input_size)
        preprocess = task.build_preprocess_fn(args, train=False)

        def tokenize(text: str) -> list[int]:
            return preprocess("utt", {"text": text})["text"].tolist()

        lines = []
        for name, folder, stats_dir in self.parts:
            dropped = drop_short(
                stats_dir / "speech_shape",
                stats_dir / f"text_shape.{args.token_type}",
                folder / "text",
                exp_dir / SHAPES / name,
                length,
                tokenize,
                ctc=model.ctc is not None,
                fastest=getattr(model, "fastest", 1.0) if name == "train" else 1.0,
            )
            lines += [f"{name} {utt} {reason}" for utt, reason in dropped]
            if dropped:
                lost = plural(len(dropped), "utterance")
                _logger.warning("%s: %s dropped as too short", name, lost)
        listing = exp_dir / "dropped.txt"
        write_lines(listing, lines)
        if lines:
            _logger.warning("the dropped utterances are listed in %s", listing)


FRONT_END = "frontend.yaml"  # of statistics: the front end that they are of


def is_raw(folder: Path) -> bool:
    """Return whether a feature directory holds raw audio.

    Raises:
        UserError: its ``features.yaml`` is damaged.
    """
    found = FeatureExtractor.read(folder)
    return found is not None and found.fbank is None


def front_end_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return front end and its options, as ESPnet's arguments have them."""
    return {"frontend": args.frontend, "frontend_conf": dict(args.frontend_conf)}


def check_front_end(args: argparse.Namespace, folder: Path, stats_dir: Path | None = None) -> None:
    """Check that the front end of a model is of the rate of its audio, and its statistics of it.

    Args:
        args: ESPnet's arguments.
        folder: what is trained on; nothing is asked of features.
        stats_dir: made by ``collect_stats``.

    Raises:
        UserError: they differ.
    """
    data = FeatureExtractor.read(folder)
    if data is None or data.fbank is not None:
        return
    if problems := check_rates(args, data.fs, f"the audio of {folder}"):
        message, _, cure = problems[0].partition("; ")
        raise UserError(message, cure)
    path = None if stats_dir is None else stats_dir / FRONT_END
    if path is not None and present(path) and read_yaml(path) != front_end_of(args):
        raise UserError(
            f"{stats_dir} has the statistics of another front end than that of the configuration",
            "run the stats stage (7) again",
        )


def feature_options(part: str, folder: Path, *shape_files: Path) -> list[str]:
    """Return ESPnet's options for features, transcripts and their lengths.

    Args:
        part: ``train`` or ``valid``.
        folder: a data directory, or a folder with the parts of its files.
        shape_files: lengths of features, and of transcripts if they are known.

    Raises:
        UserError: the path holds a comma.
    """
    if "," in str(folder):
        raise UserError(f"the path {folder} holds a comma", "ESPnet splits there; rename it")
    words = []
    for source in (f"{folder / 'feats.scp'},speech,kaldi_ark", f"{folder / 'text'},text,text"):
        words += [f"--{part}_data_path_and_name_and_type", source]
    for path in shape_files:
        words += [f"--{part}_shape_file", str(path)]
    return words
