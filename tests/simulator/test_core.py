from espnet_spike.simulator.core import build_core
from espnet_spike.simulator.hardware import Hardware


def test_what_was_built_is_on_record(machine):
    record = machine().record
    assert "-O3" in record["core"]["cxx_flags"] and "-O2" in record["firmware"]["flags"]
    assert "5da1679f" in record["core"]["rtl"]
    # what has no say in the build has none in its key
    waiting = Hardware(data_wait_states=3, clock_mhz=5)
    assert build_core(waiting).binary == machine().core.binary
    assert build_core(Hardware(multiplier="none")).binary != machine().core.binary
