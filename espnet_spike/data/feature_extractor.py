"""Feature settings stored with a model: rate and definition, kept beside it from stage 3 on.

``features.yaml`` is written with the features and handed on to the experiment and its pack, so
that a trained model can be given audio without being told how it was trained.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from espnet_spike.data.fbank import FbankConfig, extractor, load_config
from espnet_spike.errors import UserError
from espnet_spike.utils.files import write_lines

FEATURES = "features.yaml"


@dataclass(frozen=True)
class FeatureExtractor:
    """Sampling rate in Hz and definition of the features."""

    fs: int
    fbank: FbankConfig

    @classmethod
    def find(
        cls, folder: Path, fbank_config: Path | None = None, fs: int | None = None
    ) -> "FeatureExtractor":
        """Read what lies beside a model; ``fbank_config`` and ``fs`` come first when given.

        Raises:
            UserError: something is neither given nor there.
        """
        from espnet_spike.utils.yaml import read_yaml

        path = folder / FEATURES
        known: dict = {}
        if path.is_file():
            try:
                known = read_yaml(path)
                found = cls(int(known["fs"]), FbankConfig(**known["fbank"]))
            except (UserError, TypeError, KeyError, ValueError) as error:
                raise UserError(f"{path} cannot be used: {error}") from error
            fs, fbank = fs or found.fs, found.fbank
        elif fbank_config is None and (folder / "fbank.yaml").is_file():
            fbank_config = folder / "fbank.yaml"
        if fbank_config is not None:
            fbank = load_config(fbank_config)
        elif not known:
            raise UserError(
                f"{folder}: no {FEATURES}, so it is not known what features the model takes",
                "give --fbank_config and --fs as in training (of features that were extracted "
                "elsewhere nothing is known here)",
            )
        if fs is None:
            raise UserError(f"{folder}: the sampling rate is not known", "give --fs, in Hz")
        return cls(fs, fbank)

    def write(self, folder: Path) -> None:
        """Write ``features.yaml``."""
        import yaml

        content = {"fs": self.fs, "fbank": asdict(self.fbank)}
        write_lines(folder / FEATURES, yaml.safe_dump(content, sort_keys=False).splitlines())

    def frames(self, samples: int) -> int:
        """Return the number of frames of ``samples`` samples at ``fs``."""
        return extractor(self.fbank, self.fs).num_frames(samples)

    def __call__(self, wave: np.ndarray, name: str = "") -> np.ndarray:
        """Compute features ``(T, D)`` of samples ``(N,)`` at ``fs`` in the range of int16."""
        return extractor(self.fbank, self.fs)(wave, name)


def hand_on(source: Path, target: Path) -> None:
    """Copy ``features.yaml`` from one folder to another; remove a stale one if there is none."""
    if source.resolve() == target.resolve():
        return
    if (source / FEATURES).is_file():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / FEATURES, target / FEATURES)
    else:
        (target / FEATURES).unlink(missing_ok=True)
