import pytest

from espnet_spike.errors import UserError
from espnet_spike.tasks import arguments
from espnet_spike.training import options as training_options


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
    assert training_options.rank(launcher) == expected


def test_a_device_that_is_not_there_is_named(monkeypatch):
    arguments.check_device("cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for name in ("cuda", "gpu", "cuda:0"):
        with pytest.raises(UserError, match=f"--device {name}: not on this machine"):
            arguments.check_device(name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    arguments.check_device("cuda"), arguments.check_device("cuda:1")
    with pytest.raises(UserError, match="cuda:2"):
        arguments.check_device("cuda:2")
