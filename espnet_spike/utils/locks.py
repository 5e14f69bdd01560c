"""Locks of processes that write, or read, what others may write at the same time."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

UNWRITABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
)
"""Of the system: this user can make no lock file there."""


@contextlib.contextmanager
def locked(writes: Iterable[Path], reads: Iterable[Path], who: str) -> Iterator[list[int]]:
    """Hold lock files, those of ``writes`` alone, those of ``reads`` with other readers.

    They are taken in one order by all processes, so that none waits for one that waits for it.
    Where this user cannot write, a reader shares the lock file that is there. If none is, it reads
    without: nobody writes there as a rule, and who does renames files when they are whole.

    Args:
        writes: lock files; made if they are not there.
        reads: lock files.
        who: begins the line that is printed when it waits.

    Yields:
        the descriptors: a child that inherits them holds the locks as long as it lives.

    Raises:
        OSError: a lock to write with cannot be made.
    """
    alone = {Path(os.path.abspath(path)) for path in writes}
    shared = {Path(os.path.abspath(path)) for path in reads} - alone
    with contextlib.ExitStack() as stack:
        held = []
        for path in sorted(alone | shared):
            file = _opened(path, must=path in alone)
            if file is not None:
                stack.enter_context(file)
                _take(file, fcntl.LOCK_EX if path in alone else fcntl.LOCK_SH, path, who)
                held.append(file.fileno())
        yield held


@contextlib.contextmanager
def alone(path: Path, who: str) -> Iterator[None]:
    """Do something that one process does at a time; the lock file is gone afterwards.

    Args:
        path: of the lock file.
        who: begins the line that is printed when it waits.

    Raises:
        OSError: the lock cannot be made.
    """
    while True:
        with locked([path], [], who) as (number,):
            # the one that was waited for has removed the file
            if not path.exists() or os.stat(number).st_ino != path.stat().st_ino:
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _opened(path: Path, must: bool) -> IO[str] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        if must or error.errno not in UNWRITABLE:
            raise
    try:
        return path.open()
    except OSError:
        return None


def _take(file: IO[str], kind: int, path: Path, who: str) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        print(
            f"{who}: waiting for process {holder}, which works there, too ({path})",
            flush=True,
        )
        fcntl.flock(file, kind)
    if file.writable():
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
