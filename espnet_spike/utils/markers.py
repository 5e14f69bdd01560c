"""Done-markers: which command has finished, and what its outputs were then.

A marker (``FOLDER/.done/NAME.json``) holds the fingerprint of a command and its inputs. Beside it
``FOLDER/.done/outputs/NAME.json`` holds size, time and digest of every file that the command made.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from espnet_spike import __version__
from espnet_spike.errors import UserError
from espnet_spike.utils.files import (
    LONGEST_NAME,
    digest,
    file_digest,
    read_json,
    text_digest,
    write_json,
)

# a change of these gives the same output
UNHASHED_OPTIONS = frozenset(
    (
        "--nj --inference_nj --ngpu --gpu_inference --num_workers --cache --cluster"
        " --dist_launcher --dist_backend --multiprocessing_distributed"
        " --test_dir --allow_dropped"  # an error, or the same
    ).split()
)
# results of a later stage in a folder that is an input: they do not make it another input
LATER_RESULTS = frozenset({"count.json", "neurobench.json", "recording.npz"})
LOG_FOLDERS = frozenset({"log", "logdir"})
HASHED_BY_CONTENT = 64 << 20
SAMPLE = 1 << 20  # bytes of a larger file that are hashed at its beginning, middle and end


def _file_key(path: Path) -> str:
    """Hash small files by content, large ones by size and time of change."""
    stat = path.stat()
    if stat.st_size > HASHED_BY_CONTENT:
        return f"{stat.st_size}:{stat.st_mtime_ns}"
    return file_digest(path)


def fingerprint(
    command: Sequence[str], inputs: Sequence[Path], unhashed: frozenset[str] = UNHASHED_OPTIONS
) -> str:
    """Hash a command line, without its ``unhashed`` options, and its inputs.

    A folder counts with the files directly inside it: data directories and experiment folders
    keep what identifies them there, and bulk data below. ``LATER_RESULTS`` do not count.

    Raises:
        UserError: an input does not exist.
    """
    kept, skip = [], False
    for word in command:
        if skip:
            skip = False
        elif word in unhashed:
            skip = True
        elif word.split("=")[0] not in unhashed:
            kept.append(word)
    parts = [__version__, *kept]
    for path in inputs:
        if path.is_dir():
            parts += [
                f"{child.name}={_file_key(child)}"
                for child in sorted(path.iterdir())
                if child.is_file() and child.name not in LATER_RESULTS
            ]
        elif path.is_file():
            parts.append(f"{path}={_file_key(path)}")
        else:
            raise UserError(
                f"{path} does not exist", "run the earlier stages first, with the same options"
            )
    return text_digest("\0".join(parts))


@dataclass(frozen=True)
class Marker:
    """What a done-marker file holds."""

    fingerprint: str
    command: str
    finished: str
    seconds: float

    def write(self, path: Path) -> None:
        """Write the marker in one step, so that an interrupted write leaves none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Marker | None":
        """Return the marker, or None when there is none that can be read."""
        try:
            return cls(**read_json(path))
        except (OSError, UserError, TypeError):
            return None


@dataclass(frozen=True)
class FileState:
    """What a file was: size in bytes, time of change in ns, digest of its content."""

    size: int
    changed: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the state of a file; of a large one, parts stand for its content."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, _sampled_digest(path, stat.st_size))

    def holds(self, path: Path) -> bool:
        """Return whether a file is still so; it is read only where its time differs."""
        try:
            stat = path.stat()
        except OSError:
            return False
        if stat.st_size != self.size:
            return False
        return stat.st_mtime_ns == self.changed or _sampled_digest(path, self.size) == self.digest


def _sampled_digest(path: Path, size: int) -> str:
    if size <= HASHED_BY_CONTENT:
        return file_digest(path)
    with path.open("rb") as file:
        parts = []
        for place in (0, size // 2, size - SAMPLE):
            file.seek(place)
            parts.append(file.read(SAMPLE))
    return digest(str(size), *parts)


def missing(outputs: Iterable[Path]) -> list[str]:
    """Return which outputs are not there; a pattern (``*.pth``) has to name a file at least."""
    return [str(path) for path in outputs if not any(_matches(path))]


def _matches(path: Path) -> Iterator[Path]:
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    yield from (one for one in found if one.exists())


def _files(outputs: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of outputs: those of folders all the way down, but no logs.

    Links that lead nowhere, sockets and pipes have no content to vouch for.
    """
    for output in outputs:
        for path in _matches(output):
            if not path.is_dir():
                yield path
                continue
            for folder, below, names in os.walk(path):
                below[:] = [n for n in below if n not in LOG_FOLDERS and not n.startswith(".")]
                for name in names:
                    file = Path(folder) / name
                    if name not in LATER_RESULTS and not name.startswith(".") and file.is_file():
                        yield file


@dataclass(frozen=True)
class Record:
    """What the outputs of a finished command were.

    Attributes:
        home: folder with the ``.done`` of the marker that vouches for them.
        files: name -> state.
    """

    home: str
    files: Mapping[str, FileState]

    @classmethod
    def take(cls, home: Path, outputs: Iterable[Path]) -> "Record":
        """Return what the outputs are now."""
        files = {str(path): FileState.of(path) for path in sorted(set(_files(outputs)))}
        return cls(str(home), files)

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Return a record, or None when there is none that can be read."""
        try:
            content = read_json(path)
            files = {name: FileState(**state) for name, state in content["files"].items()}
            return cls(content["home"], files)
        except (OSError, UserError, TypeError, LookupError, AttributeError):
            return None

    def write(self, path: Path) -> None:
        """Write the record in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))

    def difference(self, folder: Path | None = None) -> str:
        """Say which file is no longer what it was, empty if all are.

        Args:
            folder: look only at it, or what is in it.
        """
        for name, state in self.files.items():
            if folder is None or is_within(Path(name), folder):
                if not Path(name).exists():
                    return f"{name} is missing"
                if not state.holds(Path(name)):
                    return f"{name} is not what it was"
        return ""

    def covers(self, path: Path) -> bool:
        """Return whether a file, or one of a folder, is among these."""
        return any(is_within(Path(name), path) for name in self.files)

    def is_part_of(self, other: "Record | None") -> bool:
        """Return whether every file here has the same content there."""
        if other is None:
            return False
        return all(
            name in other.files and other.files[name].digest == state.digest
            for name, state in self.files.items()
        )

    def updated(self, other: "Record", outputs: Iterable[Path]) -> "Record":
        """Return the record with what ``other`` says of files of ``outputs``, which it made.

        ``LATER_RESULTS`` in a folder that it works in are not its own: what is known of them stays.
        """
        outputs = list(outputs)
        made = {
            name
            for name in self.files
            if any(is_within(Path(name), path) for path in outputs)
            and (name in other.files or Path(name).name not in LATER_RESULTS)
        }
        kept = {name: state for name, state in self.files.items() if name not in made}
        return Record(self.home, kept | {n: other.files[n] for n in made if n in other.files})


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or lies in it, by their names alone."""
    return os.path.abspath(path) == os.path.abspath(folder) or Path(
        os.path.abspath(path)
    ).is_relative_to(os.path.abspath(folder))


def check_name(name: str) -> None:
    """Check that a command can have a marker, before it works for one that cannot be written.

    Raises:
        UserError: its file would have too long a name.
    """
    size, most = len(os.fsencode(f"{name}.json")), LONGEST_NAME
    if size > most:
        raise UserError(
            f"{name[:40]}...: names of files with it have {size} bytes, and {most} are allowed",
            "give a shorter name: --asr_tag, --inference_tag, --lm_tag",
        )


def marker_path(home: Path, name: str) -> Path:
    """Return the file of a marker."""
    return home / ".done" / f"{name}.json"


def record_path(home: Path, name: str) -> Path:
    """Return the file of the record beside a marker."""
    return home / ".done" / "outputs" / f"{name}.json"


def records(home: Path) -> dict[str, Record]:
    """Return the records of a folder by the names of their markers."""
    found = {path.stem: Record.read(path) for path in (home / ".done" / "outputs").glob("*.json")}
    return {name: record for name, record in sorted(found.items()) if record is not None}
