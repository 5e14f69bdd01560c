"""Making features of many utterances with several processes.

Each data set is cut into as many stretches of its sorted utterances as there are processes; a
process writes one ark file a stretch and reads it back. What comes out does not depend on the
number of processes, except for the names of the ark files. On a cluster a stretch is a task.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from espnet_spike.data.ark import ArkReader, ArkWriter
from espnet_spike.data.dropping import DROPPED, ScoredSets
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError, system_error
from espnet_spike.utils.cluster import UTTERANCES, ClusterConfig, number_of_tasks
from espnet_spike.utils.cluster import run_tasks as run_on_cluster
from espnet_spike.utils.files import LEFTOVERS, replacing, write_table

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from tqdm import tqdm


class Make(Protocol):
    """What makes the features of an utterance."""

    def __call__(self, utt: str) -> "tuple[np.ndarray, float] | str":
        """Return matrix ``(T, D)`` or samples, and seconds, or why the utterance is dropped."""
        ...

    def part(self, utterances: Iterable[str]) -> "Make":
        """Return what makes these utterances only: it is sent to another machine."""
        ...


@dataclass
class Task:
    """One data set to make.

    Attributes:
        target: feature directory to write.
        costs: utterance -> seconds of audio or another measure of work.
        text: utterance -> transcript.
        utt2spk: utterance -> speaker.
        make: what makes an utterance.
        compression_method: of the ark files.
        source: data directory.
        lost: utterances that it has lost already, with the reasons.
        scored: which data directories lose no utterance.
        rate: of audio that is written, in Hz; None of features.
    """

    target: Path
    costs: dict[str, float]
    text: dict[str, str]
    utt2spk: dict[str, str]
    make: Make
    compression_method: int | None = None
    source: Path | None = None
    lost: dict[str, str] = field(default_factory=dict)
    scored: ScoredSets = field(default_factory=ScoredSets)
    rate: int | None = None

    def part(self, utterances: list[str]) -> "Task":
        """Return what a task on a cluster needs for these utterances."""
        costs = {utt: self.costs[utt] for utt in utterances}
        make = self.make.part(utterances)
        return Task(self.target, costs, {}, {}, make, self.compression_method, rate=self.rate)


@dataclass
class Shard:
    """What one process made: offsets, shapes, durations, dropped utterances with reasons."""

    offsets: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def blocks(samples: int, rate: int) -> tuple[int, int]:
    """Return the shape that ``feats_shape`` gives audio: stretches of 10 ms, samples in each.

    So limits in frames, batches of like length and estimates of the size of batches are those of
    features with a shift of 10 ms. The last stretch counts as whole.

    >>> blocks(16001, 16000)
    (101, 160)
    """
    size = max(round(rate / 100), 1)
    return -(-samples // size), size


def split(costs: dict[str, float], parts: int) -> list[list[str]]:
    """Cut the sorted utterances into at most ``parts`` stretches of about equal cost."""
    utterances = sorted(costs)
    total = sum(costs.values()) or 1.0
    stretches: list[list[str]] = [[] for _ in range(parts)]
    done = 0.0
    for utt in utterances:
        middle = done + costs[utt] / 2
        stretches[min(int(middle / total * parts), parts - 1)].append(utt)
        done += costs[utt]
    return [stretch for stretch in stretches if stretch]


def _make_shard(task: Task, utterances: list[str], ark: Path, tick: Callable) -> Shard:
    """Write one ark file under a temporary name and read every matrix back."""
    shard = Shard()
    with ArkWriter(ark, task.compression_method, task.rate) as writer:
        for utt in utterances:
            made = task.make(utt)
            if isinstance(made, str):
                shard.dropped[utt] = made
            else:
                matrix, shard.durations[utt] = made
                shard.offsets[utt] = writer.write(utt, matrix)
                shard.shapes[utt] = matrix.shape
            tick(task.costs[utt])
    with ArkReader() as reader:
        for utt, offset in shard.offsets.items():
            matrix = reader.read(utt, f"{ark}:{offset}")
            if matrix.shape != shard.shapes[utt]:
                raise UserError(
                    f"{utt}: written as {shard.shapes[utt]}, read back as {matrix.shape} from "
                    f"{ark}",
                    "is the disk full or failing?",
                )
    return shard


def _work(
    task: Task, utterances: list[str], ark: Path, done: "Synchronized", out: "Connection"
) -> None:
    """Make a shard in a process of its own and send it, or the error, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent does the talking
    parent = os.getppid()

    def tick(cost: float) -> None:
        if os.getppid() != parent:
            os._exit(1)
        with done.get_lock():
            done.value += cost

    try:
        out.send(_make_shard(task, utterances, ark, tick))
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())
        out.send(error)


def run_tasks(
    tasks: list[Task],
    nj: int,
    unit: str = "s",
    cluster: ClusterConfig | None = None,
    utterances_per_task: int = UTTERANCES,
) -> list[FeatureDir]:
    """Make the feature directories of all tasks.

    ``feats.scp`` is removed first and written last, so an interrupted run leaves no directory
    that looks complete.

    Args:
        tasks: the data sets.
        nj: processes; 1 works in this process.
        unit: what costs count, for the progress bar.
        cluster: work there instead.
        utterances_per_task: of the cluster, about; below 1000 a task is not worth its way.

    Raises:
        UserError: from ``make``, a matrix that does not read back, or nothing left in a set.
    """
    jobs = []
    for number, task in enumerate(tasks):
        folder = task.target / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (task.target / "feats.scp").unlink(missing_ok=True)
        for left in folder.glob(LEFTOVERS):  # of a run that was killed
            left.unlink()
        parts = number_of_tasks(len(task.costs), utterances_per_task) if cluster else nj
        for index, utterances in enumerate(split(task.costs, parts), 1):
            jobs.append((number, utterances, folder / f"feats.{index}.ark"))
    try:
        with contextlib.ExitStack() as stack:
            written = [(n, utts, stack.enter_context(replacing(ark))) for n, utts, ark in jobs]
            shards = _run_jobs(tasks, written, nj, unit, cluster)
    except OSError as error:
        error.filename = error.filename or str(tasks[0].target)
        known = system_error(error)
        raise known or UserError(f"{error.filename}: {error.strerror or error}") from error
    finally:
        for task in tasks:  # of workers of the cluster that were ended
            for left in (task.target / "data").glob(LEFTOVERS):
                left.unlink()
    made: list[list[tuple[Path, Shard]]] = [[] for _ in tasks]
    for (number, _, ark), shard in zip(jobs, shards, strict=True):
        made[number].append((ark, shard))
    return [_finish(task, shards) for task, shards in zip(tasks, made, strict=True)]


def _run_jobs(
    tasks: list[Task], jobs: list, nj: int, unit: str, cluster: ClusterConfig | None
) -> list[Shard]:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread in a process that forks

    total = sum(sum(task.costs.values()) for task in tasks)
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]"
    # a log file wants few lines, a terminal a moving bar
    mininterval = 0.2 if sys.stderr.isatty() else 30
    with Bar(
        total=total, desc="features", unit=unit, bar_format=layout, mininterval=mininterval
    ) as bar:
        if cluster is not None:
            return _run_on_cluster(cluster, tasks, jobs, bar)
        if nj == 1:
            return [_make_shard(tasks[number], utts, ark, bar.update) for number, utts, ark in jobs]
        return _run_processes(tasks, jobs, nj, bar)


def _run_on_cluster(
    cluster: ClusterConfig, tasks: list[Task], jobs: list, bar: "tqdm"
) -> list[Shard]:
    def finished(index: int) -> None:
        number, utterances, _ = jobs[index]
        bar.update(sum(tasks[number].costs[utt] for utt in utterances))

    parts = ((tasks[number].part(utts), utts, ark) for number, utts, ark in jobs)
    shards = run_on_cluster(cluster, _make_shard_apart, parts, finished)
    return [shards[index] for index in range(len(jobs))]


def _make_shard_apart(task: Task, utterances: list[str], ark: Path) -> Shard:
    """Make a shard on a worker. Another one may be at it, too, if this one seems to be dead."""
    with replacing(ark) as own:
        return _make_shard(task, utterances, own, lambda cost: None)


def _start(process: ForkProcess) -> None:
    """Start a process; Ctrl-C waits for it, for Python loses it in the callbacks around a fork."""
    if threading.current_thread() is not threading.main_thread():
        process.start()
        return
    caught: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, usual)
    if caught:
        raise KeyboardInterrupt


def _run_processes(tasks: list[Task], jobs: list, nj: int, bar: "tqdm") -> list[Shard]:
    """Run every job in a process of its own, ``nj`` at a time; an error ends all of them."""
    context = multiprocessing.get_context("fork")
    done = context.Value("d", 0.0)
    shards: dict[int, Shard] = {}
    waiting = list(reversed(range(len(jobs))))
    running: dict[Connection, tuple[int, ForkProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < nj:
                index = waiting.pop()
                number, utterances, ark = jobs[index]
                result, out = context.Pipe(duplex=False)
                arguments = (tasks[number], utterances, ark, done, out)
                process = context.Process(target=_work, args=arguments)
                running[result] = (index, process)
                _start(process)
                out.close()
            for result in wait(list(running), timeout=0.2):
                assert isinstance(result, Connection)  # wait takes other things as well
                index, process = running[result]
                try:
                    outcome = result.recv()
                except EOFError:
                    process.join()
                    if process.exitcode == -signal.SIGINT:
                        raise KeyboardInterrupt from None
                    raise UserError(
                        "a process of the feature extraction was killed",
                        "out of memory? lower --nj",
                    ) from None
                process.join()
                del running[result]
                if isinstance(outcome, Exception):
                    raise outcome
                shards[index] = outcome
            bar.update(done.value - bar.n)
    finally:
        for _, process in running.values():
            if process.pid is not None:
                process.terminate()
                process.join()
    return [shards[index] for index in range(len(jobs))]


def _finish(task: Task, made: list[tuple[Path, Shard]]) -> FeatureDir:
    """Write the tables of a set and remove ark files of earlier runs."""
    directory = FeatureDir()
    dropped: dict[str, str] = {}
    for ark, shard in made:
        directory.feats |= {utt: f"{ark}:{offset}" for utt, offset in shard.offsets.items()}
        for utt, shape in shard.shapes.items():
            rows, columns = shape if task.rate is None else blocks(shape[0], task.rate)
            directory.shapes[utt] = rows, columns
        directory.durations |= shard.durations
        dropped |= shard.dropped
    if not directory.feats:
        reasons = ", ".join(sorted(set(dropped.values()))) or "there was none"
        raise UserError(f"{task.target}: no utterance is left ({reasons})")
    dims = {dim: utt for utt, (_, dim) in directory.shapes.items()}
    if len(dims) > 1:
        raise UserError(
            f"{task.target}: features of different width: "
            + ", ".join(f"{dim} in {utt}" for dim, utt in sorted(dims.items()))
        )
    dropped = task.lost | dropped
    if task.source is not None:
        task.scored.check(task.source, dropped)
    directory.text = {utt: task.text[utt] for utt in directory.feats}
    directory.utt2spk = {utt: task.utt2spk[utt] for utt in directory.feats}
    keep = {ark.name for ark, _ in made}
    for ark in (task.target / "data").glob("feats.*.ark"):
        if ark.name not in keep:
            ark.unlink()
    write_table(task.target / DROPPED, dropped)
    directory.write(task.target)
    return directory
