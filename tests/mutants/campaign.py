"""Put a mistake into a copy of the package, and see whether the tests of its file fail.

The copy holds all files of the checkout; one mutant at a time is written into it and taken out
again. Tests run in a process forked from this one, which has imported the heavy packages of other
people already (a start costs more than most tests do) and none of ours.
"""

import contextlib
import importlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = ("espnet_spike", "tests", "benchmarks", "conftest")
HEAVY = ("torch", "numpy", "numba", "hypothesis", "kaldialign", "jiwer", "scipy.special")
LIMIT_S = 600  # that a mutant makes its tests hang is a way to be found
KILLED, SURVIVED, BROKEN, HUNG = "killed", "SURVIVED", "BROKEN", "killed (hung)"


@dataclass(frozen=True)
class Mutant:
    """A mistake of one line.

    Attributes:
        file: below the checkout.
        old: a part of one line of it, there once.
        new: what stands in its place.
        tests: what pytest runs, words of a command line.
        reason: why it may survive; none for one that must be found.
    """

    file: str
    old: str
    new: str
    tests: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}"


class StaleMutant(ValueError):
    """A mutant whose line is not there, or not alone."""


def mutated(text: str, mutant: Mutant) -> str:
    """Return a file's text with the mistake in it.

    Raises:
        StaleMutant: the line is not there any more, is there twice, or nothing would change.
    """
    found = text.count(mutant.old)
    if found != 1:
        raise StaleMutant(f"{mutant}: the line is there {found} times, not once")
    if "\n" in mutant.old or "\n" in mutant.new:
        raise StaleMutant(f"{mutant}: more than a line")
    if mutant.old == mutant.new:
        raise StaleMutant(f"{mutant}: changes nothing")
    return text.replace(mutant.old, mutant.new)


def check(root: Path, mutants: Iterable[Mutant]) -> None:
    """Look whether every mutant still fits its file.

    Raises:
        StaleMutant: names all that do not.
    """
    wrong = []
    for mutant in mutants:
        try:
            mutated((root / mutant.file).read_text(encoding="utf-8"), mutant)
            for word in shlex.split(mutant.tests):
                if word.startswith("tests/") and not (root / word.partition("::")[0]).exists():
                    raise StaleMutant(f"{mutant}: {word} does not exist")
        except OSError as error:
            wrong.append(f"{mutant}: {error}")
        except StaleMutant as error:
            wrong.append(str(error))
    if wrong:
        raise StaleMutant("\n".join(wrong))


@contextlib.contextmanager
def copied(root: Path) -> Iterator[Path]:
    """Give a copy of the files of a checkout that git knows or would take; it goes away after."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = Path(folder) / "checkout"
        for name in filter(None, listed):
            source, target = root / name, copy / name
            if source.is_symlink() or source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        yield copy


def run_tests(copy: Path, tests: str, limit: float = LIMIT_S) -> tuple[str, str]:
    """Run tests of a copy.

    Returns:
        ``KILLED`` where a test failed, ``SURVIVED`` where all passed, ``BROKEN`` where they could
        not run, ``HUNG`` where they took too long; and the last lines they printed.
    """
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    output = copy.parent / "output.txt"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _in_child(copy, shlex.split(tests), output, limit)
    _, status = os.waitpid(child, 0)
    printed = output.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
    if os.WIFSIGNALED(status):
        return HUNG, f"ended by signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    return {0: SURVIVED, 1: KILLED}.get(code, BROKEN), "\n".join(printed)


def _in_child(copy: Path, words: Sequence[str], output: Path, limit: float) -> None:
    import signal

    import pytest

    signal.alarm(int(limit))
    code = 3
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
                del sys.modules[name]
            sys.path.insert(0, str(copy))
            os.chdir(copy)
            os.environ["PYTHONPATH"] = str(copy)
            sys.dont_write_bytecode = True  # that of a mutant must not be taken for the file's
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), write_through=True)
            code = int(pytest.main([*words, "-x", "-n", "0", "-p", "no:cacheprovider"]))
        finally:
            sys.stdout.flush()
            os._exit(code)


def run(copy: Path, mutant: Mutant) -> tuple[str, str]:
    """Return what becomes of a mutant in a copy, as ``run_tests`` does; the file is put back."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    times = path.stat()
    path.write_text(mutated(text, mutant), encoding="utf-8")
    try:
        return run_tests(copy, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
