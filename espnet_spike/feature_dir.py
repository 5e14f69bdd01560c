"""Directories of extracted features, as the later stages take them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.kaldi_dir import read_table, speakers_to_utterances, write_table


@dataclass
class FeatureDir:
    """The tables of a feature directory; all of them have the same utterances.

    Attributes:
        feats: utterance -> ``ark:offset``, ``feats.scp``.
        shapes: utterance -> (frames, dimensions), ``feats_shape``.
        durations: utterance -> seconds of audio, ``utt2dur``.
        text: utterance -> transcript.
        utt2spk: utterance -> speaker.
    """

    feats: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    utt2spk: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "FeatureDir":
        """Read a feature directory.

        Raises:
            UserError: a table is missing or malformed, or the tables do not agree.
        """
        if not (path / "feats.scp").exists():
            raise UserError(f"{path}: no feats.scp", "stage 3 (fbank) makes it")
        tables = {
            name: read_table(path / name)
            for name in ("feats.scp", "feats_shape", "utt2dur", "text", "utt2spk")
        }
        for name, table in tables.items():
            other = set(tables["feats.scp"]) ^ set(table)
            if other:
                raise UserError(
                    f"{path}: feats.scp and {name} differ, for example in {min(other)}",
                    "run stage 3 (fbank) again",
                )
        try:
            shapes = {}
            for utt, value in tables["feats_shape"].items():
                frames, dim = value.split(",")
                shapes[utt] = (int(frames), int(dim))
            durations = {utt: float(value) for utt, value in tables["utt2dur"].items()}
        except ValueError as error:
            raise UserError(f"{path}: malformed feats_shape or utt2dur: {error}") from error
        return cls(tables["feats.scp"], shapes, durations, tables["text"], tables["utt2spk"])

    def write(self, path: Path) -> None:
        """Write the tables, ``feats.scp`` last: it says that the directory is complete."""
        path.mkdir(parents=True, exist_ok=True)
        spk2utt = speakers_to_utterances(self.utt2spk)
        write_table(path / "text", self.text)
        write_table(path / "utt2spk", self.utt2spk)
        write_table(path / "spk2utt", {spk: " ".join(utts) for spk, utts in spk2utt.items()})
        write_table(path / "utt2dur", {utt: f"{s:.4f}" for utt, s in self.durations.items()})
        write_table(path / "feats_shape", {utt: f"{t},{d}" for utt, (t, d) in self.shapes.items()})
        write_table(path / "feats.scp", self.feats)

    def subset(self, keys: Iterable[str]) -> "FeatureDir":
        """Return the directory with these utterances only."""
        keys = list(keys)
        return FeatureDir(
            {utt: self.feats[utt] for utt in keys},
            {utt: self.shapes[utt] for utt in keys},
            {utt: self.durations[utt] for utt in keys},
            {utt: self.text[utt] for utt in keys},
            {utt: self.utt2spk[utt] for utt in keys},
        )
