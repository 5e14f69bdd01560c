import functools

import pytest

from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.machine import Machine


@pytest.fixture(scope="session")
def machine():
    """Give the machine of a hardware, the ``small`` core by default; built once."""
    return functools.cache(lambda **conf: Machine(Hardware(**conf)))
