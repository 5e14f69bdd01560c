"""Spread tasks over the machines of a cluster by Dask; needs the extra ``espnet_spike[cluster]``.

A cluster is described by a YAML, see ``conf/cluster/``::

    cluster: slurm        # local (processes on this machine), slurm, pbs or sge
    workers: 20           # worker processes, each runs one task at a time
    options:              # arguments of the class of dask.distributed or dask_jobqueue
      queue: cpu

A task is a function with picklable arguments that writes its files under a name of its own and
renames them at the end. Dask runs the tasks of a worker that died again on another one, so nothing
is lost; and nothing is there twice, whatever a dying worker has left.
"""

import argparse
import contextlib
import importlib
import inspect
import itertools
import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_spike.config import read_yaml
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.options import check_keys, choose

if TYPE_CHECKING:
    from distributed import Client

KINDS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster"}
# what a LocalCluster may be told; the rest follows from one task a worker
LOCAL_OPTIONS = ("memory_limit", "local_directory", "interface", "host", "dashboard_address")
# set here, not in the YAML
SET_HERE = frozenset(
    "self scheduler name processes loop asynchronous n_workers job_cls worker_extra_args extra"
    " base_class_kwargs job_kwargs".split()
)
UTTERANCES = 1000  # in a task: below it, sending a task costs more than it is worth
AHEAD = 3  # tasks a worker that wait with the scheduler: their data lie in its memory


@dataclass(frozen=True)
class ClusterConfig:
    """What a YAML of ``conf/cluster`` holds; see the module's text."""

    cluster: str
    workers: int
    options: Mapping[str, Any] = field(default_factory=dict)


def read_cluster(path: Path) -> ClusterConfig:
    """Read a YAML and check every key.

    Raises:
        UserError: an unknown key or impossible value, or Dask is not installed.
    """
    content = read_yaml(path)
    try:
        check_keys(str(path), content, ClusterConfig)
        config = ClusterConfig(**content)
        choose("cluster", config.cluster, ["local", *KINDS])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}", "see conf/cluster/") from None
    if not isinstance(config.workers, int) or config.workers < 1:
        raise UserError(f"{path}: workers: {config.workers!r}", "give a whole number from 1 up")
    if not isinstance(config.options, Mapping):
        raise UserError(f"{path}: options must be a mapping, not {config.options!r}")
    known = _known_options(config.cluster)
    for key in config.options:
        if key not in known:
            raise UserError(
                f"{path}: unknown option {key}{did_you_mean(str(key), known)}",
                f"known: {', '.join(sorted(known))}",
            )
    return config


def _known_options(kind: str) -> set[str]:
    if kind == "local":
        _import("distributed")
        return set(LOCAL_OPTIONS)
    jobqueue = _import("dask_jobqueue")
    cls = getattr(jobqueue, KINDS[kind])
    classes = (cls.job_cls, jobqueue.core.Job, jobqueue.core.JobQueueCluster)
    names = {name for c in classes for name in inspect.signature(c.__init__).parameters}
    return names - SET_HERE


def _import(name: str) -> Any:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--cluster needs {name}, which is not installed ({error})",
            "pip install 'espnet_spike[cluster]'",
        ) from error
    finally:
        # dask_jobqueue makes Ctrl-C leave with status 0
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that can work on a cluster."""
    parser.add_argument("--cluster", type=Path, help="YAML of conf/cluster: work there instead")
    parser.add_argument(
        "--utterances_a_task",
        type=int,
        default=UTTERANCES,
        help="of --cluster, about so many; fewer than 1000 are for tests only",
    )


def cluster_of(options: argparse.Namespace) -> ClusterConfig | None:
    """Return the cluster that the options of a command name.

    Raises:
        UserError: as `read_cluster`, or tasks without an utterance.
    """
    if options.utterances_a_task < 1:
        raise UserError(f"--utterances_a_task {options.utterances_a_task}", "give 1000 or more")
    return read_cluster(options.cluster) if options.cluster is not None else None


@contextlib.contextmanager
def connect(config: ClusterConfig) -> Iterator["Client"]:
    """Start the workers, or ask the queue for them; end them when left."""
    distributed = _import("distributed")
    # what matters comes back as an exception
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with make_cluster(config, config.workers) as cluster, distributed.Client(cluster) as client:
        yield client


def make_cluster(config: ClusterConfig, workers: int) -> Any:
    """Return Dask's cluster with so many workers on the way."""
    if config.cluster == "local":
        options = {"memory_limit": 0, "dashboard_address": None} | dict(config.options)
        return _import("distributed").LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            silence_logs=logging.CRITICAL,
            **options,
        )
    cls = getattr(_import("dask_jobqueue"), KINDS[config.cluster])
    options = {"scheduler_options": {"dashboard": False}} | dict(config.options)
    # a job is a worker process with one thread, whatever cores it may use itself
    return cls(n_workers=workers, processes=1, worker_extra_args=["--nthreads", "1"], **options)


def run_tasks(
    config: ClusterConfig,
    function: Callable[..., Any],
    tasks: Iterable[tuple],
    done: Callable[[int], None] = lambda number: None,
) -> dict[int, Any]:
    """Call ``function`` with the arguments of every task, on the workers, in this folder.

    Args:
        config: of the cluster.
        function: importable on the workers.
        tasks: the arguments; taken as workers get free, so they need not lie in memory at once.
        done: called with the number of a finished task.

    Returns:
        what the tasks returned, by number.

    Raises:
        UserError: a task raised one, or its workers died again and again.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    here, results, numbers = os.getcwd(), {}, {}
    waiting = iter(enumerate(tasks))
    with connect(config) as client:
        running = as_completed()

        def submit(count: int) -> None:
            for number, arguments in itertools.islice(waiting, count):
                future = client.submit(_call, here, function, arguments, pure=False)
                numbers[future.key] = number
                running.add(future)

        submit(AHEAD * config.workers)
        for future in running:
            number = numbers.pop(future.key)
            try:
                results[number] = future.result()
            except KilledWorker as error:
                raise UserError(
                    f"task {number + 1}: its workers died one after the other ({error})",
                    "for lack of memory or time? see the logs of the jobs, raise their limits",
                ) from error
            done(number)
            submit(1)
    return results


def _call(folder: str, function: Callable[..., Any], arguments: tuple) -> Any:
    os.chdir(folder)  # PBS starts a job in the home folder
    return function(*arguments)


def own_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other attempt at the same task has."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")


def number_of_tasks(utterances: int, size: int = UTTERANCES) -> int:
    """Return into how many tasks of at least ``size`` utterances a set is cut."""
    return max(1, utterances // size)
