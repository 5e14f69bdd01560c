"""Run one command of a recipe stage: skip it when done, log it, explain its failure.

``run.sh`` does this once per command::

    python -m espnet_spike.bin.run_stage --stage "3 fbank" --name fbank --expdir exp \
        --input data/train --output dump/fbank/org/train -- python -m espnet_spike.bin.fbank ...

A done-marker (``EXPDIR/.done/NAME.json``) is written only after the command exited with 0 and every
``--output`` exists. It holds a fingerprint of the command and of its inputs; while that stays the
same, the command is skipped. Options that change how a command runs, but not what it produces
(``--nj`` and the like), are left out of the fingerprint.
"""

import contextlib
import fcntl
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from espnet_spike import __version__
from espnet_spike.errors import UserError
from espnet_spike.utils.files import file_digest, text_digest, write_json

# a change of these gives the same output
UNHASHED_OPTIONS = frozenset(
    (
        "--nj --inference_nj --ngpu --gpu_inference --num_workers --cache --cluster"
        " --dist_launcher --dist_backend --multiprocessing_distributed"
    ).split()
)
# results of a later stage in a folder that is an input: they do not make it another input
LATER_RESULTS = frozenset({"count.json", "neurobench.json", "recording.npz"})
HASHED_BY_CONTENT = 64 << 20
TAIL_LINES = 20


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
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


HINTS = (
    ("No space left on device", "free some disk space; finished stages will not run again"),
    ("CUDA out of memory", "lower batch_bins in the training config, or raise accum_grad"),
    ("Killed", "the machine ran out of memory: lower --nj, or batch_bins in the config"),
    ("MemoryError", "lower --nj, or batch_bins in the config"),
    ("ModuleNotFoundError", "run 'bash local/env.sh' in the checkout, or see what --env lacks"),
)


def hint_for(log_tail: str, status: int) -> str:
    """Return one sentence on what to do after a failure."""
    if status == -signal.SIGKILL or status == 128 + signal.SIGKILL:
        return "the command was killed, most often for memory: lower --nj or batch_bins"
    if "hint: " in log_tail:  # the command has said it itself
        return ""
    for sign, hint in HINTS:
        if sign in log_tail:
            return hint
    return "fix the cause and rerun the same command: finished stages are skipped"


@contextlib.contextmanager
def _alone(path: Path, stage: str) -> Iterator[int]:
    """Hold a lock on a file, waiting for it if need be; yield its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            print(f"stage {stage}: waiting for process {holder}, which does the same", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _stream(command: Sequence[str], log: Path, lock: int) -> int:
    """Run a command, copy its output to the terminal and to a log; return its status.

    The command inherits the descriptor ``lock``: should this process be killed, the lock holds
    until the command has ended too.
    """
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    if not sys.stderr.isatty():
        env["TQDM_DISABLE"] = "1"  # a progress bar in a file is noise
    log.parent.mkdir(parents=True, exist_ok=True)
    # on Ctrl-C the child gets the signal too (same process group); it ends first, then this does
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with log.open("wb") as file:
            file.write(f"# {shlex.join(command)}\n# {time.strftime('%FT%T%z')}\n".encode())
            file.flush()
            child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=[lock],
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            assert isinstance(child.stdout, io.BufferedReader)  # not text
            while chunk := child.stdout.read1(1 << 16):
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
                # what a progress bar drew over itself is not kept
                file.write(b"".join(part.rsplit(b"\r", 1)[-1] for part in chunk.splitlines(True)))
                file.flush()
            return child.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def _telling(lines: Sequence[str]) -> Sequence[str]:
    """Return the last lines, or those from our own error message on if it stands before them.

    What started several processes has more to say after the one that failed.
    """
    said = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    start = min(said[-1], len(lines) - TAIL_LINES) if said else len(lines) - TAIL_LINES
    return lines[max(start, 0) :][:TAIL_LINES]


def run_stage(
    stage: str,
    name: str,
    command: Sequence[str],
    expdir: Path,
    inputs: Sequence[Path] = (),
    outputs: Sequence[Path] = (),
    launcher: Sequence[str] = (),
    unhashed: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    min_free_gb: float = 0.0,
) -> bool:
    """Run the command unless its marker is current; return whether it ran.

    ``launcher`` are words before the command, which start it in several processes; they change
    nothing of what comes out.

    Raises:
        UserError: an input is missing, the disk is full, the command failed or left no output.
    """
    marker_path = expdir / ".done" / f"{name}.json"
    log = expdir / "log" / f"{name}.log"
    left_out = UNHASHED_OPTIONS | set(unhashed)
    try:
        key = fingerprint(command, inputs, left_out)
    except UserError as error:
        if not dry_run:
            raise UserError(f"stage {stage}: {error.message}", error.hint) from None
        key = None

    def done() -> bool:
        marker = Marker.read(marker_path)
        same = key is not None and marker is not None and marker.fingerprint == key
        return same and all(path.exists() for path in outputs)

    if done() and not force:
        print(f"stage {stage}: done before, inputs and options unchanged ({name})")
        return False
    started = [*launcher, *command]
    if dry_run or key is None:  # there is a key but in a dry run
        print(f"stage {stage}: would run\n  {shlex.join(started)}")
        return False
    existing = next(p for p in [expdir.absolute(), *expdir.absolute().parents] if p.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < min_free_gb:
        raise UserError(
            f"stage {stage}: {free_gb:.1f} GB free at {existing}, {min_free_gb:g} GB wanted",
            "free some disk space, or lower --min_free_gb",
        )
    with _alone(marker_path.with_suffix(".lock"), stage) as lock:
        if done() and not force:  # by the process that was waited for
            print(f"stage {stage}: done meanwhile ({name})")
            return False
        print(f"stage {stage}: {name}, log in {log}", flush=True)
        start = time.monotonic()
        marker_path.unlink(missing_ok=True)
        status = _stream(started, log, lock)
        if status in (-signal.SIGINT, 128 + signal.SIGINT):
            raise KeyboardInterrupt
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(_telling(lines[2:]))
        absent = [str(path) for path in outputs if not path.exists()]
        if status == 0 and absent:
            status, tail = 1, tail + f"\nthe command exited with 0 but without {', '.join(absent)}"
        if status != 0:
            raise UserError(
                f"stage {stage} failed (status {status})\n"
                f"  command: {shlex.join(started)}\n  log: {log}\n  its last lines:\n"
                + "\n".join(f"  | {line}" for line in tail.splitlines()),
                hint_for(tail, status),
            )
        if set(inputs) & set(outputs):  # fixed in place: the next call sees the fixed files
            key = fingerprint(command, inputs, left_out)
        seconds = time.monotonic() - start
        Marker(key, shlex.join(command), time.strftime("%FT%T%z"), round(seconds, 2)).write(
            marker_path
        )
        print(f"stage {stage}: {name} finished in {seconds:.0f} s", flush=True)
        return True
