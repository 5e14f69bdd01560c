"""Feature settings stored with a model: rate and definition, kept beside it from stage 3 on.

``features.yaml`` is written with the features and handed on to the experiment and its pack, so
that a trained model can be given audio without being told how it was trained. Of a model with a
front end of its own, which takes audio, it holds the rate and no definition.
"""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from espnet_spike.data.fbank import FbankConfig, check_finite, extractor, load_config
from espnet_spike.errors import UserError
from espnet_spike.ranges import RATE, check
from espnet_spike.utils.files import flatten, name_some, present, write_lines

FEATURES = "features.yaml"
# how they are stored, which is no part of their definition
STORAGE = frozenset({"fbank.compression_method"})
# keys that the first version did not write
ADDED_LATER = frozenset({"mel_floor"})

RAW = "the model was trained on raw audio and has a front end of its own"
FROM_FEATURES = "train a model on log-mel features: --feats_type fbank and frontend: null"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureExtractor:
    """Sampling rate in Hz and definition of the features; no definition of a model of raw audio."""

    fs: int
    fbank: FbankConfig | None

    @classmethod
    def find(
        cls, folder: Path, fbank_config: Path | None = None, fs: int | None = None
    ) -> "FeatureExtractor":
        """Read what lies beside a model.

        Args:
            folder: of the model.
            fbank_config: definition of the features, where it is not known.
            fs: rate in Hz, where it is not known.

        Raises:
            UserError: something is neither given nor there, or what is given is not the model's.
        """
        found = cls.read(folder)
        if found is not None:
            found.check_given(folder, fbank_config, fs)
            return found
        if fbank_config is None and present(folder / "fbank.yaml"):
            fbank_config = folder / "fbank.yaml"
        if fbank_config is None:
            raise UserError(
                f"{folder}: no {FEATURES}, so it is not known what features the model takes",
                "give --fbank_config and --fs as in training; a model of features that were "
                "extracted elsewhere takes those, not audio: decode them (a pack unpacked before)",
            )
        if fs is None:
            raise UserError(f"{folder}: the sampling rate is not known", "give --fs, in Hz")
        return cls(fs, load_config(fbank_config))

    @classmethod
    def read(cls, folder: Path) -> "FeatureExtractor | None":
        """Read ``features.yaml`` of a folder; None where features were extracted elsewhere.

        Raises:
            UserError: it is damaged.
        """
        from espnet_spike.utils.yaml import read_yaml

        path = folder / FEATURES
        if not present(path):
            return None
        try:
            known = read_yaml(path)
            check({"fs": RATE}, {"fs": known["fs"]}, str(path))
            if known.keys() == {"fs", "raw"} and known["raw"] is True:
                return cls(int(known["fs"]), None)
            if lost := _keys() - known["fbank"].keys() - ADDED_LATER:
                raise UserError(f"without {', '.join(sorted(lost))}")
            return cls(int(known["fs"]), FbankConfig(**known["fbank"]))
        except (
            UserError,
            TypeError,
            LookupError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise UserError(
                f"{path} cannot be used: {getattr(error, 'message', error)}",
                "run the stage that makes the folder again",
            ) from error

    def check_given(self, folder: Path, fbank_config: Path | None, fs: int | None) -> None:
        """Check that what is given is what lies in ``folder``, of which this was read.

        Raises:
            UserError: the rate or a key differs, which it names with both values; or the model
                takes audio.
        """
        if fs not in (None, self.fs):
            raise UserError(
                f"--fs {fs}: the model of {folder} takes audio of {self.fs} Hz ({FEATURES})",
                f"give --fs {self.fs} or leave it out; it is for models whose rate is not known",
            )
        if fbank_config is None:
            return
        if self.fbank is None:
            raise UserError(f"{folder}: {RAW}", "leave out --fbank_config")
        given = FeatureExtractor(self.fs, load_config(fbank_config))
        if differing := self.differing(given):
            raise UserError(
                f"--fbank_config {fbank_config} defines other features than those that the model "
                f"was trained on ({folder / FEATURES}): {differing}",
                "leave out --fbank_config: it is for models whose features are not known",
            )

    def differing(self, other: "FeatureExtractor") -> str:
        """Name the keys in which another definition differs, with both values; empty if in none."""
        ours, theirs = flatten(asdict(self)), flatten(asdict(other))
        keys = [key for key in ours if key not in STORAGE and ours[key] != theirs[key]]
        return name_some(f"{key} is {theirs[key]}, not {ours[key]}" for key in keys)

    def write(self, folder: Path) -> None:
        """Write ``features.yaml``."""
        import yaml

        what = {"raw": True} if self.fbank is None else {"fbank": asdict(self.fbank)}
        content = {"fs": self.fs} | what
        write_lines(folder / FEATURES, yaml.safe_dump(content, sort_keys=False).splitlines())

    def frames(self, samples: int) -> int:
        """Return the number of frames of ``samples`` samples at ``fs``; of raw audio, samples."""
        return samples if self.fbank is None else extractor(self.fbank, self.fs).num_frames(samples)

    def __call__(self, wave: np.ndarray, name: str = "") -> np.ndarray:
        """Compute what a model takes of samples ``(N,)`` at ``fs`` in the range of int16.

        Returns:
            features ``(T, D)``; for a model of raw audio samples ``(N,)`` in [-1, 1).

        Raises:
            UserError: the samples are too large for features.
        """
        if self.fbank is None:
            return wave.astype(np.float32) / np.float32(32768)
        with np.errstate(over="ignore", invalid="ignore"):  # of which the error below tells
            features = extractor(self.fbank, self.fs)(wave, name)
        check_finite(features, name or "audio")
        return features

    def features(self, purpose: str) -> FbankConfig:
        """Return the definition of the features.

        Args:
            purpose: what needs features, for the message.

        Raises:
            UserError: the model takes raw audio.
        """
        if self.fbank is None:
            raise UserError(f"{purpose}: {RAW}", FROM_FEATURES)
        return self.fbank


def _keys() -> set[str]:
    return {field.name for field in fields(FbankConfig)}


def hand_on(source: Path, target: Path) -> None:
    """Copy ``features.yaml`` from one folder to another; remove a stale one if there is none."""
    if source.resolve() == target.resolve():
        return
    if present(source / FEATURES):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / FEATURES, target / FEATURES)
    else:
        (target / FEATURES).unlink(missing_ok=True)


def check_same_features(model: Path, folders: Iterable[Path]) -> None:
    """Check that features are defined as those that a model was, or is to be, trained on.

    Args:
        model: a folder with ``features.yaml``: of the experiment, or of its training data.
        folders: feature directories.

    Raises:
        UserError: a key of the definition differs; names it and both values.
    """
    known = FeatureExtractor.read(model)
    for folder in dict.fromkeys(folders):
        found = FeatureExtractor.read(folder)
        # of what stage 3 has not made the reader says so
        if (found is None) != (known is None) and present(folder / "feats.scp"):
            without, other = (folder, model) if found is None else (model, folder)
            _logger.warning(
                "%s has no %s: it is not known whether its features are those of %s",
                *(without, FEATURES, other),
            )
        if found is None or known is None:
            continue
        if (found.fbank is None) != (known.fbank is None):
            kinds = {True: "raw audio", False: "log-mel features"}
            raise UserError(
                f"{folder} holds {kinds[found.fbank is None]}, and {model} is of "
                f"{kinds[known.fbank is None]}",
                "give the folder that stage 3 made with the --feats_type of the model",
            )
        if differing := known.differing(found):
            raise UserError(
                f"the features of {folder} are of another definition than those of {model}: "
                + differing,
                "extract them again with the --fbank_config and --fs of the model (run.sh: the "
                "stages from fbank on, with --force true), or train a model on these",
            )
