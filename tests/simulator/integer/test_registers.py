"""What does not fit a register saturates and is counted, by hand."""

import numpy as np

from espnet_spike.simulator.integer.registers import Registers, Tally


def test_activations_saturate_and_are_counted():
    registers = Registers()
    found = registers.fit16("a", np.array([32767, 32768, -32768, -32769]))
    assert found.tolist() == [32767, 32767, -32768, -32768] and found.dtype == np.int64
    assert registers.grid("a", np.array([0.26, 1e9]), 0.5).tolist() == [1, 32767]
    assert registers.fit("b", np.array([5, -6]), 5).tolist() == [5, -5]
    assert registers.activations == {"a": Tally(3, 6), "b": Tally(1, 2)}
    assert registers.saturating() == {"a": (0.5, 0), "b": (0.5, 0)}


def test_sums_are_scaled_with_the_room_of_the_calibration():
    """900 is the largest: with 25 % beside it 1125, so 2047 is what fits, 20 bits to the left."""
    registers = Registers({"a": 900})
    assert registers.scaled("a", np.array([2047, 2048, -5000, 8]), np.array(0.5)).tolist() == [
        *(1024, 1024, -1023, 4)
    ]
    assert registers.accumulators == {"a": Tally(2, 4)} and registers.largest == {"a": 5000}
    assert registers.scaled("a", np.array([900]), np.array(100.0)).tolist() == [32767]
    assert registers.activations == {"a": Tally(1, 5)}
    assert registers.saturating() == {"a": (0.2, 0.4)}


def test_the_calibration_itself_loses_nothing():
    registers = Registers()
    for sums in ([3, -9], [2**30, 1]):
        assert registers.scaled("a", np.array(sums), np.array(2.0**-16)).tolist() == [
            round(x / 2**16 + 1e-9) for x in sums
        ]
    assert registers.largest == {"a": 2**30} and registers.saturating() == {}
    assert Tally().share == 0.0 and Tally(1, 4).share == 0.25
