import pytest

from espnet_spike.errors import UserError
from espnet_spike.training.slurm import first_host, meeting_point


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
