import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator.hardware import Hardware, read_grid, read_hardware


def test_the_shipped_configurations_are_lowriscs(root):
    assert read_hardware(root / "conf/hardware/small.yaml") == Hardware()
    maxperf = Hardware("single_cycle", writeback_stage=True, branch_target_alu=True)
    assert read_hardware(root / "conf/hardware/maxperf.yaml") == maxperf


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("multiplier: fats", "multiplier: 'fats' is out of range(.|\n)*did you mean 'fast'"),
        ("multipler: fast", "did you mean 'multiplier'"),
        ("writeback_stage: 1", "writeback_stage: 1 is out of range(.|\n)*true or false"),
        ("data_wait_states: -1", "data_wait_states: -1 is out of range(.|\n)*whole number from 0"),
        ("clock_mhz: 0", "clock_mhz: 0 is out of range(.|\n)*above 0"),
        ("- fast", "no key: value pairs"),
        ("a: [", "line 2, column 1: did not find"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path, text, said):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_hardware(path)
    assert "x.yaml" in caught.value.message


def test_a_grid_is_every_combination(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("multiplier: [fast, single_cycle]\ndata_wait_states: [0, 1, 3]\n")
    grid = list(read_grid(path))
    assert len(grid) == len(set(grid)) == len({hardware.name for hardware in grid}) == 6
    assert len({hardware.core for hardware in grid}) == 2


def test_seconds_follow_the_clock():
    assert Hardware(clock_mhz=50).seconds(1e6) == 0.02
