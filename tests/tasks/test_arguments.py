import pytest

from espnet_spike.errors import UserError
from espnet_spike.tasks import arguments


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
