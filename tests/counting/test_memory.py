"""What moves between memories, by hand."""

import pytest

from espnet_spike.counting.memory import by_levels, by_operands, byte_price, traffic
from espnet_spike.nn.accounting import Cost

# a linear layer of 4 inputs and 3 outputs on 10 frames, 20 of its 40 inputs events
LAYER = Cost(
    **{"dense_macs": 120, "acs": 90, "event_macs": 60, "weights_read": 12, "values_read": 15},
    **{"values_written": 30, "spike_bits_read": 80, "event_bits_read": 100, "weight_size": 12},
)
MEMORY = {
    **{"access": "levels", "bytes_per_value": 2, "dram": 800, "activations": 50, "reuse": 4},
    **{"levels": [[16, 8], [64, 16]], "dataflow": "output_stationary"},
}
PLAIN = {"dense": False, "kept": False, "listed": False, "statistic": False, "merged": False}


def test_a_memory_is_the_smallest_that_holds_it():
    assert [byte_price(MEMORY, size) for size in (0, 16, 17, 64, 65)] == [1, 1, 2, 2, 100]


def moved(cost=LAYER, **changed):
    return traffic(cost, **(PLAIN | changed))


def test_an_accumulator_keeps_a_sum_and_each_operation_fetches_its_weight():
    # weights are 24 bytes, so 2 pJ each; activations 2 pJ each as well
    others = (3 + 30) * 2 * 2 + 80 / 8 * 2
    found = by_levels(MEMORY, "linear", LAYER, moved(), "output_stationary", 32)
    assert found == pytest.approx(others + 120 / 4 * 2 * 2)  # fewer than the 60 that are left
    one = MEMORY | {"reuse": 1}
    found = by_levels(one, "linear", LAYER, moved(), "output_stationary", 32)
    assert found == pytest.approx(others + 60 * 2 * 2)
    dense = by_levels(one, "linear", LAYER, moved(dense=True), "output_stationary", 32)
    assert dense == pytest.approx(others + 120 * 2 * 2)
    # more frames at once than there are: still every weight once
    many = MEMORY | {"reuse": 100}
    found = by_levels(many, "linear", LAYER, moved(), "output_stationary", 32)
    assert found == pytest.approx(others + 12 * 2 * 2)


def test_a_weight_stays_and_each_operation_reads_and_writes_its_sum():
    others = (3 + 30) * 2 * 2 + 80 / 8 * 2 + 12 * 2 * 2
    for reuse, operations in ((4, 30), (1, 60)):
        memory = MEMORY | {"reuse": reuse}
        found = by_levels(memory, "linear", LAYER, moved(), "weight_stationary", 32)
        assert found == pytest.approx(others + 2 * operations * 4 * 2)


def test_weights_that_do_not_fit_come_from_dram_again_and_again():
    large = Cost(dense_macs=120, macs=120, weights_read=12, values_read=12, weight_size=40)
    found = by_levels(MEMORY, "linear", large, moved(large), "output_stationary", 32)
    assert found == pytest.approx(120 / 4 * 2 * 100)


def test_what_has_no_weights_moves_its_operands_once():
    norm = Cost(values_read=10, values_written=5)
    for dataflow in ("output_stationary", "weight_stationary"):
        assert by_levels(MEMORY, "norm", norm, moved(norm), dataflow, 32) == 15 * 2 * 2


def test_the_states_of_a_scan_lie_where_they_fit():
    for states, price in ((4, 2), (32, 2), (33, 100)):  # activations are in the 64 bytes' memory
        scan = Cost(values_read=10, values_written=5, weight_size=states, macs=7, dense_macs=9)
        found = by_levels(MEMORY, "scan", scan, moved(scan), "output_stationary", 32)
        assert found == pytest.approx(15 * 2 * price)


def test_a_list_of_events_takes_the_place_of_a_map_of_counts():
    assert (moved().bits, moved(listed=True).bits) == (80, 100)


def test_the_list_of_a_silent_layer_is_empty():
    """Of 40 inputs of 2 bits none spikes; one event is its channel and its count, 4 bits."""
    silent = Cost(spike_bits_read=80, inputs=40, slots=120)
    one = Cost(spike_bits_read=80, inputs=40, slots=120, nonzeros=1, spikes=1, event_bits_read=4)
    assert [moved(cost, listed=True).bits for cost in (silent, one)] == [0, 4]
    assert [moved(cost).bits for cost in (silent, one)] == [80, 80]
    found = [
        by_operands({"bytes_per_value": 4, "pj_per_byte": 2.0}, moved(cost, listed=True))
        for cost in (silent, one)
    ]
    assert found == [0, 4 / 8 * 2]


def test_partial_sums_that_are_kept_do_not_move():
    cost = Cost(values_read=50, values_written=40, partial_read=20, partial_written=30)
    stored, kept = moved(cost), moved(cost, kept=True)
    assert (stored.read, stored.written, kept.read, kept.written) == (50, 40, 30, 10)
    again = Cost(dense_macs=120, repeated_macs=80)
    assert (moved(again).dense, moved(again, kept=True).dense) == (120, 40)
    memory = {"bytes_per_value": 4, "pj_per_byte": 2.0}
    assert by_operands(memory, kept) == 40 * 4 * 2.0


def test_the_statistic_of_a_threshold_is_a_read_of_its_own():
    cost = Cost(values_read=50, statistic_read=50, inputs=7)
    assert (moved(cost).read, moved(cost, statistic=True).read) == (50, 100)
    assert moved(cost, statistic=True).activations == 57
