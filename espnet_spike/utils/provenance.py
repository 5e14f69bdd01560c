"""Where a result comes from: versions, machine, commit, and paths that hold elsewhere."""

import os
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from espnet_spike import __version__
from espnet_spike.utils.files import plural
from espnet_spike.utils.resources import checkout

PLACEHOLDER = "<corpus_dir>"


@cache
def _environment() -> tuple[tuple[str, str], ...]:
    return (
        ("python", platform.python_version()),
        ("torch", version("torch")),
        ("espnet", version("espnet")),
        ("espnet_spike", __version__),
        ("git", git_hash()),
        ("machine", f"{cpu_name()}, {plural(len(os.sched_getaffinity(0)), 'core')}"),
    )


def environment() -> dict[str, str]:
    """Return the versions and the machine that a result depends on."""
    return dict(_environment())


def git_hash(folder: Path | None = None) -> str:
    """Return the commit of a checkout, with ``-dirty`` after it when tracked files differ.

    Args:
        folder: inside the checkout; that of this package if None.
    """
    folder = folder or checkout()
    if folder is None:  # a wheel, maybe inside somebody else's repository
        return "not a git checkout"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    command += ["--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "git is not installed"
    return found.stdout.strip() if found.returncode == 0 else "not a git checkout"


def cpu_name() -> str:
    """Return the model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def portable(command: str, corpus_dir: Path | None = None) -> str:
    """Return a command line without paths that exist on this machine alone.

    The corpus becomes ``<corpus_dir>``; a path below the working directory or the checkout becomes
    relative; of any other absolute path the last part is kept.

    >>> portable("./run.sh --corpus_dir /data/my\\\\ corpus --asr_config /etc/x.yaml")
    './run.sh --corpus_dir <corpus_dir> --asr_config <path>/x.yaml'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    shown = []
    before = ""
    for word in words:
        match = re.fullmatch(r"(--[\w-]+)(?:(=)(.*))?", word, re.DOTALL)
        option, equals, value = match.groups("") if match else ("", "", word)
        if (option or before).replace("-", "_") == "__corpus_dir" and value:
            value = PLACEHOLDER
        elif value.startswith("/"):
            value = portable_path(Path(value), corpus_dir)
        elif value.startswith("--") and len(value.split()) > 1:  # options of another program
            value = portable(value, corpus_dir)
        # the angle brackets of our own are for people: no quotes for them
        plain = re.sub("<(corpus_dir|path)>", "", value)
        if plain != shlex.quote(plain) and not (plain == "" and option + value):
            value = shlex.quote(value)
        shown.append(option + equals + value)
        before = word
    return " ".join(shown)


def portable_path(path: Path, corpus_dir: Path | None = None) -> str:
    """Return a path as others may read it: relative to corpus, working directory or checkout."""
    if ".." in path.parts:
        path = path.resolve()
    if not path.is_absolute():
        return str(path)
    if path == Path(sys.executable):
        return "python"
    if corpus_dir is not None and path.is_relative_to(corpus_dir.absolute()):
        return f"{PLACEHOLDER}/{path.relative_to(corpus_dir.absolute())}"
    for base in (Path.cwd(), checkout()):
        if base is not None and path.is_relative_to(base):
            return str(path.relative_to(base))
    return f"<path>/{path.name}"
