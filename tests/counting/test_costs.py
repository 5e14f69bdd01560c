from espnet_spike.counting.costs import Cost, total


def test_sums_add_up_and_of_sizes_the_largest_counts():
    one, two = Cost(macs=3, acs=1, updates=2), Cost(macs=4, values_read=7)
    one.sizes(10, 2, 5)
    one.sizes(4, 6, 5)
    two.sizes(12, 1, 1)
    assert (one.weight_size, one.input_size, one.output_size) == (10, 6, 5)
    found = total([one, two])
    assert (found.macs, found.acs, found.updates, found.values_read) == (7, 1, 2, 7)
    assert (found.weight_size, found.input_size, found.output_size) == (12, 6, 5)
    assert (one.macs, two.weight_size) == (3, 12)  # what is summed stays as it is


def test_nothing_costs_nothing():
    assert total([]) == Cost()
    assert total(iter([Cost(), Cost(special=2)])) == Cost(special=2)
