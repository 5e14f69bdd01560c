"""Reading what people have: CSV, TSV and JSON lines manifests, Kaldi directories, lhotse manifests.

Everything becomes a list of `Item`, in the order of the source.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError

# names of columns, the first that is there is taken
COLUMNS = {
    "audio": ("audio", "audio_filepath", "audio_path", "path", "file", "filename", "wav", "key"),
    "text": ("text", "transcript", "transcription", "sentence", "txt", "words"),
    "id": ("id", "utt_id", "utt", "utterance", "uttid"),
    "speaker": ("speaker", "spk", "speaker_id", "client_id", "spk_id"),
    "start": ("start", "offset", "begin", "start_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),
}


@dataclass(frozen=True)
class Item:
    """An utterance of a manifest.

    Attributes:
        audio: file or Kaldi command, as written in the manifest; empty when there are features.
        text: its transcript.
        id: its name, or empty to be made from the file.
        speaker: its speaker, or empty.
        start, end: seconds in the file; end -1 is the end of the file.
        channel: counted from zero, or None when the manifest does not say.
        feats: Kaldi entry of features, or empty.
        speed: speed factor.
    """

    audio: str
    text: str
    id: str = ""
    speaker: str = ""
    start: float = 0.0
    end: float = -1.0
    channel: int | None = None
    feats: str = ""
    speed: float = 1.0


def read_source(source: Path, columns: Mapping[str, str] | None = None) -> list[Item]:
    """Read a Kaldi directory or a manifest; its name and first line tell the kind.

    Args:
        source: a Kaldi directory; ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` (a line each), also
            with ``.gz``; or lhotse's cuts or supervisions (with the recordings beside them).
        columns: what a table calls ``audio``, ``text``, ...; else the names in ``COLUMNS``.

    Raises:
        UserError: unreadable, empty, or something needed is not there.
    """
    if source.is_dir():
        return _kaldi(source)
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    kind = source.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind in ("csv", "tsv"):
        items = list(_table(source, "\t" if kind == "tsv" else ",", columns or {}))
    elif kind in ("jsonl", "json"):
        items = list(_json_lines(source, columns or {}))
    else:
        raise UserError(
            f"{source}: unknown kind of manifest",
            "a Kaldi directory, .csv, .tsv, .jsonl, or a lhotse manifest .jsonl.gz",
        )
    if not items:
        raise UserError(f"{source} holds no utterance")
    return items


def _open(source: Path) -> TextIO:
    if source.suffix == ".gz":
        return gzip.open(source, "rt", encoding="utf-8-sig", newline="")
    return source.open(encoding="utf-8-sig", newline="")


def _lines(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of the lines of a JSON lines file."""
    number = 0
    try:
        with _open(source) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{source}, line {number}: expected {{...}}")
                    yield number, row
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{source} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source}, line {number}: no JSON ({error})", "one {...} a line is expected"
        ) from error


def _table(source: Path, delimiter: str, columns: Mapping[str, str]) -> Iterator[Item]:
    try:
        with _open(source) as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{source}, line {reader.line_num}: {len(reader.fieldnames or ())} columns "
                        "are expected",
                        f"a field that holds {'a tab' if delimiter == chr(9) else 'a comma'} "
                        "stands in double quotes",
                    )
                yield _item(f"{source}, line {reader.line_num}", row, columns)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{source} cannot be read: {error}", "is it UTF-8? iconv converts"
        ) from error


def _item(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> Item:
    """Make an item of a row whose columns go by one of their names."""
    found: dict[str, Any] = {}
    lower = {name.strip().lower(): name for name in row}
    for what, names in COLUMNS.items():
        if what in columns:
            if columns[what] not in row:
                raise UserError(f"{where}: no column {columns[what]!r}; there are {', '.join(row)}")
            found[what] = row[columns[what]]
            continue
        name = next((lower[name] for name in names if name in lower), None)
        if name is not None and row[name] not in ("", None):
            found[what] = row[name]
        elif name is None and what in ("audio", "text"):
            raise UserError(
                f"{where}: no column for {what}; there are {', '.join(row)}",
                f"name it {names[0]}, or give --columns {what}=NAME",
            )
    if "audio" not in found:
        raise UserError(f"{where}: no audio file is named")
    try:
        start = float(found.get("start", 0.0))
        end = float(found.get("end", -1.0))
        # a duration alone is that of the file, as in NeMo's manifests
        if "end" not in found and "duration" in found and "start" in found:
            end = start + float(found["duration"])
    except ValueError as error:
        raise UserError(f"{where}: start, end and duration are in seconds: {error}") from error
    words = str(found.get("text", ""))
    name, speaker = (str(found.get(key, "")) for key in ("id", "speaker"))
    return Item(str(found["audio"]), words, name, speaker, start, end)


def _json_lines(source: Path, columns: Mapping[str, str]) -> Iterator[Item]:
    recordings: dict[str, dict[str, Any]] | None = None
    for number, row in _lines(source):
        where = f"{source}, line {number}"
        if "recording" in row or "Cut" in str(row.get("type")):
            yield from _cut(where, row)
        elif "recording_id" in row:
            if recordings is None:
                recordings = _recordings(source)
            if row["recording_id"] not in recordings:
                raise UserError(f"{where}: no recording {row['recording_id']!r}")
            yield _supervision(where, row, recordings[row["recording_id"]], 0.0)
        elif "sources" in row:
            raise UserError(f"{source}: these are recordings", "give the supervisions, or cuts")
        else:
            yield _item(where, row, columns)


def _recordings(supervisions: Path) -> dict[str, dict[str, Any]]:
    """Read the recordings beside the supervisions, under the name that lhotse gives them."""
    path = supervisions.with_name(supervisions.name.replace("supervisions", "recordings"))
    if path == supervisions or not path.is_file():
        raise UserError(
            f"{supervisions}: the recordings are not beside it ({path.name})",
            "lhotse names them ..._recordings_....jsonl.gz and ..._supervisions_....jsonl.gz",
        )
    return {row["id"]: row for _, row in _lines(path)}


def _cut(where: str, cut: Mapping[str, Any]) -> Iterator[Item]:
    name = cut.get("id", "?")
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut", "Cut") or "recording" not in cut:
        raise UserError(
            f"{where}: cut {name} has no recording of its own ({cut.get('type')})",
            "mixed and padded cuts are not supported: save the audio first (lhotse cut ...)",
        )
    supervisions = cut.get("supervisions") or []
    if not supervisions:
        raise UserError(f"{where}: cut {name} has no supervision, so no text")
    for supervision in supervisions:
        channel = supervision.get("channel", cut.get("channel"))
        yield _supervision(
            where, supervision | {"channel": channel}, cut["recording"], float(cut.get("start", 0))
        )


def _supervision(
    where: str, row: Mapping[str, Any], recording: Mapping[str, Any], offset: float
) -> Item:
    """Make an item of lhotse's supervision segment in a recording, ``offset`` seconds in."""
    if recording.get("transforms"):
        raise UserError(
            f"{where}: recording {recording['id']} is transformed (resampled, perturbed)",
            "save the audio first; run.sh has --fs and --speed_perturb_factors",
        )
    channel = row.get("channel", 0)
    wanted = set(channel) if isinstance(channel, list) else {channel}
    sources = [s for s in recording["sources"] if wanted & set(s["channels"])]
    if len(wanted) != 1 or len(sources) != 1 or sources[0]["type"] not in ("file", "command"):
        raise UserError(
            f"{where}: {row.get('id')}: one channel of one file is needed, not channel {channel} "
            f"of {', '.join(s['type'] for s in recording['sources'])}"
        )
    (source,) = sources
    audio = source["source"] + (" |" if source["type"] == "command" else "")
    start = offset + float(row["start"])
    end = start + float(row["duration"])
    length = float(recording["duration"])
    if start < 0.0005 and end > length - 0.0005:
        start, end = 0.0, -1.0
    several = len(source["channels"]) > 1
    position = source["channels"].index(next(iter(wanted))) if several else None
    text = row.get("text") or ""
    return Item(audio, text, row.get("id", ""), row.get("speaker") or "", start, end, position)


def _kaldi(folder: Path) -> list[Item]:
    data = DataDir.read(folder)
    items = []
    for utt, text in data.text.items():
        known: dict[str, Any] = {"id": utt, "text": text, "speaker": data.utt2spk.get(utt, "")}
        known["speed"] = data.utt2speed.get(utt, 1.0)
        if not data.wav:
            if utt in data.feats:
                items.append(Item("", feats=data.feats[utt], **known))
            continue
        segment = data.segments.get(utt)
        recording = segment.recording if segment else utt
        if (data.segments and segment is None) or recording not in data.wav:
            continue
        if segment:
            known |= {"start": segment.start, "end": segment.end}
        items.append(Item(data.wav[recording], **known))
    if not items:
        raise UserError(f"{folder}: text and audio have no utterance in common")
    return items


def names_of(items: Sequence[Item], source: Path) -> list[str]:
    """Return a name for each item: its own, or made from its file.

    Raises:
        UserError: two items of the same name.
    """
    stems = [re.sub(r"\s+", "_", Path(item.audio).stem) for item in items]
    if len(set(stems)) < len({item.audio for item in items}):  # a/1.wav and b/1.wav
        paths = (str(Path(item.audio).with_suffix("")).lstrip("./") for item in items)
        stems = [re.sub(r"[\s/]+", "-", path) for path in paths]
    names = []
    for item, stem in zip(items, stems, strict=True):
        name = re.sub(r"\s+", "_", item.id) or stem
        if not item.id and (item.start or item.end != -1):
            name += f"-{round(item.start * 1000):07d}"
        names.append(name)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(
                f"{source}: two utterances are called {name}", "give each a name of its own (id)"
            )
        seen.add(name)
    return names
