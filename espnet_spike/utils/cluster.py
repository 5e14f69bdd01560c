"""Spread tasks over the machines of a cluster by Dask; needs the extra ``espnet_spike[cluster]``.

A cluster is described by a YAML, see ``conf/cluster/``::

    cluster: slurm        # local (processes on this machine), slurm, pbs or sge
    workers: 20           # worker processes, each runs one task at a time
    options:              # arguments of the class of dask.distributed or dask_jobqueue
      queue: cpu

A task is a function with picklable arguments that writes its files under a name of its own and
renames them at the end. Dask runs the tasks of a worker that died again on another one, so nothing
is lost; and nothing is there twice, whatever a dying worker has left. When a job of a queue ends
too early, another one is asked for; jobs that all end with nothing done are an error.
"""

import argparse
import contextlib
import importlib
import inspect
import itertools
import logging
import os
import re
import shlex
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.ranges import CLUSTER, CLUSTER_OPTIONS, check
from espnet_spike.utils.cli import COUNT, Parser
from espnet_spike.utils.files import plural
from espnet_spike.utils.install import how_to_install
from espnet_spike.utils.resources import config_file
from espnet_spike.utils.yaml import read_yaml

if TYPE_CHECKING:
    from distributed import Client, Future

KINDS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster"}
JOB_IDS = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "sge": "JOB_ID"}  # in a job's environment
# what a LocalCluster may be told; the rest follows from one task a worker
LOCAL_OPTIONS = ("memory_limit", "local_directory", "interface", "host", "dashboard_address")
# set here, not in the YAML
SET_HERE = frozenset(
    "self scheduler name processes loop asynchronous n_workers job_cls worker_extra_args extra"
    " base_class_kwargs job_kwargs".split()
)
UTTERANCES = 1000  # in a task: below it, sending a task costs more than it is worth
POLL_SECONDS = 5.0  # between two looks at the jobs of a queue
ATTEMPTS = 3  # jobs a worker that may be asked for before a task is finished
AHEAD = 3  # tasks a worker that wait with the scheduler: their data lie in its memory
ENDED = re.compile(r"(\d+)\S* (\d+)$")  # what a job writes at its end: id, exit status

_logger = logging.getLogger(__name__)


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
    check(CLUSTER, content, str(path))
    if missing := [key for key in ("cluster", "workers") if key not in content]:
        raise UserError(f"{path}: missing keys: {', '.join(missing)}", "see conf/cluster/")
    config = ClusterConfig(**content)
    known = _known_options(config.cluster)
    for key in config.options:
        if key not in known:
            raise UserError(
                f"{path}: unknown option {key}{did_you_mean(str(key), known)}",
                f"known: {', '.join(sorted(known))}",
            )
    check(CLUSTER_OPTIONS, config.options, f"{path}: options", others=None)
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
            how_to_install("cluster"),
        ) from error
    finally:
        # dask_jobqueue makes Ctrl-C exit with status 0
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def add_cluster_options(parser: Parser) -> None:
    """Add the options of the commands that can work on a cluster."""
    parser.add_argument(
        "--cluster", type=config_file, help="YAML of conf/cluster: work there instead"
    )
    parser.add_argument(
        "--utterances_per_task",
        old=["--utterances_a_task"],
        type=COUNT,
        default=UTTERANCES,
        help="of --cluster, about that many; fewer than 1000 are for tests only",
    )


def cluster_of(options: argparse.Namespace) -> ClusterConfig | None:
    """Return the cluster that the options of a command name.

    Raises:
        UserError: as `read_cluster`.
    """
    return read_cluster(options.cluster) if options.cluster is not None else None


@contextlib.contextmanager
def connect(config: ClusterConfig) -> Iterator[tuple["Client", "Jobs | None"]]:
    """Start the workers, or get ready to ask the queue for them; end them when left.

    Yields:
        Dask's client, and the jobs where a queue runs the workers.
    """
    distributed = _import("distributed")
    # what matters comes back as an exception
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        ended = None
        if config.cluster != "local":
            ended = own_name(Path.cwd() / ".cluster")
            ended.touch()
            stack.callback(ended.unlink, missing_ok=True)
        cluster = stack.enter_context(make_cluster(config, ended))
        client = stack.enter_context(distributed.Client(cluster))
        yield client, Jobs(cluster, config, ended) if ended is not None else None


def make_cluster(config: ClusterConfig, ended: Path | None = None) -> Any:
    """Return Dask's cluster: with its workers if they are local, without a job if they are not.

    Args:
        config: of the cluster.
        ended: a file; while it is there, a job adds its id and exit status to it at its end.
    """
    if config.cluster == "local":
        options = {"memory_limit": 0, "dashboard_address": None} | dict(config.options)
        return _import("distributed").LocalCluster(
            n_workers=config.workers,
            threads_per_worker=1,
            processes=True,
            silence_logs=logging.CRITICAL,
            **options,
        )
    cls = getattr(_import("dask_jobqueue"), KINDS[config.cluster])
    options = {
        "scheduler_options": {"dashboard": False},
        "python": shlex.quote(sys.executable),
    } | dict(config.options)
    if ended is not None:
        file = shlex.quote(str(ended))
        at_end = f"status=$?; [ ! -e {file} ] || echo ${JOB_IDS[config.cluster]} $status >>{file}"
        prologue = [f"trap {shlex.quote(at_end)} EXIT", *(options.get("job_script_prologue") or ())]
        options["job_script_prologue"] = prologue
    # a job is a worker process with one thread, whatever cores it may use itself
    return cls(n_workers=0, processes=1, worker_extra_args=["--nthreads", "1"], **options)


class Jobs:
    """The jobs of a queue, each a worker; for one that ends another is asked for.

    A job may wait in the queue for days, and end for a good reason: its time is over, its node is
    needed. What must not be waited for is jobs that end, one after the other, with nothing done.

    Args:
        cluster: from `make_cluster`.
        config: of the cluster.
        ended: the file that the jobs write to at their end.
    """

    def __init__(self, cluster: Any, config: ClusterConfig, ended: Path) -> None:
        self.cluster, self.config, self.ended = cluster, config, ended
        self.names = itertools.count(1)
        self.asked = 0  # since a task was finished

    def look(self, tasks: int, finished: bool) -> None:
        """Ask for the jobs that are missing.

        Args:
            tasks: that are not finished: no more jobs are of use.
            finished: one was finished since the last call.

        Raises:
            UserError: the queue refuses a job, or jobs end with nothing done.
        """
        if finished:
            self.asked = 0
        try:
            self.cluster.sync(self._look, min(self.config.workers, tasks))
        except (RuntimeError, OSError, ValueError) as error:
            said = "; ".join(filter(None, str(error).splitlines()))
            problem = f"the {self.config.cluster} queue took no job: {said}"
            if not self._drop_refused():
                raise UserError(
                    problem, "submit jobs by hand from here, or see the options in --cluster's YAML"
                ) from error
            _logger.warning("%s", problem)

    def _drop_refused(self) -> bool:
        """Forget the jobs that the queue did not take; return whether there are others."""
        from distributed import Status

        jobs = self.cluster.workers
        for name, job in list(jobs.items()):
            if job.job_id is None:
                job.status = Status.failed  # Dask, at its end, accepts that
                del jobs[name]
        return bool(jobs)

    async def _look(self, wanted: int) -> None:
        lines = self.ended.read_text(encoding="utf-8").splitlines()
        statuses = {match[1]: match[2] for match in map(ENDED.match, lines) if match}
        infos = self.cluster.scheduler_info["workers"].values()
        connected = {info["name"] for info in infos}
        jobs, specs = self.cluster.workers, self.cluster.worker_spec
        for name in [n for n, job in jobs.items() if job.job_id in statuses and n not in connected]:
            del jobs[name]
        for name in specs.keys() - jobs.keys():  # those, and those that Dask has missed
            del specs[name]
        missing = wanted - len(jobs)
        if missing > 0 and self.asked + missing > ATTEMPTS * self.config.workers:
            if jobs:  # they work, or wait in the queue
                return
            last = next(reversed(statuses.values()), "unknown")
            raise UserError(
                f"{plural(self.asked, 'job')} of the {self.config.cluster} queue ended and no "
                f"task was "
                f"finished (exit status of the last: {last})",
                "see their logs (log_directory): do they reach the machine at "
                f"{self.cluster.scheduler_address} (option interface), can they import "
                "espnet_spike, and does a task end within the walltime?",
            )
        for _ in range(missing):
            # a name of its own: Dask ends a job by its name some time after it has missed it
            specs[f"job{next(self.names)}"] = self.cluster.new_spec
            self.asked += 1
        if missing > 0:
            await self.cluster


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
        UserError: a task raised one, its workers died again and again, or see `Jobs.look`.
    """
    from distributed.scheduler import KilledWorker

    here, results = os.getcwd(), {}
    waiting = iter(enumerate(tasks))
    with connect(config) as (client, jobs):
        running: dict[Future, int] = {}  # number of the task

        def submit(count: int) -> None:
            for number, arguments in itertools.islice(waiting, count):
                running[client.submit(_call, here, function, arguments, pure=False)] = number

        submit(AHEAD * config.workers)
        ready: set[Future] = set()
        while running:
            if jobs is not None:
                jobs.look(len(running), finished=bool(ready))
            ready = _ready(running)
            for future in ready:
                number = running.pop(future)
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


def _ready(futures: Iterable["Future"]) -> "set[Future]":
    """Return those that are done, after waiting for the first of them, but not for long."""
    from distributed import wait

    try:
        # of a client that is not asynchronous: no coroutine
        found: Any = wait(list(futures), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
        return found.done
    except TimeoutError:
        return set()


def _call(folder: str, function: Callable[..., Any], arguments: tuple) -> Any:
    os.chdir(folder)  # PBS starts a job in the home folder
    return function(*arguments)


def own_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other attempt at the same task has."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")


def number_of_tasks(utterances: int, size: int = UTTERANCES) -> int:
    """Return into how many tasks of at least ``size`` utterances a set is cut."""
    return max(1, utterances // size)
