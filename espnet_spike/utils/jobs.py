"""Run commands side by side; when one fails or the user interrupts, none is left behind."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.errors import UserError, cure_of
from espnet_spike.utils.files import last_lines

POLL_SECONDS = 0.2
TERMINATE_SECONDS = 5.0
TAIL_LINES = 20

HINTS = (
    ("out of memory", "lower batch_size in the inference config, or --inference_nj"),
    ("MemoryError", "lower batch_size in the inference config, or --inference_nj"),
    ("must be one of", "the encoder comes from a package that is not installed here"),
)


@dataclass(frozen=True)
class Job:
    """A command and where its output goes.

    Attributes:
        command: its words.
        logs: log files; the first takes what the command prints, it may go on to the others.
        environment: variables set for it.
    """

    command: Sequence[str]
    logs: Sequence[Path]
    environment: Mapping[str, str]


def run_jobs(name: str, jobs: Sequence[Job], poll: Callable[[], None]) -> None:
    """Run all jobs at once and wait for them.

    Args:
        name: what they do, for messages.
        jobs: the jobs.
        poll: called several times a second.

    Raises:
        UserError: a job failed; has its command, its log and the last lines of it. The others
            are ended first.
    """
    processes: list[subprocess.Popen] = []
    with terminated_is_interrupted():
        try:
            for job in jobs:
                job.logs[0].parent.mkdir(parents=True, exist_ok=True)
                with job.logs[0].open("ab") as log:
                    processes.append(
                        subprocess.Popen(
                            job.command,
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            env={**os.environ, **job.environment},
                        )
                    )
            while True:
                states = [process.poll() for process in processes]
                poll()
                for number, state in enumerate(states):
                    if state:
                        _fail(name, number, jobs, state)
                if None not in states:
                    return
                time.sleep(POLL_SECONDS)
        finally:
            _end(processes)


def _fail(name: str, number: int, jobs: Sequence[Job], status: int) -> None:
    job = jobs[number]
    written = [log for log in job.logs if log.exists()]
    log = max(written, key=lambda path: path.stat().st_mtime_ns)
    tail = last_lines(log, TAIL_LINES)
    if status == -signal.SIGKILL:
        hint = (
            "the job was killed, most often for lack of memory: lower --inference_nj or batch_size"
        )
    elif "hint: " in tail:
        hint = ""
    else:
        hint = next((hint for sign, hint in HINTS if sign in tail), "")
        hint = hint or cure_of(tail) or f"see {log}"
    raise UserError(
        f"{name}: job {number + 1} of {len(jobs)} failed (status {status})\n"
        f"  command: {shlex.join(job.command)}\n  log: {log}\n  its last lines:\n"
        + "\n".join(f"  | {line}" for line in tail.splitlines()),
        hint,
    )


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """End the processes that still run: ask first, then kill."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + TERMINATE_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that all is ended and removed; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [part for part in given.split(",") if part]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(n) for n, _ in enumerate(re.findall(r"^GPU ", listed.stdout, flags=re.MULTILINE))]
