"""What a ledger knows of tensors: by their storage, as long as they live."""

import torch
from torch import nn

from espnet_spike.counting.ledger import Ledger, counts_of, is_real_valued, is_whole
from espnet_spike.nn.accounting import Cost, Spikes


def ledger():
    return Ledger("top", nn.Identity())


def test_costs_go_to_the_layer_that_runs():
    book = ledger()
    book.cost("linear").acs += 2
    with book.layer("ctc", nn.Identity()):
        book.cost("linear").acs += 3
    book.cost("linear").acs += 4
    assert {key: cost.acs for key, cost in book.costs.items()} == {
        ("top", "linear"): 6,
        ("ctc", "linear"): 3,
    }
    book.reset()
    assert not book.costs


def test_a_view_has_the_spikes_of_its_storage():
    book, counts = ledger(), torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    y = counts * 0.5
    known = book.set_spikes(y, Spikes(counts, 3, True))
    assert (known.total, known.nonzeros, known.size, known.bits) == (6, 3, 6, 2)
    assert torch.equal(book.counts(y.t()[1:]), counts.t()[1:])
    assert book.counts(y.clone()) is None and book.spikes(y + 0) is None
    assert is_whole(y.t(), known) and not is_whole(y[:1], known)
    book.drop_spikes(y)
    assert not book.knows_spikes


def test_counts_follow_the_layout_of_the_output():
    book, counts = ledger(), torch.arange(6.0).view(2, 3)
    y = torch.empty(3, 2).t().copy_(counts)
    known = book.set_spikes(y, Spikes(counts, 5, False))
    assert known.counts.stride() == y.stride()
    assert torch.equal(counts_of(y[:, 1:], known), counts[:, 1:])


def test_tensors_that_are_gone_are_forgotten():
    book = ledger()
    for _ in range(100):
        y = torch.ones(4)
        book.set_spikes(y, Spikes.of_itself(y, 1))
    assert len(book._spikes) < 40


def test_what_a_product_reads():
    book, cost = ledger(), Cost()
    x, weight = torch.tensor([[0.0, 2.0, 3.0]]), torch.ones(3)
    book.set_parameter(weight)
    book.read(cost, x)
    assert (cost.values_read, cost.inputs, cost.nonzeros, cost.slots) == (3, 3, 2, 0)
    book.read(cost, weight)
    assert (cost.values_read, cost.inputs) == (6, 3)
    book.set_spikes(x, Spikes.of_itself(x, 3))
    book.read(cost, x[:, :2])
    assert (cost.values_read, cost.spike_bits_read) == (6, 4)
    assert (cost.inputs, cost.slots, cost.spikes, cost.nonzeros) == (5, 6, 2, 3)


def test_constants():
    book, x = ledger(), torch.ones(2)
    assert book.is_constant(3.0) and book.is_constant(torch.tensor([1])) and not book.is_constant(x)
    book.set_constant(x)
    assert book.is_constant(x[:1]) and book.all_constant([x, torch.tensor([1])])
    assert not book.is_parameter(x) and not book.all_constant([x, torch.ones(1)])
    book.changed(x)
    assert not book.is_constant(x)
    assert is_real_valued(torch.ones(1, dtype=torch.complex64))


def test_zeros_are_counted_once():
    book, x = ledger(), torch.tensor([0.0, 1.0])
    assert book.nonzeros(x) == 1
    x[0] = 1  # nobody told: the tensor is known
    assert book.nonzeros(x) == 1
    book.changed(x)
    assert book.nonzeros(x) == 2
    assert Ledger("", nn.Identity(), dense=True).nonzeros(torch.zeros(3)) == 3


def test_what_has_no_rule_and_what_loses_spikes():
    book = ledger()
    book.uncover("fft", 3)
    book.uncover("fft", 4)
    book.lose("add")
    assert book.uncovered == {"fft": [2, 7]} and book.lost == {"add": 1}
