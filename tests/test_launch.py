import pytest

from espnet_spike.launch import rank


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
