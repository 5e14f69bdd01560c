import pytest

from espnet_spike.errors import UserError
from espnet_spike.training.processes import Processes, first_host, meeting_point, rank


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("gpu-a-01,gpu-b-02", "gpu-a-01"),
        ("gpu-a[03-05,09],gpu-b1", "gpu-a03"),
        ("rack[2,4]-node[007-010]", "rack2-node007"),
        ("host-[1,3].example.org", "host-1.example.org"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


def test_all_processes_of_a_job_meet_at_one_place():
    step = {"SLURM_STEP_NODELIST": "gpu-a[1-2]", "SLURM_JOB_ID": "1234567"}
    assert {meeting_point(step | {"SLURM_PROCID": str(n)}) for n in range(2)} == {("gpu-a1", 24567)}
    assert meeting_point(step | {"SLURM_JOB_ID": "1234568"})[1] == 24568


def test_a_process_that_srun_did_not_start_is_told_so():
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set") as caught:
        meeting_point({"SLURM_JOB_ID": "3"})
    assert "srun" in caught.value.hint


@pytest.mark.parametrize(
    ("launcher", "environ", "expected"),
    [
        (None, {}, 0),
        (None, {"RANK": "2", "SLURM_PROCID": "0"}, 2),  # torchrun in a job of Slurm
        (None, {"SLURM_PROCID": "3"}, 0),  # trainings of their own, side by side
        ("slurm", {"SLURM_PROCID": "3"}, 3),
        ("mpi", {"OMPI_COMM_WORLD_RANK": "1"}, 1),
    ],
)
def test_the_rank_is_that_of_what_started_the_training(monkeypatch, launcher, environ, expected):
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert rank(launcher) == expected


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def words(ngpu, **distributed):
    found = Processes(ngpu, distributed).words()
    return dict(zip(found[::2], found[1::2], strict=True))


def test_several_gpus_are_used_by_as_many_processes(alone):
    assert words(0) == {"--ngpu": "0"}
    assert words(1) == {"--ngpu": "1"}
    assert words(2) == {"--ngpu": "2", "--multiprocessing_distributed": "true"}
    given = words(2, multiprocessing_distributed="false")
    assert given["--multiprocessing_distributed"] == "false"
    # a launcher has started them
    assert words(2, dist_launcher="mpi") == {"--ngpu": "2", "--dist_launcher": "mpi"}
    alone.setenv("RANK", "1")
    assert words(2) == {"--ngpu": "2"}


def test_processes_of_slurm_are_told_where_they_meet(alone):
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set"):
        words(1, dist_launcher="slurm")
    there = {"dist_launcher": "slurm", "dist_init_method": "file:///x"}
    assert words(1, **there)["--dist_init_method"] == "file:///x"
    alone.setenv("SLURM_STEP_NODELIST", "gpu-a-[01-02]")
    alone.setenv("SLURM_JOB_ID", "12345")
    found = words(1, dist_launcher="slurm")
    assert found["--dist_master_addr"] == "gpu-a-01"
    assert found["--dist_master_port"] == "22345"
    found = words(1, dist_launcher="slurm", dist_master_port="7")
    assert (found["--dist_master_addr"], found["--dist_master_port"]) == ("gpu-a-01", "7")
