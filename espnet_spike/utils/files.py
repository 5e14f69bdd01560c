"""Files of lines, tables and JSON: read with checks, written aside and renamed when complete."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from espnet_spike.errors import CURES, UserError, cure_of, system_error

SHOWN = 5  # how many offenders a message names


def present(path: Path) -> bool:
    """Return whether a file is there, False only where its name is free.

    ``Path.is_file`` says of a link to nothing, of a folder and of what cannot be looked at that it
    is no file; who takes that for absent goes on without what somebody has put there.

    Raises:
        UserError: something is there, and is no file that can be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.is_symlink():
            return False
        raise UserError(f"{path} is a link to nothing", "make it again, or remove it") from error
    except ValueError as error:  # a zero byte, which no name can have
        raise UserError(
            f"{str(path)!r} cannot be the name of a file", "name another one"
        ) from error
    except OSError as error:
        raise system_error(error) or error from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder, and a file belongs there", CURES[errno.EISDIR])
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is no regular file", "copy what it gives into a file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: no permission", CURES[errno.EACCES])
    return True


BOM = b"\xef\xbb\xbf"


def read_text(path: Path, cure: str = "copy it again, or make it anew") -> str:
    """Return a UTF-8 text.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1})", cure) from error
    except OSError as error:
        cure = cure_of(str(error.strerror)) or cure
        raise UserError(f"{path}: cannot be read ({error.strerror})", cure) from error


def iter_lines(path: Path) -> Iterator[str]:
    """Yield the lines that `iter_all_lines` yields but for blank ones."""
    return (line for line in iter_all_lines(path) if line.strip())


def iter_all_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without line ends and a byte order mark.

    Raises:
        UserError: no such file, or a line that is not UTF-8 (named by its number).
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.removeprefix(BOM) if number == 1 else raw
                line = line.removesuffix(b"\n")
                try:
                    decoded = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: not UTF-8 (byte {error.start + 1} of "
                        f"{line[:60]!r})",
                        "convert the file, for example with iconv -f latin1 -t utf-8",
                    ) from error
                yield decoded.rstrip("\r")
    except OSError as error:
        cure = cure_of(str(error.strerror))
        raise UserError(f"{path}: cannot be read ({error.strerror})", cure) from error


def has_mark(path: Path) -> bool:
    """Return whether a file begins with a byte order mark, at which ESPnet does not look."""
    with path.open("rb") as file:
        return file.read(len(BOM)) == BOM


def read_lines(path: Path) -> list[str]:
    """Return the lines that `iter_lines` yields."""
    return list(iter_lines(path))


def iter_table(path: Path) -> Iterator[tuple[str, str]]:
    """Yield key and value of each line of a table; a line with a key alone has the empty value.

    Key and value part at the first spaces or tabs, so a value (a path, a sentence) may hold spaces.

    Raises:
        UserError: unreadable, not UTF-8, or a key with white space in it.
    """
    for line in iter_lines(path):
        key, *rest = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1)
        if len(key.split()) != 1:
            raise UserError(
                f"{path}: key {key!r} holds white space",
                "ESPnet splits keys at any Unicode white space; rename the utterance",
            )
        yield key, rest[0].strip() if rest else ""


def read_table(path: Path) -> dict[str, str]:
    """Read a table; see `iter_table`.

    Raises:
        UserError: unreadable, not UTF-8, or a key given twice.
    """
    table: dict[str, str] = {}
    for key, value in iter_table(path):
        if key in table:
            raise UserError(f"{path}: {key} is given twice", "keep one of the two lines")
        table[key] = value
    return table


# what killed processes may leave of files that they were writing
LEFTOVERS = ".*.tmp*"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name in the folder of ``path`` to write under; it becomes ``path`` at the end.

    So a reader never sees half a file, and after an error the old one stays. Every call has a
    temporary name of its own; what an error leaves under it is removed. An error of the system
    names ``path``: that of a full disk names none, and nobody knows the temporary one.
    """
    temporary = temporary_name(path)
    try:
        with _naming(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Put ``path`` into errors of the system without a name, or with the temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, temporary, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def replacing_text(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 file that takes the place of ``path`` at the end; see ``replacing``."""
    with replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file


@contextlib.contextmanager
def replacing_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of ``path`` at the end; see ``replacing``."""
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            yield file


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that gets its name at the end; see ``replacing``.

    Raises:
        OSError: at the end, when ``path`` is a folder that is not empty.
    """
    temporary = temporary_name(path)
    try:
        with _naming(path, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


LONGEST_NAME = 255  # bytes, of Linux's and macOS's file systems


def fitting_name(name: str, ending: str = "", longest: int = LONGEST_NAME) -> str:
    """Return a name with its ending; one too long is cut and gets a digest of all of it.

    Args:
        name: of a file, without any slash.
        ending: which is kept.
        longest: bytes that the file system takes.

    >>> fitting_name("talk", ".txt")
    'talk.txt'
    >>> fitting_name("a" * 20, ".txt", 16)
    'a~42492da06234.txt'
    """
    raw = os.fsencode(name)
    if len(raw) + len(os.fsencode(ending)) <= longest:
        return name + ending
    mark = f"~{digest(raw)[:12]}"
    cut = raw[: max(longest - len(mark) - len(os.fsencode(ending)), 0)]
    while cut and raw[len(cut)] & 0xC0 == 0x80:  # no character of several bytes is cut in two
        cut = cut[:-1]
    return os.fsdecode(cut) + mark + ending


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other process, and no other call, has.

    Raises:
        OSError: the file system takes no name as long as that of ``path``.
    """
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
    # machines that share a disk may have processes of the same number
    ending = f".tmp{os.urandom(6).hex()}"
    return path.with_name(f".{fitting_name(path.name, ending, LONGEST_NAME - 1)}")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, see ``replacing``."""
    with replacing_text(path) as file:
        file.writelines(f"{line}\n" for line in lines)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, see ``replacing``."""
    with replacing_bytes(path) as file:
        file.write(content)


def write_table(path: Path, table: Mapping[str, object]) -> None:
    """Write a ``key value`` table sorted by key.

    Python compares strings by code point, which for UTF-8 is the byte order of ``LC_ALL=C sort``.
    """
    write_lines(path, (f"{key} {table[key]}".rstrip() for key in sorted(table)))


def name_some(names: Iterable[str]) -> str:
    """Return ``"a, b, c and 7 more"``."""
    names = list(names)
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def plural(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun, in the plural where there is not just one.

    >>> plural(1, "speaker"), plural(2, "speaker"), plural(0, "entry", "entries")
    ('1 speaker', '2 speakers', '0 entries')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {many or noun + 's'}"


def last_lines(path: Path, count: int = 20) -> str:
    """Return the last lines of a text file without reading more than its end."""
    with open(path, "rb") as f:
        f.seek(0, os.SEEK_END)
        f.seek(max(f.tell() - 400 * count, 0))
        return "\n".join(f.read().decode("utf-8", errors="replace").splitlines()[-count:])


def read_json(path: Path, cure: str = "", kind: type = dict) -> Any:
    """Read a result file.

    Args:
        path: the file.
        cure: what to do about a damaged one.
        kind: of what it holds, a mapping or a list.

    Raises:
        UserError: it is missing, cannot be read, or holds no JSON of that kind.
    """
    cure = cure or "run the stage that makes it again"
    missing = UserError(f"{path} is missing", cure)
    if not present(path):
        raise missing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # removed meanwhile
        raise missing from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}", cure) from None
    if not isinstance(content, kind):
        what = "mapping" if kind is dict else kind.__name__
        raise UserError(f"{path} is damaged: it holds no {what}", cure)
    return content


def write_json(path: Path, content: Any, *, indent: int | None = 1, **layout: Any) -> None:
    """Write JSON, see ``replacing``.

    Args:
        path: the file.
        content: what ``json.dumps`` takes.
        indent: spaces per level; None for one line.
        layout: further arguments of ``json.dumps``.
    """
    write_lines(path, [json.dumps(content, indent=indent, **layout)])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"encoder_conf.output_size": 64, ...}`` with JSON values.

    >>> flatten({"a": {"b": 1}, "c": (1, 2)})
    {'a.b': 1, 'c': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value, default=str))
    return flat


def digest(*parts: str | bytes) -> str:
    """Return a hex digest of the parts, each with its length so that they cannot run together."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big"))
        sha.update(data)
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """Return the hex digest of a file's content, read in blocks."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """Return the hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
