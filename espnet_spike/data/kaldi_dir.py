"""Kaldi data directories: reading, writing, checking and fixing.

A data directory holds tables, one entry a line, key first: ``wav.scp`` (or ``feats.scp``),
``text``, ``utt2spk``, ``spk2utt`` and, when several utterances share a recording, ``segments``.
``utt2speed`` is ours: the speed factor that feature extraction applies to an utterance. So is
``dropped.txt``: utterances that are in none of the tables any more, and why.
"""

import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espnet_spike.data.dropping import DROPPED, read_dropped
from espnet_spike.errors import UserError
from espnet_spike.utils.files import name_some, present, read_table, write_table

TABLES = ("wav.scp", "feats.scp", "segments", "text", "utt2spk", "spk2utt", "utt2speed")


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording; times in seconds, ``end`` -1 is the end of the recording."""

    recording: str
    start: float
    end: float


def speakers_to_utterances(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    """Turn ``utt2spk`` round, both levels sorted."""
    spk2utt: dict[str, list[str]] = {}
    for utt in sorted(utt2spk):
        spk2utt.setdefault(utt2spk[utt], []).append(utt)
    return spk2utt


def _parse_segment(path: Path, utt: str, value: str) -> Segment:
    fields = value.split()
    try:
        recording, start, end = fields
        return Segment(recording, float(start), float(end))
    except ValueError as error:
        raise UserError(
            f"{path}: {utt}: expected 'utterance recording start end', got '{utt} {value}'"
        ) from error


def _parse_speed(path: Path, utt: str, value: str) -> float:
    try:
        factor = float(value)
    except ValueError:
        factor = 0.0
    if not 0.1 <= factor <= 10:
        raise UserError(f"{path}: {utt}: {value!r} is no speed factor", "write a number near 1")
    return factor


@dataclass
class DataDir:
    """The tables of a data directory; ``segments`` and ``feats`` are empty when absent.

    Attributes:
        wav: recording (without ``segments``: utterance) -> path or Kaldi pipe, ``wav.scp``.
        feats: utterance -> ark entry, ``feats.scp`` of already extracted features.
        segments: utterance -> its stretch of a recording.
        text: utterance -> transcript.
        utt2spk: utterance -> speaker.
        utt2speed: utterance -> speed factor, absent means 1.
        dropped: utterance that the set has lost -> why.
    """

    wav: dict[str, str] = field(default_factory=dict)
    feats: dict[str, str] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    utt2spk: dict[str, str] = field(default_factory=dict)
    utt2speed: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "DataDir":
        """Read the tables that are there; ``utt2spk`` may come from ``spk2utt``.

        Raises:
            UserError: no directory, no ``text``, neither audio nor features, or a bad line.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such data directory", "stage 1 (data) makes it")

        def table(name: str) -> dict[str, str]:
            return read_table(path / name) if present(path / name) else {}

        if not present(path / "text"):
            raise UserError(f"{path}/text: missing", "one line an utterance: its id, its words")
        if not present(path / "wav.scp") and not present(path / "feats.scp"):
            raise UserError(f"{path}: neither wav.scp nor feats.scp")
        # one string a speaker, not one an utterance
        utt2spk = {utt: sys.intern(speaker) for utt, speaker in table("utt2spk").items()}
        if not utt2spk:
            for speaker, utterances in table("spk2utt").items():
                utt2spk |= dict.fromkeys(utterances.split(), speaker)
        return cls(
            wav=table("wav.scp"),
            feats=table("feats.scp"),
            segments={
                utt: _parse_segment(path / "segments", utt, value)
                for utt, value in table("segments").items()
            },
            text=table("text"),
            utt2spk=utt2spk,
            utt2speed={
                utt: _parse_speed(path / "utt2speed", utt, value)
                for utt, value in table("utt2speed").items()
            },
            dropped=read_dropped(path),
        )

    def write(self, path: Path) -> None:
        """Write the tables, ``spk2utt`` rebuilt; tables that became empty are removed."""
        path.mkdir(parents=True, exist_ok=True)
        spk2utt = speakers_to_utterances(self.utt2spk)
        tables: dict[str, Mapping[str, object]] = {
            "wav.scp": self.wav,
            "feats.scp": self.feats,
            "segments": {
                utt: f"{segment.recording} {segment.start!r} {segment.end!r}"
                for utt, segment in self.segments.items()
            },
            "text": self.text,
            "utt2spk": self.utt2spk,
            "spk2utt": {speaker: " ".join(utts) for speaker, utts in spk2utt.items()},
            "utt2speed": self.utt2speed,
            DROPPED: self.dropped,
        }
        for name, entries in tables.items():
            if entries:
                write_table(path / name, entries)
            else:
                (path / name).unlink(missing_ok=True)

    def check_same_utterances(self, path: Path) -> None:
        """Check that each utterance has a transcript, a speaker, and audio or features.

        Args:
            path: of the directory, for the message.

        Raises:
            UserError: naming the first utterances that a table lacks.
        """
        tables: dict[str, Iterable[str]] = {"text": self.text, "utt2spk": self.utt2spk}
        if self.segments:
            known = {utt for utt, s in self.segments.items() if s.recording in self.wav}
            tables["segments, with a recording in wav.scp,"] = known
        elif self.wav:
            tables["wav.scp"] = self.wav
        else:
            tables["feats.scp"] = self.feats
        wanted = {utt for table in tables.values() for utt in table}
        for name, table in tables.items():
            if lost := sorted(wanted.difference(table)):
                raise UserError(
                    f"{path}: {name} does not name all utterances of the other tables: "
                    + name_some(lost),
                    "run prepare_data_dir on it first, which says what is dropped",
                )

    def source(self, utt: str) -> tuple[str, float, float]:
        """Return ``(wav.scp value, start, end)`` of an utterance; seconds, end -1 is the end."""
        if self.segments:
            segment = self.segments[utt]
            return self.wav[segment.recording], segment.start, segment.end
        return self.wav[utt], 0.0, -1.0

    def subset(self, keys: Iterable[str]) -> "DataDir":
        """Return the directory with these utterances only and the recordings they use."""
        keys = set(keys)
        segments = {utt: seg for utt, seg in self.segments.items() if utt in keys}
        recordings = {seg.recording for seg in segments.values()} if self.segments else keys
        return DataDir(
            wav={key: value for key, value in self.wav.items() if key in recordings},
            feats={utt: value for utt, value in self.feats.items() if utt in keys},
            segments=segments,
            text={utt: value for utt, value in self.text.items() if utt in keys},
            utt2spk={utt: value for utt, value in self.utt2spk.items() if utt in keys},
            utt2speed={utt: value for utt, value in self.utt2speed.items() if utt in keys},
        )


def fix(data: DataDir) -> tuple[DataDir, dict[str, str], list[str]]:
    """Bring the tables to the same utterances.

    White space in transcripts becomes single spaces. An utterance without words, or missing from
    one of the tables, is dropped; the directory that is returned knows of those before, too.

    Returns:
        The fixed directory, the dropped utterances with the reason, notes for the user.
    """
    notes = []
    dropped: dict[str, str] = {}
    utt2spk = data.utt2spk
    if not utt2spk:
        utt2spk = {utt: utt for utt in data.text}
        notes.append("no utt2spk: each utterance counts as a speaker of its own")
    spaced = {u: joined for u, w in data.text.items() if (joined := " ".join(w.split())) != w}
    text = data.text | spaced if spaced else data.text
    audio = data.segments or data.wav or data.feats
    required = {"no audio": audio, "not in text": text, "not in utt2spk": utt2spk}
    if data.utt2speed:
        required["not in utt2speed"] = data.utt2speed

    def why_not(utt: str) -> str:
        for reason, table in required.items():
            if utt not in table:
                return reason
        if data.segments and data.segments[utt].recording not in data.wav:
            return "its recording is not in wav.scp"
        if not text[utt]:
            return "empty text"
        if not utt2spk[utt] or len(utt2spk[utt].split()) != 1:
            return "its speaker in utt2spk is not one word"
        return ""

    # no set of all utterances: there may be ten million
    for table in required.values():
        for utt in table:
            if (table is text or utt not in text) and (reason := why_not(utt)):
                dropped[utt] = reason
    fixed = DataDir(data.wav, data.feats, data.segments, text, utt2spk, data.utt2speed)
    if dropped or data.segments or (data.wav and data.feats):
        fixed = fixed.subset(utt for utt in text if utt not in dropped)
    dropped = dict(sorted(dropped.items()))
    before = {utt: why for utt, why in data.dropped.items() if utt not in fixed.text}
    fixed.dropped = before | dropped
    return fixed, dropped, notes


def backup(path: Path) -> Path:
    """Copy the tables as they are to ``.backup`` beside them and return that folder."""
    target = path / ".backup"
    target.mkdir(exist_ok=True)
    for name in TABLES:
        if present(path / name):
            shutil.copy2(path / name, target / name)
    return target
