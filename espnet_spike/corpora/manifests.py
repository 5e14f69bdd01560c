"""Reading what people have: CSV, TSV and JSON lines manifests, Kaldi directories, lhotse manifests.

Everything becomes a list of `Item`, in the order of the source.
"""

import csv
import itertools
import json
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.archives import open_gzip_text
from espnet_spike.utils.files import name_some, present

_logger = logging.getLogger("data")
LONGEST_LINE = 1 << 24  # characters

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
        lost: why it cannot be used, or empty: then the rest says nothing.
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
    lost: str = ""


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
        return _with_stretches(source, _kaldi(source))
    if not present(source):
        raise UserError(f"{source}: no such file or folder")
    kind = source.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind in ("csv", "tsv"):
        items = list(_table(source, kind, columns or {}))
    elif kind in ("jsonl", "json"):
        items = list(_json_lines(source, columns or {}))
    else:
        raise UserError(
            f"{source}: unknown kind of manifest",
            "a Kaldi directory, .csv, .tsv, .jsonl, or a lhotse manifest .jsonl.gz",
        )
    if not items:
        raise UserError(f"{source} holds no utterance")
    return _with_stretches(source, items)


def _with_stretches(source: Path, items: list[Item]) -> list[Item]:
    """Return the items, each of a stretch of time that there can be.

    Raises:
        UserError: one is of none.
    """
    for item in items:
        if not 0 <= item.start < math.inf or not (item.end == -1 or item.start < item.end):
            raise UserError(
                f"{source}: {item.id or item.audio}: {item.start:g} to {item.end:g} s is no "
                "stretch of a recording",
                "start and end are seconds from its beginning; an end of -1 is its end",
            )
    return items


def _open(source: Path) -> TextIO:
    if source.suffix == ".gz":
        return open_gzip_text(source, "utf-8-sig")
    return source.open(encoding="utf-8-sig", newline="")


def _text_lines(source: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends.

    Raises:
        UserError: one is longer than any; it may go on without an end, unpacked from very little.
    """
    with _open(source) as file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            if len(line) == LONGEST_LINE:
                raise UserError(
                    f"{source}, line {number}: over {LONGEST_LINE} characters", "is it a manifest?"
                )
            yield line


def _lines(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of the lines of a JSON lines file."""
    number = 0
    try:
        for number, line in enumerate(_text_lines(source), 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{source}, line {number}: expected {{...}}")
                yield number, row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{source} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # not all are a JSONDecodeError
        raise UserError(
            f"{source}, line {number}: no JSON ({error})", "one {...} a line is expected"
        ) from error


def _table(source: Path, kind: str, columns: Mapping[str, str]) -> Iterator[Item]:
    """Yield the items of a table: CSV quotes what holds a comma, TSV does not."""
    rows = list(_rows(source, kind))
    for name in rows[0][1] if kind == "tsv" and rows else ():
        fields = [row[name] for _, row in rows]
        if all(not field or _IN_QUOTES.fullmatch(field) for field in fields):
            for _, row in rows:  # by a program that quotes every field
                row[name] = row[name][1:-1].replace('""', '"')
        elif odd := sum(map(bool, map(_QUOTED.fullmatch, fields))):
            _logger.warning(
                "%s: %d fields of %s have double quotes around and twice inside; a TSV has no "
                "quoting, so they are part of the text. If they are not, name the file .csv",
                *(source, odd, name),
            )
    for number, row in rows:
        yield _item(f"{source}, line {number}", row, columns)


_IN_QUOTES = re.compile(r'"(?:[^"]|"")*"')
# what a program that quotes makes of a field that holds quotes
_QUOTED = re.compile(r'"(?:[^"]*"")+[^"]*"')
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def _rows(source: Path, kind: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line at which a row of a table begins, and its fields by column."""
    number = 1
    try:
        lines = _text_lines(source)
        head = next(lines, "")
        if kind == "tsv":
            if head.strip() and "\t" not in head:
                raise UserError(
                    f"{source}: no tab in its first line", "name a table with commas .csv"
                )
            delimiter = "\t"
            style: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
        else:  # a spreadsheet of a country with decimal commas writes semicolons
            delimiter = max(_DELIMITERS, key=head.count)
            style = {"strict": True, "skipinitialspace": True}
        reader = csv.reader(itertools.chain([head], lines), delimiter=delimiter, **style)
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise UserError(f"{source}: two columns have the same name: {', '.join(names)}")
        while True:
            number = reader.line_num + 1
            fields = next(reader, None)
            if fields is None:
                return
            if not fields:
                continue
            where = f"{source}, line {number}"
            if any(_rows_within(field, delimiter, len(names)) for field in fields):
                raise UserError(
                    f"{where}: a double quote opens a field that goes on to line "
                    f"{reader.line_num} and swallows the rows between",
                    f"balance the quotes, or save the table as .tsv, which has none; {_ESCAPE}",
                )
            if len(fields) != len(names):
                raise UserError(
                    f"{where}: {len(names)} columns are expected, not {len(fields)}",
                    f"a field that holds {_DELIMITERS[delimiter]} stands in double quotes"
                    if kind == "csv"
                    else "a field cannot hold a tab or a line end",
                )
            yield number, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{source}, line {number}: {error}",
            f"is there a double quote that is not closed? {_ESCAPE}" if kind == "csv" else "",
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source} cannot be read: {error}", "iconv converts to UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source} cannot be read: {error}") from error


_ESCAPE = 'a quote inside a field in quotes is written twice ("")'


def _rows_within(field: str, delimiter: str, columns: int) -> int:
    """Return how many rows of a table a field of several lines must have swallowed."""
    ends = len(re.findall(r"\r\n|\r|\n", field.strip("\r\n")))
    return ends if ends and field.count(delimiter) >= ends * (columns - 1) else 0


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
    start, end = _seconds(where, "start", found, 0.0), _seconds(where, "end", found, -1.0)
    # a duration alone is that of the file, as in NeMo's manifests
    if "end" not in found and "duration" in found and "start" in found:
        end = start + _seconds(where, "duration", found)
    audio, words, name, speaker = (
        _words(where, what, found) for what in ("audio", "text", "id", "speaker")
    )
    return Item(audio, words, name, speaker, start, end)


def _seconds(where: str, what: str, row: Mapping[str, Any], default: float | None = None) -> float:
    """Return a field that holds seconds."""
    value = row.get(what, default)
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            if math.isfinite(seconds := float(value)):
                return seconds
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{where}: {what} is {str(value)[:50]!r}, no number of seconds")


def _words(where: str, what: str, row: Mapping[str, Any]) -> str:
    """Return a field that holds a text, or the digits of a number; empty if it is not there."""
    value = row.get(what)
    if value is None:
        return ""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value).strip()
        if not any("\ud800" <= character <= "\udfff" for character in text):
            return text
    raise UserError(f"{where}: {what} is {str(value)[:50]!a}, no text")


def _json_lines(source: Path, columns: Mapping[str, str]) -> Iterator[Item]:
    recordings: dict[str, dict[str, Any]] | None = None
    for number, row in _lines(source):
        where = f"{source}, line {number}"
        if "recording" in row or "Cut" in str(row.get("type")):
            yield from _of_lhotse(where, _cut, row)
        elif "recording_id" in row:
            if recordings is None:
                recordings = _recordings(source)
            recording = recordings.get(_words(where, "recording_id", row))
            if recording is None:
                raise UserError(f"{where}: no recording {row['recording_id']!r}")
            yield from _of_lhotse(where, _supervision, row, recording, 0.0)
        elif "sources" in row:
            raise UserError(f"{source}: these are recordings", "give the supervisions, or cuts")
        else:
            yield _item(where, row, columns)


def _of_lhotse(where: str, read: Callable[..., Iterator[Item]], *rows: Any) -> Iterator[Item]:
    """Yield the items of a line of lhotse's."""
    try:
        yield from read(where, *rows)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: lhotse writes something else ({type(error).__name__}: {error})",
            "write the manifest again with lhotse, or a table of audio files and texts",
        ) from error


def _recordings(supervisions: Path) -> dict[str, dict[str, Any]]:
    """Read the recordings beside the supervisions, under the name that lhotse gives them."""
    path = supervisions.with_name(supervisions.name.replace("supervisions", "recordings"))
    if path == supervisions or not present(path):
        raise UserError(
            f"{supervisions}: the recordings are not beside it ({path.name})",
            "lhotse names them ..._recordings_....jsonl.gz and ..._supervisions_....jsonl.gz",
        )
    return {_words(f"{path}, line {number}", "id", row): row for number, row in _lines(path)}


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
        start = _seconds(where, "start", cut, 0.0)
        yield from _supervision(where, supervision | {"channel": channel}, cut["recording"], start)


def _supervision(
    where: str, row: Mapping[str, Any], recording: Mapping[str, Any], offset: float
) -> Iterator[Item]:
    """Yield the item of lhotse's supervision segment in a recording, ``offset`` seconds in."""
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
    audio = _words(where, "source", source) + (" |" if source["type"] == "command" else "")
    start = offset + _seconds(where, "start", row)
    end = start + _seconds(where, "duration", row)
    length = _seconds(where, "duration", recording)
    if -0.0005 < start < 0:  # a rounded one
        start = 0.0
    if start < 0.0005 and end > length - 0.0005:
        start, end = 0.0, -1.0
    several = len(source["channels"]) > 1
    position = source["channels"].index(next(iter(wanted))) if several else None
    text, name, speaker = (_words(where, what, row) for what in ("text", "id", "speaker"))
    yield Item(audio, text, name, speaker, start, end, position)


def _kaldi(folder: Path) -> list[Item]:
    data = DataDir.read(folder)
    items = []
    lost = dict(data.dropped)
    for utt in data.segments or data.wav or data.feats:
        if utt not in data.text:
            lost[utt] = "not in text"
    for utt, text in data.text.items():
        known: dict[str, Any] = {"id": utt, "text": text, "speaker": data.utt2spk.get(utt, "")}
        known["speed"] = data.utt2speed.get(utt, 1.0)
        if not data.wav:
            if utt in data.feats:
                items.append(Item("", feats=data.feats[utt], **known))
            else:
                lost[utt] = "not in feats.scp"
            continue
        segment = data.segments.get(utt)
        recording = segment.recording if segment else utt
        if (data.segments and segment is None) or recording not in data.wav:
            lost[utt] = "no audio"
            continue
        if segment:
            known |= {"start": segment.start, "end": segment.end}
        items.append(Item(data.wav[recording], **known))
    if not items:
        raise UserError(f"{folder}: text and audio have no utterance in common")
    if lost:
        _logger.warning("%s: %d are left out: %s", folder, len(lost), name_some(sorted(lost)))
    return items + [Item("", "", utt, lost=why) for utt, why in lost.items()]


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
