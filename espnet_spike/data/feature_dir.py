"""Directories of extracted features, as the later stages take them."""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, NamedTuple

from espnet_spike.data.kaldi_dir import speakers_to_utterances
from espnet_spike.errors import UserError
from espnet_spike.utils.files import iter_table, present, read_table, replacing_text, write_table

TABLES = ("feats.scp", "feats_shape", "utt2dur", "text", "utt2spk")


class Row(NamedTuple):
    """What a feature directory holds of an utterance; see `FeatureDir`."""

    utt: str
    feats: str
    frames: int
    dim: int
    duration: str
    text: str
    speaker: str


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the utterances of a feature directory in order, without holding them in memory.

    Raises:
        UserError: a table is missing or malformed, or the tables do not agree.
    """
    for name in TABLES:
        _check_table(path, name)
    tables = [iter_table(path / name) for name in TABLES]
    place: Callable[[str], str] | None = None
    for entries in zip_longest(*tables, fillvalue=("", "")):
        keys = [key for key, _ in entries]
        for name, key in zip(TABLES, keys, strict=True):
            if key != keys[0]:
                raise _differ(path, name, min(filter(None, (key, keys[0]))))
        feats, shape, duration, text, speaker = (value for _, value in entries)
        frames, dim = _shape(path, keys[0], shape)
        seconds_of(path, keys[0], duration)
        place = place or placing(path, feats)
        feats = place(feats)
        yield Row(keys[0], feats, frames, dim, duration, text, speaker)


def placing(folder: Path, entry: str) -> Callable[[str], str]:
    """Return what makes the entries of a ``feats.scp`` lead to the archives from here.

    Stage 3 names archives as seen from the recipe. Of a folder of another recipe they are looked
    for there: the working directory may have others of the same names.

    Args:
        folder: that ``feats.scp`` lies in.
        entry: one of it.
    """
    archive = Path(ENTRY_PATH.sub("", entry))
    if archive.is_absolute() or not archive.parts:  # the second: who reads it says what is wrong
        return str
    bases = [(base, p) for p in (folder.absolute(), folder.resolve()) for base in p.parents]
    there = [base for base, _ in bases if (base / archive).is_file()]
    # an archive that is lost is not looked for in another recipe
    named = [base for base, place in bases if place.is_relative_to(base / archive.parts[0])]
    base = next(iter([*there, *named]), None)
    if base is None or base.resolve() == Path.cwd().resolve():
        return str
    return lambda value: value if not value or value.startswith("/") else str(base / value)


ENTRY_PATH = re.compile(r"(:[0-9]+)?(\[[^\]]*\])?$")


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write a feature directory from utterances in order; return how many.

    Memory grows by the names in ``spk2utt`` only. Nothing is written when there is no row.
    """
    spk2utt: dict[str, list[str]] = {}
    count = 0
    with contextlib.ExitStack() as stack:
        files: list[IO[str]] = []
        for row in rows:
            count += 1
            if not files:
                path.mkdir(parents=True, exist_ok=True)
                # feats.scp first, so in place last: it says that the directory is complete
                files = [stack.enter_context(replacing_text(path / name)) for name in TABLES]
            shape = f"{row.frames},{row.dim}"
            values = (row.feats, shape, row.duration, row.text, row.speaker)
            for file, value in zip(files, values, strict=True):
                file.write(f"{row.utt} {value}".rstrip() + "\n")
            spk2utt.setdefault(row.speaker, []).append(row.utt)
        if count:
            write_table(path / "spk2utt", {spk: " ".join(utts) for spk, utts in spk2utt.items()})
    return count


def _check_table(path: Path, name: str) -> None:
    if not present(path / name):
        raise UserError(f"{path}: no {name}", "stage 3 (fbank) makes it")


def _shape(path: Path, utt: str, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9}),([0-9]{1,9})", value)
    if found is None or not int(found[2]):
        raise UserError(
            f"{path}/feats_shape: {utt}: {value!r} is not frames,dimensions",
            "run stage 3 (fbank) again",
        )
    return int(found[1]), int(found[2])


def seconds_of(path: Path, utt: str, value: str) -> float:
    """Return the seconds that ``utt2dur`` of a directory gives an utterance.

    Raises:
        UserError: they are no number, or none of seconds.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf or "_" in value:
        raise UserError(
            f"{path}/utt2dur: {utt}: {value!r} is no number of seconds", "make the table again"
        )
    return seconds


def _differ(path: Path, name: str, utt: str) -> UserError:
    return UserError(
        f"{path}: feats.scp and {name} differ, for example in {utt}", "run stage 3 (fbank) again"
    )


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
        for name in TABLES:
            _check_table(path, name)
        tables = {name: read_table(path / name) for name in TABLES}
        for name, table in tables.items():
            other = tables["feats.scp"].keys() ^ table.keys()
            if other:
                raise _differ(path, name, min(other))
        shapes = {utt: _shape(path, utt, value) for utt, value in tables["feats_shape"].items()}
        durations = {utt: seconds_of(path, utt, value) for utt, value in tables["utt2dur"].items()}
        feats = tables["feats.scp"]
        if feats:
            place = placing(path, next(iter(feats.values())))
            feats = {utt: place(entry) for utt, entry in feats.items()}
        return cls(feats, shapes, durations, tables["text"], tables["utt2spk"])

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
