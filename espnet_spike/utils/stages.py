"""Run one command of a recipe stage: skip it when done, log it, explain its failure.

``run.sh`` does this once per command::

    python -m espnet_spike.bin.run_stage --stage "3 fbank" --name fbank --expdir exp \
        --shared dump --input data/train --output dump/fbank/org/train \
        -- python -m espnet_spike.bin.fbank ...

A done-marker (``HOME/.done/NAME.json``) is written only after the command exited with 0 and every
``--output`` exists. It holds a fingerprint of the command and of its inputs; while that stays the
same, and the outputs are what they were, the command is skipped. Options that change how a command
runs, but not what it produces (``--nj`` and the like), are left out of the fingerprint.

The home of a marker is the folder that several experiments share (``data``, ``dump``) where the
outputs lie there, else ``EXPDIR``. What was done there for an experiment is kept in its own
``EXPDIR/.done``, too: should another one make the shared files anew, differently, the next stage
of this one says so.
"""

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_spike.errors import UserError, cure_of
from espnet_spike.utils.locks import locked
from espnet_spike.utils.markers import (
    UNHASHED_OPTIONS,
    Marker,
    Record,
    check_name,
    fingerprint,
    is_within,
    marker_path,
    missing,
    record_path,
    records,
)

TAIL_LINES = 20


HINTS = (
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
    return (
        cure_of(log_tail) or "fix the cause and rerun the same command: finished stages are skipped"
    )


def _stream(command: Sequence[str], log: Path, locks: Sequence[int]) -> int:
    """Run a command, copy its output to the terminal and to a log; return its status.

    The command inherits the descriptors ``locks``: should this process be killed, they hold until
    the command has ended too.
    """
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    if not sys.stderr.isatty():
        env["TQDM_DISABLE"] = "1"  # a progress bar in a file is noise
    log.parent.mkdir(parents=True, exist_ok=True)
    # on Ctrl-C the child gets the signal too (same process group); it ends first, then this does
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(log.open("wb"))
            file.write(f"# {shlex.join(command)}\n# {time.strftime('%FT%T%z')}\n".encode())
            file.flush()
            child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=locks,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            stack.callback(_end, child)
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


def _end(child: subprocess.Popen) -> None:
    """End a command whose log cannot be written, so that it does not go on unheard."""
    if child.poll() is None:
        child.terminate()
        child.wait()


def _telling(lines: Sequence[str]) -> Sequence[str]:
    """Return the last lines, or those from our own error message on if it stands before them.

    What started several processes has more to say after the one that failed.
    """
    said = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    start = min(said[-1], len(lines) - TAIL_LINES) if said else len(lines) - TAIL_LINES
    return lines[max(start, 0) :][:TAIL_LINES]


def _far_above(lines: Sequence[str]) -> str:
    """Return our own error message again if much was said after it.

    Anything else stands on the terminal just above, and is not said twice.
    """
    told = _telling(lines)
    if not told or told == lines[-len(told) :]:
        return ""
    return "\n  it said, before its last lines:\n" + "\n".join(f"  | {line}" for line in told)


@dataclass(frozen=True)
class Before:
    """What there was of an earlier run: markers by their home, and what it had made.

    ``record`` is None where it had not finished. Of files that were lost before the command ran
    again it says how that run found them.
    """

    markers: Mapping[Path, Marker | None]
    record: Record | None


@dataclass(frozen=True)
class Work:
    """A command, what it reads and makes, and where its marker is.

    Attributes:
        name: of the marker and the log.
        expdir: folder of the experiments, of logs and of markers of what lies nowhere else.
        inputs: files and folders.
        outputs: files, folders and patterns (``*.pth``) that have to be there.
        optional: further ones that it may make.
        shared: folders that other experiments write to, too.
    """

    name: str
    expdir: Path
    inputs: Sequence[Path] = ()
    outputs: Sequence[Path] = ()
    optional: Sequence[Path] = ()
    shared: Sequence[Path] = field(default_factory=tuple)

    @property
    def home(self) -> Path:
        """Where the marker is: the innermost shared folder with an output, or ``expdir``."""
        if any(is_within(path, self.expdir) for path in self.outputs):
            return self.expdir
        found = [s for s in self.shared if any(is_within(path, s) for path in self.outputs)]
        return max(found, key=lambda path: len(path.absolute().parts), default=self.expdir)

    def marker(self) -> Marker | None:
        """Return the marker; until there is one at home, that of an earlier version."""
        found = Marker.read(marker_path(self.home, self.name))
        if found is None and not record_path(self.expdir, self.name).exists():
            found = Marker.read(marker_path(self.expdir, self.name))
        return found

    def begin(self, command: str) -> None:
        """Take the marker away; one at home says to all that the outputs are in work."""
        for folder in dict.fromkeys((self.home, self.expdir)):
            marker_path(folder, self.name).unlink(missing_ok=True)
        if self.home != self.expdir:
            Marker("", command, "", 0.0).write(marker_path(self.home, self.name))

    def state(self) -> "Before":
        """Return what is there of an earlier run, to go back to it if this one is refused."""
        folders = dict.fromkeys((self.home, self.expdir))
        markers = {folder: Marker.read(marker_path(folder, self.name)) for folder in folders}
        record = Record.read(record_path(self.home, self.name))
        finished = any(marker is not None and marker.fingerprint for marker in markers.values())
        # of an earlier version, or something of it is lost
        if finished and (record is None or record.difference()):
            record = Record.take(self.home, self._made())
        return Before(markers, record if finished else None)

    def go_back(self, before: "Before") -> bool:
        """Put the markers of an earlier run back where all that it made is as this run found it."""
        if before.record is None or before.record.difference():
            return False
        for folder, marker in before.markers.items():
            if marker is None:
                marker_path(folder, self.name).unlink(missing_ok=True)
            else:
                marker.write(marker_path(folder, self.name))
        return True

    def why_not_done(self, key: str | None) -> str:
        """Return why the command has to run, empty if it has not."""
        marker = self.marker()
        if marker is None or not marker.fingerprint:
            return "it has not finished yet"
        if absent := missing(self.outputs):
            return f"{', '.join(absent)} is missing"
        record = Record.read(record_path(self.home, self.name))
        if record is not None and (difference := record.difference()):
            return difference
        return "" if marker.fingerprint == key else "its options or inputs have changed"

    def adopt(self) -> None:
        """Keep a finished command where this version looks for it: at home and in ``expdir``.

        What cannot be written changes nothing: it is looked at again the next time.
        """
        marker = self.marker()
        if marker is None:
            return
        with contextlib.suppress(OSError):
            record = Record.read(record_path(self.home, self.name))
            self.keep(marker, record or Record.take(self.home, self._made()))

    def keep(self, marker: Marker, record: Record) -> None:
        """Write marker and record where they are not what is there."""
        for folder in dict.fromkeys((self.home, self.expdir)):
            if Record.read(record_path(folder, self.name)) != record:
                record.write(record_path(folder, self.name))
            if Marker.read(marker_path(folder, self.name)) != marker:
                marker.write(marker_path(folder, self.name))

    def finish(self, marker: Marker, before: tuple[Marker | None, Record | None]) -> None:
        """Write marker and record of a command that has just finished.

        Where it only made anew what was lost, the old marker stays: to later stages nothing has
        changed. Records of other commands on the same files are brought up to date if it works in
        place.
        """
        record = Record.take(self.home, self._made())
        old, old_record = before
        again = old is not None and old.fingerprint == marker.fingerprint
        self.keep(
            old if old is not None and again and record.is_part_of(old_record) else marker, record
        )
        if set(self.inputs) & set(self.outputs):
            for folder in dict.fromkeys((self.home, self.expdir)):
                for name, other in records(folder).items():
                    new = other.updated(record, self.outputs)
                    if name != self.name and new != other:
                        new.write(record_path(folder, name))

    def check_shared(self) -> None:
        """Check that nobody has made the inputs anew, differently, for another experiment.

        Raises:
            UserError: naming the file, and the command that made it.
        """
        for name, record in records(self.expdir).items():
            home = Path(record.home)
            if is_within(home, self.expdir):
                continue
            mine = Marker.read(marker_path(self.expdir, name))
            theirs = Marker.read(marker_path(home, name))
            if mine is None or theirs is None or mine.fingerprint == theirs.fingerprint:
                continue
            for path in self.inputs:
                if difference := record.difference(path):
                    raise UserError(
                        f"{difference}: another run made {path} anew\n  by: {theirs.command}\n"
                        f"  for {self.expdir}: {mine.command}",
                        "run this experiment again from its first stage on, or give one of the "
                        "two a --dumpdir (or a copy of the recipe) of its own",
                    )

    def locks(self) -> tuple[list[Path], list[Path]]:
        """Return the lock files to hold alone, and those to share with other readers."""

        def lock(home: Path, name: str) -> Path:
            return marker_path(home, name).with_suffix(".lock")

        writes, reads = [lock(self.home, self.name)], []
        for home in self.shared:
            parts = {_part(home, path) for path in self.inputs} - {None}
            for name, record in records(home).items():
                if home == self.home and any(record.covers(path) for path in self.outputs):
                    writes.append(lock(home, name))
                elif parts & {_part(home, Path(file)) for file in record.files}:
                    reads.append(lock(home, name))
        return writes, reads

    def _made(self) -> list[Path]:
        return [*self.outputs, *self.optional]


def _part(home: Path, path: Path) -> str | None:
    """Return the first folder below ``home`` that a path lies in, None if it lies elsewhere.

    What is in it belongs together: a list of features names archives that another command made.
    """
    if not is_within(path, home):
        return None
    return Path(os.path.relpath(path, home)).parts[0]


def run_stage(
    stage: str,
    name: str,
    command: Sequence[str],
    expdir: Path,
    inputs: Sequence[Path] = (),
    outputs: Sequence[Path] = (),
    optional_outputs: Sequence[Path] = (),
    shared: Sequence[Path] = (),
    launcher: Sequence[str] = (),
    unhashed: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    min_free_gb: float = 0.0,
) -> bool:
    """Run the command unless it is done; return whether it ran.

    Of ``inputs`` to ``shared`` see `Work`. ``launcher`` are words before the command, which start
    it in several processes; they change nothing of what comes out.

    Raises:
        UserError: the name is too long for a file; an input is missing, or was made anew by another
            run; the disk is full, the command failed or left no output.
    """
    check_name(name)
    work = Work(name, expdir, inputs, outputs, optional_outputs, shared)
    log = expdir / "log" / f"{name}.log"
    left_out = UNHASHED_OPTIONS | set(unhashed)
    try:
        key = fingerprint(command, inputs, left_out)
    except UserError as error:
        if not dry_run:
            raise UserError(f"stage {stage}: {error.message}", error.hint) from None
        key = None

    reason = "it is forced to" if force else work.why_not_done(key)
    if not reason:
        print(f"stage {stage}: done before, inputs and options unchanged ({name})")
        if not dry_run:
            work.adopt()
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
    with locked(*work.locks(), f"stage {stage}") as locks:
        key = fingerprint(command, inputs, left_out)  # they may have changed while it waited
        if not force and not work.why_not_done(key):  # by the process that was waited for
            print(f"stage {stage}: done meanwhile ({name})")
            work.adopt()
            return False
        work.check_shared()
        before = work.marker(), Record.read(record_path(work.home, name))
        if before[0] is not None and not force:
            print(f"stage {stage}: {name} runs again, {reason}")
        print(f"stage {stage}: {name}, log in {log}", flush=True)
        start = time.monotonic()
        untouched = work.state()
        work.begin(shlex.join(command))
        status = _stream(started, log, locks)
        if status in (-signal.SIGINT, 128 + signal.SIGINT):
            raise KeyboardInterrupt
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail, lost = "\n".join(_telling(lines[2:])), ""
        absent = missing(outputs)
        if status == 0 and absent:
            status, lost = 1, f"\n  it exited with 0, but without {', '.join(absent)}"
        if status != 0:
            # our own commands refuse what is wrong before they write
            refused = status == 1 and any(line.startswith("error: ") for line in lines)
            if refused and work.go_back(untouched):
                print(f"stage {stage}: {name} stays as it was finished before", flush=True)
            raise UserError(
                f"stage {stage} failed (status {status}){lost}\n"
                f"  command: {shlex.join(started)}\n  log: {log}{_far_above(lines)}",
                hint_for(tail, status),
            )
        if set(inputs) & set(outputs):  # fixed in place: the next call sees the fixed files
            key = fingerprint(command, inputs, left_out)
        seconds = round(time.monotonic() - start, 2)
        work.finish(Marker(key, shlex.join(command), time.strftime("%FT%T%z"), seconds), before)
        print(f"stage {stage}: {name} finished in {seconds:.0f} s", flush=True)
        return True
