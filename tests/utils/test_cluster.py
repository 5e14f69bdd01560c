"""Tasks on a cluster of Dask: the same files as from processes, also when a worker is killed."""

import asyncio
import os
import signal
import sys
from collections import Counter
from types import SimpleNamespace

import dask
import distributed  # noqa: F401 - what dask.config.set inserts before, it takes away with all defaults
import pytest
import yaml

from espnet_spike.data.extraction import Task
from espnet_spike.data.extraction import run_tasks as extract
from espnet_spike.errors import UserError
from espnet_spike.inference import decode as decode_module
from espnet_spike.inference.decode import decode, make_plan, read_settings
from espnet_spike.utils import cluster
from espnet_spike.utils.cluster import (
    ClusterConfig,
    make_cluster,
    number_of_tasks,
    read_cluster,
    run_tasks,
)
from espnet_spike.utils.install import how_to_install
from tests.helpers.cluster_tasks import Noise, end_job_once, fail
from tests.helpers.tiny_model import write_features

TWO = ClusterConfig("local", 2)
UTTS = [f"u{n:02d}" for n in range(12)]


def content(folder):
    """Return every file below a folder, with the folder's own path taken out."""
    own = str(folder).encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(own, b"")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def task(target, make):
    texts = dict.fromkeys(UTTS, "A B")
    return Task(target, dict.fromkeys(UTTS, 1.0), texts, dict.fromkeys(UTTS, "s"), make)


def test_features_are_those_of_the_pool_although_a_worker_is_killed_in_a_task(tmp_path):
    extract([task(tmp_path / "pool", Noise())], nj=3)
    make = Noise("u06", tmp_path)  # in the middle of the second of three tasks
    extract([task(tmp_path / "cluster", make)], nj=1, cluster=TWO, utterances_per_task=4)
    assert (tmp_path / "died").exists()
    assert content(tmp_path / "cluster") == content(tmp_path / "pool")
    assert len(list((tmp_path / "cluster/data").glob("feats.*.ark"))) == 3


# stands for espnet_spike.bin.asr_inference; its parent is the worker
INFERENCE = """
import json, os, pathlib, signal, sys
for file in sys.argv[2:]:
    words = pathlib.Path(file[1:]).read_text().splitlines()
    options = dict(zip(words[::2], words[1::2]))  # of an option given twice the last counts
    out = pathlib.Path(options["--output_dir"]) / "1best_recog"
    out.mkdir(parents=True)
    keys = [line.split()[0] for line in open(options["--key_file"])]
    for name in ("text", "token", "token_int", "score"):
        (out / name).write_text("".join(f"{key} {name} of {key}\\n" for key in keys))
        died = pathlib.Path(sys.argv[1])
        if "utt5_003" in keys and name == "token" and not died.exists():
            died.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit(1)
    report = dict(fingerprint=options["--fingerprint"], utterances=len(keys), parameters=1,
                  threads=1, options=dict(seed=0), decode_seconds=1.0, total_seconds=1.0)
    (out.parent / "progress").write_text(f"{len(keys)} 1.0\\n")
    (out.parent / "done.json").write_text(json.dumps(report))
    with open(pathlib.Path(sys.argv[1]).with_name("calls"), "a") as calls:
        calls.writelines(f"{key}\\n" for key in keys)
"""


def test_decoding_is_that_of_processes_although_a_worker_is_killed_in_a_task(tmp_path, monkeypatch):
    exp = tmp_path / "exp"
    exp.mkdir()
    for name in ("config.yaml", "model.pth"):
        (exp / name).touch()
    (tmp_path / "infer.py").write_text(INFERENCE)
    texts = {f"utt5_{n:03d}": "a" for n in range(9)}
    data = {"test": write_features(tmp_path / "test", texts, seed=5)}
    settings = read_settings(None, "--inference_asr_model model.pth --batch_size 2")

    def run(name, cluster, size=None):
        died = tmp_path / "died" if cluster else tmp_path / "nobody dies"
        died.parent.mkdir(exist_ok=True)
        if not cluster:
            died.touch()
        command = (sys.executable, str(tmp_path / "infer.py"), str(died))
        monkeypatch.setattr(decode_module, "INFERENCE_COMMAND", command)
        out = tmp_path / name
        plan = make_plan(exp, None, settings, out, data, 3, utterances_per_task=size)
        record = decode(plan, cluster)["test"]
        assert (record["utterances"], record["jobs"]) == (9, 3)
        return {k: v for k, v in content(out / "test").items() if "/" not in k and "json" not in k}

    pool = run("pool", None)
    assert pool["text"].count(b"\n") == 9
    (tmp_path / "calls").unlink()
    assert run("cluster", TWO, size=3) == pool
    assert (tmp_path / "died").exists()
    left = [path.name for path in (tmp_path / "cluster/test/logdir").iterdir()]
    assert not [name for name in left if len(name.split(".")) > 3], left
    calls = Counter((tmp_path / "calls").read_text().split())
    assert set(calls.values()) == {1} and len(calls) == 9


def test_a_task_that_fails_or_kills_each_of_its_workers_is_an_error():
    more = range(3, 23)  # than wait with the scheduler at once
    assert run_tasks(TWO, fail, ((n,) for n in more)) == dict(enumerate(more))
    with pytest.raises(UserError, match="bad 1") as caught:
        run_tasks(TWO, fail, [(0,), (1,)])
    assert caught.value.hint == "fix it"
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with pytest.raises(UserError, match="task 1: its workers died"):
            run_tasks(TWO, fail, [(2,)])


@pytest.fixture
def slurm(tmp_path, root, monkeypatch):
    """Slurm's commands are played: a job runs at once, in the home folder, and can be ended."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    submit = f"""job='{tmp_path}/job.'$$
cp "$1" "$job.sh"  # the other goes when this ends
(cd /; SLURM_JOB_ID=$BASHPID exec setsid bash "$job.sh") >"$job.log" 2>&1 &
echo "$!" >>'{tmp_path}/jobs'
echo "Submitted batch job $!"
"""
    for name, script in (("sbatch", submit), ("scancel", 'kill -- "-$1"\n')):
        (bin_dir / name).write_text(f"#!/bin/bash\n{script}")
        (bin_dir / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(root))  # sbatch hands on the environment
    recipe = tmp_path / "a recipe"
    recipe.mkdir()
    monkeypatch.chdir(recipe)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.3)

    def config(workers=1, **options):
        usual = {"cores": 1, "memory": "1GB", "interface": "lo", "death_timeout": 120}
        return ClusterConfig("slurm", workers, usual | options)

    yield config
    assert list(recipe.iterdir()) == []


def test_workers_are_asked_of_a_queue_and_again_when_their_time_is_over(slurm, tmp_path):
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        here = os.getcwd()
        assert run_tasks(slurm(), end_job_once, [(tmp_path,), (tmp_path,)]) == {0: here, 1: here}
    assert len((tmp_path / "jobs").read_text().splitlines()) == 2


def test_jobs_that_end_with_nothing_done_are_not_waited_for(slurm, tmp_path):
    with pytest.raises(
        UserError, match=r"6 jobs of the slurm .* status of the last: 0\)"
    ) as caught:
        run_tasks(slurm(2, python="true"), os.getcwd, [(), (), ()])
    assert "log_directory" in caught.value.hint
    assert len((tmp_path / "jobs").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("sbatch", "said"),
    [
        ("#!/bin/bash\necho 'invalid partition' >&2; exit 1\n", "invalid partition"),
        ("#!/bin/bash\necho 'try later'\n", "Could not parse job id"),
        (None, "No such file.*sbatch"),
    ],
)
def test_a_job_that_the_queue_does_not_take_is_an_error(slurm, tmp_path, sbatch, said):
    command = tmp_path / "bin/sbatch"
    command.write_text(sbatch) if sbatch else command.unlink()
    with pytest.raises(UserError, match=f"took no job: .*{said}") as caught:
        run_tasks(slurm(2), os.getcwd, [(), ()])
    assert "--cluster" in caught.value.hint


class Queue:
    """Stands for Dask's cluster: takes a job for each new name, but no more than ``room``."""

    scheduler_address = "tcp://here"

    def __init__(self, room=9):
        self.workers, self.worker_spec, self.new_spec, self.room = {}, {}, {}, room
        self.scheduler_info = {"workers": {}}

    def sync(self, function, *arguments):
        return asyncio.run(function(*arguments))

    def __await__(self):
        yield from ()
        for name in self.worker_spec.keys() - self.workers.keys():
            full = len(self.workers) >= self.room
            self.workers[name] = SimpleNamespace(job_id=None if full else name.removeprefix("job"))
        if any(job.job_id is None for job in self.workers.values()):
            raise RuntimeError("too many jobs")


def test_as_many_jobs_are_asked_for_as_are_of_use(tmp_path, caplog):
    ended, queue = tmp_path / "ended", Queue()
    ended.touch()
    jobs = cluster.Jobs(queue, ClusterConfig("slurm", 2), ended)
    jobs.look(tasks=5, finished=False)
    assert set(queue.workers) == {"job1", "job2"}
    queue.scheduler_info["workers"]["tcp://1"] = {"name": "job1"}
    ended.write_text("1.server 0\n2.server 1\n")  # job1 has not left the scheduler yet
    jobs.look(tasks=5, finished=False)
    assert set(queue.workers) == {"job1", "job3"}
    del queue.workers["job1"], queue.scheduler_info["workers"]["tcp://1"]  # as Dask does
    jobs.look(tasks=1, finished=True)
    assert set(queue.workers) == {"job3"}
    queue.room = 1
    jobs.look(tasks=5, finished=False)
    assert set(queue.workers) == {"job3"} and "took no job: too many jobs" in caplog.text
    for _ in range(9):  # the one that waits in the queue is waited for
        jobs.look(tasks=5, finished=False)
    ended.write_text("3 7\n")
    with pytest.raises(UserError, match=r"status of the last: 7"):
        jobs.look(tasks=5, finished=False)


def test_the_clusters_of_conf_are_good(root, tmp_path, monkeypatch):
    """The queues get jobs of one worker with one thread."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    said = {"slurm": "#SBATCH -t 08:00:00", "pbs": "#PBS -l walltime=08:00:00", "sge": "#$ -l h_rt"}
    files = sorted((root / "conf/cluster").glob("*.yaml"))
    assert [file.stem for file in files] == ["local", "pbs", "sge", "slurm"]
    for file in files:
        config = read_cluster(file)
        assert config.cluster == file.stem
        if file.stem == "local":
            continue
        with make_cluster(config) as made:
            script = made.job_script()
        assert said[file.stem] in script
        assert script.rsplit("--nthreads ", 1)[1].split()[0] == "1"
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cluster": "slrm"}, "did you mean 'slurm'"),
        ({"worker": 3}, "did you mean 'workers'"),
        ({"workers": 0}, "workers: 0"),
        ({"cluster": "pbs", "options": {"cores": ""}}, "options: cores: ''"),
        ({"cluster": "pbs", "options": {"memory": 4}}, "options: memory: 4"),
        ({"options": {"wall_time": "1:00"}}, "did you mean 'walltime'"),
        ({"options": {"processes": 4}}, "unknown option processes"),
        ({"options": 3}, "options: 3 is out of range"),
        ({"cluster": "local", "options": {"queue": "x"}}, "unknown option queue"),
    ],
)
def test_every_key_of_a_cluster_is_checked(tmp_path, change, said):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"cluster": "slurm", "workers": 2} | change))
    with pytest.raises(UserError, match=said):
        read_cluster(path)


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text("cluster: local\nworkers: 2\n")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="not installed") as caught:
        read_cluster(path)
    assert caught.value.hint == how_to_install("cluster")


def test_tasks_are_not_smaller_than_asked_for():
    assert [number_of_tasks(n) for n in (1, 999, 1000, 1999, 2000, 10**7)] == [1, 1, 1, 1, 2, 10**4]
