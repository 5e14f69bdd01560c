"""Kaldi ark files: matrices of features, written with kaldiio, and audio; both read by our reader.

``parse_entry`` is the only parser of the entries of ``feats.scp``, and `ArkReader` the only reader
of what they name: neither runs a command or unpickles. ESPnet gets its features through
`FeatureTable` and ``read_entry`` (see ``espnet_spike.tasks.espnet``).

Audio in an ark is a WAV file of 16 bits and one channel for each utterance, as Kaldi's ``wav-copy``
and ESPnet's ``audio_format=wav.ark`` write it.

No other module imports kaldiio: its licence is for evaluation only, and a replacement has to
provide just what is used here, ``save_ark``.
"""

import io
import os
import re
import stat
import struct
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table

OPEN_FILES = 16
TEXT_BYTES = 1 << 28  # the longest matrix in text form
ENTRY = re.compile(r"(?P<path>.+?)(:(?P<offset>[0-9]{1,18}))?(\[(?P<range>[0-9:,]*)\])?", re.DOTALL)
RANGE = re.compile(r":?|([0-9]{1,9})(:([0-9]{1,9}))?")


class ArkWriter:
    """Write matrices one after another into an ark file, as a context manager.

    Args:
        path: the file.
        compression_method: None for float32, else Kaldi's number (2: one byte a value, 3: two).
        rate: of audio in Hz; None for matrices.
    """

    def __init__(
        self, path: Path, compression_method: int | None = None, rate: int | None = None
    ) -> None:
        self._file = path.open("wb")
        self._compression_method = compression_method
        self._rate = rate

    def __enter__(self) -> "ArkWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, key: str, matrix: np.ndarray) -> int:
        """Append a matrix ``(T, D)``; of audio, samples ``(N,)`` int16.

        Returns:
            Its offset, which a scp file puts behind the file name and a colon.
        """
        import kaldiio

        offset = self._file.tell() + len(key.encode()) + 1
        if self._rate is not None:
            self._file.write(key.encode() + b" " + _wav(matrix, self._rate))
            return offset
        kaldiio.save_ark(self._file, {key: matrix}, compression_method=self._compression_method)
        return offset


@dataclass(frozen=True)
class Entry:
    """What an entry of ``feats.scp`` says.

    Attributes:
        path: the ark file.
        offset: where the matrix begins, in bytes.
        rows, columns: the part of it that is meant.
    """

    path: str
    offset: int = 0
    rows: slice = slice(None)
    columns: slice = slice(None)


def parse_entry(utt: str, entry: str) -> Entry:
    """Parse ``path:offset``, with or without a Kaldi range ``[first:last]`` of rows, or of both.

    Args:
        utt: utterance, for messages.
        entry: from ``feats.scp``.

    Raises:
        UserError: a command, or nothing that can be the name of a file.
    """
    if entry.lstrip().startswith("|") or entry.rstrip().endswith("|"):
        raise UserError(
            f"{utt}: feats.scp names a command: {entry}", "write the features to an ark file"
        )
    found = ENTRY.fullmatch(entry)
    if found is None or "\0" in entry:
        raise UserError(f"{utt}: {entry!r} names no ark file", "write path:offset")
    rows, columns = slice(None), slice(None)
    if found["range"] is not None:
        ranges = [RANGE.fullmatch(part) for part in found["range"].split(",")]
        if len(ranges) > 2 or None in ranges:
            raise UserError(f"{utt}: {entry} has no range [first:last]", "write path:offset")
        rows, columns = ([_slice(part) for part in ranges] + [columns])[:2]
    return Entry(found["path"], int(found["offset"] or 0), rows, columns)


def _slice(found: re.Match[str] | None) -> slice:
    """Return what Kaldi means, for whom the last one belongs to it."""
    if found is None or found[1] is None:
        return slice(None)
    return slice(int(found[1]), int(found[3] or found[1]) + 1)


class ArkReader:
    """Read the matrices that scp entries ``path:offset`` name, as a context manager.

    Processes that are forked from this one may share it: reading moves no position in a file.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, int]] = {}  # path -> descriptor, size

    def __enter__(self) -> "ArkReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()  # another process opens the files again

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1][0])

    def read_matrix(self, utt: str, entry: str) -> np.ndarray:
        """Return what `read` does, where it is a matrix ``(T, D)``.

        Raises:
            UserError: as `read`, or the entry is one of audio.
        """
        found = self.read(utt, entry)
        if found.ndim != 2:
            raise UserError(f"{utt}: {entry} holds audio, no matrix", "name features")
        return found

    def read(self, utt: str, entry: str) -> np.ndarray:
        """Return the matrix ``(T, D)`` of an entry, checked to be finite, or its audio.

        Audio is samples ``(N,)`` float32 in [-1, 1), as ESPnet's front ends take them.

        Args:
            utt: utterance, for messages.
            entry: see `parse_entry`.

        Raises:
            UserError: missing, truncated or damaged ark, neither matrix nor audio, values that are
                not finite.
        """
        parsed = parse_entry(utt, entry)
        try:
            matrix = _matrix(*self._open(parsed.path), parsed.offset)
        except FileNotFoundError as error:
            raise UserError(
                f"{utt}: {entry}: no such file", "extract the features again"
            ) from error
        except (OSError, EOFError, ValueError, struct.error, wave.Error) as error:
            raise UserError(
                f"{utt}: {entry} cannot be read: truncated or damaged ark ({error})",
                "extract the features again",
            ) from error
        if matrix is None:
            raise UserError(f"{utt}: {entry} holds no matrix")
        if parsed.rows != slice(None) or parsed.columns != slice(None):
            if matrix.ndim != 2:
                raise UserError(f"{utt}: {entry}: a range of audio is not read", "use segments")
            matrix = matrix[parsed.rows, parsed.columns]
            if not matrix.size:
                raise UserError(f"{utt}: {entry} has nothing in this range", "see the ark's length")
        if not _finite(matrix):
            raise UserError(
                f"{utt}: {entry} holds values that are not finite",
                "one such frame stops the whole training; extract the features again",
            )
        return matrix

    def shape(self, utt: str, entry: str) -> tuple[int, int]:
        """Return frames T and dimension D of an entry; of most, from the head alone.

        Raises:
            UserError: as `read`.
        """
        parsed = parse_entry(utt, entry)
        if parsed.rows == slice(None) and parsed.columns == slice(None):
            try:
                file, size = self._open(parsed.path)
                found = _head(os.pread(file, 32, parsed.offset))
            except (OSError, ValueError, struct.error):
                found = None  # reading says what is wrong
            if found is not None and min(found) > 0 and found[0] * found[1] <= size - parsed.offset:
                return found
        rows, columns = self.read_matrix(utt, entry).shape
        return rows, columns

    def _open(self, path: str) -> tuple[int, int]:
        # another file of this name, after a change of folders or by a stage that made it anew
        if path in self._files and not os.path.samestat(
            os.stat(path), os.fstat(self._files[path][0])
        ):
            os.close(self._files.pop(path)[0])
        if path not in self._files:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files)))[0])
            # a pipe would let its opener wait for a writer
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                os.close(file)
                raise ValueError("it is no regular file")
            self._files[path] = file, facts.st_size
        return self._files[path]


class FeatureTable(Mapping[str, np.ndarray]):
    """What a ``feats.scp`` names, read when it is asked for, as ESPnet's datasets take it.

    Args:
        path: the scp.

    Raises:
        UserError: it cannot be read, or names a command.
    """

    def __init__(self, path: Path | str) -> None:
        self.entries = read_table(Path(path))
        for utt, entry in self.entries.items():
            parse_entry(utt, entry)
        self.reader = ArkReader()

    def __getitem__(self, utt: str) -> np.ndarray:
        """Return the matrix ``(T, D)`` or the audio of an utterance; see `ArkReader.read`."""
        return self.reader.read(utt, self.entries[utt])

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)


_shared = ArkReader()


def read_entry(entry: str | None) -> np.ndarray:
    """Return the matrix ``(T, D)`` or the audio of an entry whose utterance is not known.

    ESPnet gives None for the entry ``None``.

    Raises:
        UserError: as `ArkReader.read`.
    """
    return _shared.read("feats.scp", str(entry))


def _matrix(file: int, size: int, offset: int) -> np.ndarray | None:
    """Read a matrix or audio at an offset of a file of so many bytes; None of something else."""
    if offset >= size:
        raise EOFError(f"it has {size} bytes")
    head = os.pread(file, 32, offset)
    if head.lstrip(b" \n").startswith(b"["):
        return _text(os.pread(file, TEXT_BYTES, offset))
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _samples(file, size, offset, 8 + struct.unpack_from("<I", head, 4)[0])
    if head[:2] != b"\0B":
        raise ValueError("no Kaldi matrix at this place")
    kind = head[2:6].split(b" ")[0]
    if kind in (b"FM", b"DM"):
        dtype = np.dtype("<f4" if kind == b"FM" else "<f8")
        four, rows, eight, columns = struct.unpack_from("<bibi", head, 5)
        if (four, eight) != (4, 4):
            raise ValueError("its sizes are no 32-bit integers")
        return _values(file, size, offset + 15, (rows, columns), dtype)
    if kind in (b"CM", b"CM2", b"CM3"):
        at = 3 + len(kind)
        least, extent, rows, columns = struct.unpack_from("<ffii", head, at)
        return _compressed(file, size, offset + at + 16, kind, least, extent, (rows, columns))
    if kind in (b"FV", b"DV") or head[2:3] == b"\4":
        return None
    raise ValueError("no binary Kaldi matrix at this place")


def _wav(samples: np.ndarray, rate: int) -> bytes:
    """Return a WAV file with samples ``(N,)`` int16."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return content.getvalue()


def _samples(file: int, size: int, offset: int, length: int) -> np.ndarray:
    """Read the samples of a WAV file of so many bytes."""
    if offset + length > size:
        raise EOFError(f"a WAV file of {length} bytes does not fit into its {size} bytes")
    with wave.open(io.BytesIO(os.pread(file, length, offset))) as content:
        if (content.getnchannels(), content.getsampwidth()) != (1, 2):
            raise ValueError("audio of another form than one channel of 16 bits")
        samples = np.frombuffer(content.readframes(content.getnframes()), "<i2")
        if len(samples) != content.getnframes():
            raise EOFError("its audio is cut off")
    return samples.astype(np.float32) / np.float32(32768)


def _head(head: bytes) -> tuple[int, int] | None:
    """Return rows and columns that the head of a binary matrix names; None of anything else."""
    kind = head[2:6].split(b" ")[0]
    if head[:2] == b"\0B" and kind in (b"FM", b"DM"):
        _, rows, _, columns = struct.unpack_from("<bibi", head, 5)
        return rows, columns
    if head[:2] == b"\0B" and kind in (b"CM", b"CM2", b"CM3"):
        return struct.unpack_from("<ii", head, 11 + len(kind))
    return None


def _finite(matrix: np.ndarray) -> bool:
    # a sum takes half the time; finite values may give an infinite one, others never a finite one
    with np.errstate(all="ignore"):
        return bool(np.isfinite(matrix.sum()) or np.isfinite(matrix).all())


def _values(file: int, size: int, offset: int, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Read an array; its shape is that of the file and may be anything."""
    dtype = np.dtype(dtype)
    if min(shape) < 0 or offset + shape[0] * shape[1] * dtype.itemsize > size:
        raise EOFError(f"a matrix of {shape[0]} x {shape[1]} does not fit into its {size} bytes")
    if shape[0] and not shape[1]:
        raise ValueError(f"a matrix of {shape[0]} rows with nothing in them")
    values = np.empty(shape, dtype)
    rest = memoryview(values.reshape(-1)).cast("B") if values.size else memoryview(b"")
    while rest:
        count = os.preadv(file, [rest], offset)
        if not count:
            raise EOFError("it is cut off")
        rest, offset = rest[count:], offset + count
    return values


def _compressed(
    file: int,
    size: int,
    offset: int,
    kind: bytes,
    least: float,
    extent: float,
    shape: tuple[int, int],
) -> np.ndarray:
    """Read a ``CompressedMatrix`` of Kaldi, every value in the order of kaldiio's operations."""
    rows, columns = shape
    if kind != b"CM":
        most, dtype = (65535.0, "<u2") if kind == b"CM2" else (255.0, "u1")
        return _scaled(_values(file, size, offset, shape, dtype), least, extent, most)
    # percentiles 0, 25, 75 and 100 of each column, then one byte a value, column after column
    header = _scaled(_values(file, size, offset, (columns, 4), "<u2"), least, extent, 65535.0)
    codes = _values(file, size, offset + 8 * columns, (columns, rows), "u1")
    if rows <= 256:
        return _between(codes, header).T
    table = _between(np.broadcast_to(np.arange(256, dtype="u1"), (columns, 256)), header)
    return np.take_along_axis(table, codes, axis=1).T


def _scaled(codes: np.ndarray, least: float, extent: float, most: float) -> np.ndarray:
    with np.errstate(all="ignore"):  # a damaged header; values that are not finite are refused
        values = codes.astype(np.float32)
        values *= extent
        values /= most
        values += least
    return values


def _between(codes: np.ndarray, header: np.ndarray) -> np.ndarray:
    """Return values ``(D, T)`` of codes: 0 to 64 to 192 to 255 are the four percentiles."""
    values = codes.astype(np.float32)
    p0, p25, p75, p100 = (header[:, number, None] for number in range(4))
    with np.errstate(all="ignore"):
        return np.where(
            values <= 64,
            p0 + (p25 - p0) * values * (1 / 64.0),
            np.where(
                values > 192,
                p75 + (p100 - p75) * (values - 192.0) * (1 / 63.0),
                p25 + (p75 - p25) * (values - 64.0) * (1 / 128.0),
            ),
        )


def _text(content: bytes) -> np.ndarray | None:
    """Read ``[ 1 2\\n 3 4 ]``; None for a vector, which is on one line."""
    inside, end, _ = content.lstrip(b" \n").partition(b"]")
    if not end or b"_" in inside:  # which Python takes for part of a number
        raise ValueError("no Kaldi matrix at this place")
    rows = [row.split() for row in inside[1:].split(b"\n") if row.strip()]
    if b"\n" not in inside:
        return None
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows differ in length")
    return np.array([[float(value) for value in row] for row in rows], np.float32, ndmin=2)
