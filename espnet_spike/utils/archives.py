"""Archives of others, tar and zip, unpacked by a reader that trusts nothing in them.

Only regular files and folders are taken, under names that stay inside of the folder; a link, a
device or a name that leads out refuses the whole archive. What it may unpack to is limited by its
own size, so a bomb ends before it fills the disk. It is read to its end, with every checksum that
the compression has.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from espnet_spike.errors import UserError
from espnet_spike.utils.files import (
    file_digest,
    iter_lines,
    name_some,
    temporary_name,
    write_lines,
)

if TYPE_CHECKING:
    import numpy as np

SUMS = "SHA256SUMS"
"""File with the digests of those beside it."""
BLOCK = 512  # of tar
CHUNK = 1 << 20  # bytes in memory at a time
HEADER = 1 << 20  # the longest extended header of tar, in bytes
DAMAGE = (EOFError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
DAMAGE += (RuntimeError, NotImplementedError)  # zipfile: encrypted, or packed in an unknown way


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        members: files and folders.
        factor: bytes for each byte of the archive; speech and weights hardly shrink.
        spare: bytes over that, for small archives of text.
        depth: folders in folders.
    """

    members: int = 1_000_000
    factor: int = 20
    spare: int = 1 << 25
    depth: int = 32


LIMITS = Limits()
TEXT = Limits(factor=200)  # the same words over and over


@dataclass(frozen=True)
class Member:
    """A file, or with ``data`` None a folder, of an archive.

    Attributes:
        name: as it stands there.
        size: bytes.
        data: gives at most so many of the next bytes.
    """

    name: str
    size: int = 0
    data: Callable[[int], bytes] | None = None


def unpack(archive: Path, folder: Path, members: str = "", limits: Limits = LIMITS) -> list[Path]:
    """Unpack an archive into a new folder, which gets its name when it is complete.

    Args:
        archive: tar (plain, gzip, bzip2 or xz) or zip; its content tells which.
        folder: must not exist.
        members: only members whose name begins so.
        limits: of what it may hold.

    Returns:
        The files, relative to the folder.

    Raises:
        UserError: it is damaged, holds what is refused, or the folder exists.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists", "remove it, or unpack elsewhere")
    staging = temporary_name(folder)
    found = unpack_into(archive, staging, members, limits=limits)
    os.rename(staging, folder)
    return found


def unpack_into(
    archive: Path,
    folder: Path,
    members: str = "",
    strip: int = 0,
    limits: Limits = LIMITS,
    advance: Callable[[int], object] = lambda position: None,
) -> list[Path]:
    """Unpack an archive into a folder that is made for it, and removed after an error.

    Args:
        archive, folder, members, limits: as for `unpack`.
        strip: leading parts of names to leave out.
        advance: is told how many bytes of the archive are read.

    Returns:
        The files, relative to the folder.

    Raises:
        UserError: as `unpack`.
    """
    found: dict[Path, None] = {}
    try:
        with archive.open("rb") as file:
            folder.mkdir(parents=True)
            try:
                _fill(file, os.path.realpath(folder), members, strip, limits, advance, found)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{archive} cannot be unpacked to {folder}: {error}") from error
        raise _damaged(archive, error) from error
    except DAMAGE as error:
        raise _damaged(archive, error) from error
    return list(found)


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(
        f"{archive} cannot be unpacked: {error or type(error).__name__}",
        "it is damaged, or holds more than plain files: fetch or pack it again",
    )


def _fill(
    file: IO[bytes],
    root: str,
    members: str,
    strip: int,
    limits: Limits,
    advance: Callable[[int], object],
    found: dict[Path, None],
) -> None:
    """Unpack into a folder that exists, given by its real path."""
    size = os.fstat(file.fileno()).st_size
    left = size * limits.factor + limits.spare
    for number, member in enumerate(_members(file, left)):
        if number >= limits.members:
            raise ValueError(f"more than {limits.members} members")
        left -= member.size
        if left < 0:
            raise ValueError(f"{member.name!r}: it unpacks to over {limits.factor} times its size")
        advance(file.tell())
        parts = _parts(member.name, limits)
        kept = parts[strip:]
        if not kept or not "/".join(parts).startswith(members):
            _skip(member)
            continue
        place = os.path.normpath(os.path.join(root, *kept))
        if not place.startswith(os.path.join(root, "")):
            raise ValueError(f"{member.name!r} leads out of the archive")
        if member.data is None:
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            _write(member, place)
            found[Path(*kept)] = None


def write_sums(folder: Path) -> Path:
    """Write the digests of all files of a folder into it, as ``sha256sum`` does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = (f"{file_digest(path)}  {path.relative_to(folder).as_posix()}" for path in files)
    write_lines(folder / SUMS, lines)
    return folder / SUMS


def deflate(archive: Path) -> None:
    """Compress the members of a zip of our own, which ESPnet only stores."""
    smaller = archive.with_name(f"{archive.name}.deflated")
    with (
        zipfile.ZipFile(archive) as stored,
        zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as deflated,
    ):
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    os.replace(smaller, archive)


def check_sums(folder: Path, besides: Collection[str] = ()) -> None:
    """Compare files with the digests that `write_sums` left beside them, if it did.

    A tar has no checksum of what is in it. Against those who write both, no digest helps.

    Args:
        folder: of the files.
        besides: names of files in it that were written after.

    Raises:
        UserError: names the first file that differs, is missing, or is not among them.
    """
    if not os.path.lexists(folder / SUMS):
        return
    unnamed = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    unnamed -= {Path(SUMS), *map(Path, besides)}
    for line in iter_lines(folder / SUMS):
        wanted, _, name = line.partition("  ")
        parts = Path(name).parts
        path = folder.joinpath(*parts)
        if not parts or Path(name).is_absolute() or ".." in parts or not path.is_file():
            raise UserError(f"{name!r}, which {SUMS} names, is missing", "copy the archive again")
        if file_digest(path) != wanted:
            raise UserError(f"{name} is not what was packed: its SHA-256 differs", "copy it again")
        unnamed.discard(Path(*parts))
    if unnamed:
        raise UserError(
            f"{SUMS} does not name {name_some(sorted(map(str, unnamed)))}", "copy the archive again"
        )


@contextmanager
def opened_zip(path: Path, limits: Limits = LIMITS) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose members keep to the limits.

    Raises:
        zipfile.BadZipFile: it is damaged.
        ValueError: it holds what is refused.
    """
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size * limits.factor + limits.spare
        with zipfile.ZipFile(file) as archive:
            _check_zip(archive, left)
            yield archive


def load_arrays(path: Path, cure: str = "", limits: Limits = TEXT) -> dict[str, "np.ndarray"]:
    """Return what an ``.npz`` file of numpy holds; it is read to its end, with all its checksums.

    Args:
        path: the file.
        cure: what to do about a damaged one.
        limits: of what it unpacks to.

    Raises:
        OSError: no such file.
        UserError: it is damaged, or holds what is no array of numbers or text.
    """
    from numpy.lib.format import read_array

    found = {}
    try:
        with opened_zip(path, limits) as archive:
            for name in archive.namelist():
                content = io.BytesIO(archive.read(name))
                found[name.removesuffix(".npy")] = read_array(content, allow_pickle=False)
                if content.read(1):
                    raise ValueError(f"{name} is longer than its array")
    except (*DAMAGE, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}", cure) from error
    return found


class _BoundedGzip(io.RawIOBase):
    """What a gzip file holds, up to a limit in bytes."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.stream = gzip.GzipFile(path)
        self.left = path.stat().st_size * limits.factor + limits.spare

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.stream.read(len(buffer))
        self.left -= len(block)
        if self.left < 0:
            raise OSError("it unpacks to many times its size")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self.stream.close()
        super().close()


def open_gzip_text(path: Path, encoding: str = "utf-8", limits: Limits = TEXT) -> TextIO:
    """Open a text that gzip compressed, with its own line ends; its checksum is read at its end.

    Raises:
        OSError: no such file; when it is read: damaged, or it unpacks to more than the limits.
    """
    raw = _BoundedGzip(path, limits)
    return io.TextIOWrapper(io.BufferedReader(raw, CHUNK), encoding=encoding, newline="")


def _parts(name: str, limits: Limits) -> list[str]:
    """Return the parts of a name without ``.``; none lead out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or "\0" in name or "\\" in name or ".." in parts:
        raise ValueError(f"{name!r} leads out of the archive")
    if len(parts) > limits.depth:
        raise ValueError(f"{name[:60]!r}... lies more than {limits.depth} folders deep")
    return parts


def _write(member: Member, place: str) -> None:
    assert member.data is not None
    left = member.size
    with open(place, "wb") as out:
        while left:
            block = member.data(min(left, CHUNK))
            if not block:
                raise EOFError(f"{member.name!r} is cut off")
            out.write(block)
            left -= len(block)
        if member.data(1):
            raise ValueError(f"{member.name!r} is longer than it says")


def _skip(member: Member) -> None:
    while member.data is not None and member.data(CHUNK):
        pass


def _members(file: IO[bytes], limit: int) -> Iterator[Member]:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith((b"PK\3\4", b"PK\5\6")):
        with zipfile.ZipFile(file) as archive:
            _check_zip(archive, limit)
            yield from _zip_members(archive)
    else:
        with _decompressed(file, magic) as stream:
            yield from _tar_members(_Bounded(stream, limit))


def _check_zip(archive: zipfile.ZipFile, limit: int) -> None:
    """Refuse what is no plain file or folder, and sizes that are beyond the limit."""
    if len(archive.infolist()) != (told := _told_entries(archive)):
        raise ValueError(f"it lists {len(archive.infolist())} members and says {told}")
    if sum(info.file_size for info in archive.infolist()) > limit:
        raise ValueError("it unpacks to many times its size")
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{info.filename!r} is neither a file nor a folder")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename!r} is packed in a way that is not read here")


def _told_entries(archive: zipfile.ZipFile) -> int:
    """Return the number of members that the end of the archive tells.

    zipfile does not look: a damaged length in its list makes one member swallow the next.
    """
    file = archive.fp
    assert file is not None  # open
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22 - 0xFFFF))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("it has no end")
    told = int.from_bytes(tail[end + 10 : end + 12], "little")
    # more stand in an end of 64 bits, which the old one only points to
    return len(archive.infolist()) if told == 0xFFFF else told


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if "\\" in info.orig_filename or "\0" in info.orig_filename:
            raise ValueError(f"{info.orig_filename!r} leads out of the archive")
        if info.is_dir():
            yield Member(info.filename)
        else:
            with archive.open(info) as file:  # compares the checksum at its end
                yield Member(info.filename, info.file_size, file.read)


def _decompressed(file: IO[bytes], magic: bytes) -> Any:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    return file


class _Bounded:
    """Reads a stream up to a limit.

    Args:
        stream: what is read.
        limit: bytes; beyond is an error. Tar adds a block or two to a member.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream, self.left = stream, 2 * limit

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        parts = []
        while size > 0 and (block := self.stream.read(min(size, CHUNK))):
            parts.append(block)
            size -= len(block)
            self.left -= len(block)
            if self.left < 0:
                raise ValueError("it unpacks to many times its size")
        return b"".join(parts)

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes."""
        found = self.read(size)
        if len(found) < size:
            raise EOFError("it is cut off")
        return found


class _Data:
    """The bytes of one member of a tar archive."""

    def __init__(self, stream: _Bounded, size: int) -> None:
        self.stream, self.left, self.padding = stream, size, -size % BLOCK

    def __call__(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return self.stream.exactly(size)

    def finish(self) -> None:
        """Go to the next header."""
        while self(CHUNK):
            pass
        self.stream.exactly(self.padding)


def _tar_members(stream: _Bounded) -> Iterator[Member]:
    """Read ustar, with the extended headers of POSIX (pax) and GNU."""
    common: dict[str, str] = {}
    own: dict[str, str] = {}
    while any(header := stream.exactly(BLOCK)):
        if _number(header[148:156]) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise ValueError("a header is damaged, or this is no archive")
        kind = header[156:157]
        size = _number(header[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            if not 0 <= size <= HEADER:
                raise ValueError("a header is too long")
            content = stream.exactly(size + -size % BLOCK)[:size]
            if kind == b"L":
                own["path"] = _text(content.rstrip(b"\0"))
            elif kind != b"K":
                (own if kind == b"x" else common).update(_pax(content))
            continue
        fields, own = common | own, {}
        name = fields.get("path") or _name(header)
        if any(key.startswith("GNU.sparse") for key in fields):
            raise ValueError(f"{name!r} is a sparse file")
        if "size" in fields:
            size = int(fields["size"])
        if size < 0:
            raise ValueError(f"{name!r} has a negative size")
        # before POSIX a folder was a file whose name ends so
        if kind == b"5" or (kind == b"\0" and name.endswith("/")):
            yield Member(name)  # whatever size it says, nothing follows
        elif kind in (b"0", b"\0", b"7"):
            data = _Data(stream, size)
            yield Member(name, size, data)
            data.finish()
        else:
            raise ValueError(f"{name!r} is neither a file nor a folder")
    while block := stream.read(CHUNK):  # to the checksum of the compression
        if any(block):  # a member's header was lost, and with it all that follow
            raise ValueError("there is more behind its end")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name, prefix = (_text(header[a:b].split(b"\0")[0]) for a, b in ((0, 100), (345, 500)))
    # GNU keeps times where POSIX has the prefix
    posix = header[257:263] == b"ustar\0"
    return f"{prefix}/{name}" if prefix and posix else name


def _number(field: bytes) -> int:
    if field[0] in (0o200, 0o377):  # of GNU, for what octal digits cannot say
        return int.from_bytes(field[1:], "big", signed=field[0] == 0o377)
    digits = field.split(b"\0")[0].strip().decode("ascii")
    return int(digits, 8) if digits else 0


def _pax(content: bytes) -> dict[str, str]:
    """Read the lines ``length key=value``."""
    found = {}
    while content.rstrip(b"\0"):
        length, space, _ = content.partition(b" ")
        end = int(length)
        key, equals, value = content[len(length) + 1 : end - 1].partition(b"=")
        if not (space and equals and len(length) + 2 < end <= len(content)):
            raise ValueError("a header is damaged")
        if content[end - 1 : end] != b"\n":
            raise ValueError("a header is damaged")
        found[_text(key)] = _text(value)
        content = content[end:]
    return found
