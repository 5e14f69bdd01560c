"""What neurons report about their last forward pass."""

import copy

import pytest
import torch
from torch import nn

from espnet_spike.nn.neurons.base import firing_rates, named_neurons, threshold_spreads
from espnet_spike.nn.neurons.factory import NeuronFactory

MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])


class Net(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        make = NeuronFactory(neuron, 4, norm=False)
        self.first = make(3)
        self.block = nn.ModuleList([make(3)])
        self.steps = make.time_steps

    def forward(self, x, mask):
        mask = mask.repeat(self.steps, 1)
        y = self.first(x.repeat(self.steps, 1, 1), mask)
        return self.block[0](3 * y, mask)


@pytest.mark.parametrize("neuron", ["imls", "ilif", "lif", "ternary"])
def test_names_and_rates(neuron):
    torch.manual_seed(0)
    net = Net(neuron)
    assert firing_rates(net) == {}
    net(3 * torch.randn(2, 4, 3), MASK)
    assert list(firing_rates(net)) == ["first", "block.0"] == list(named_neurons(net))
    for rate in firing_rates(net).values():
        assert rate.dim() == 0 and 0 < rate < 1 and not rate.requires_grad


def test_the_twin_does_not_spike():
    net = Net("relu")
    net(torch.randn(2, 4, 3), MASK)
    assert firing_rates(net) == {} == threshold_spreads(net)


@pytest.mark.parametrize("neuron", ["imls", "ilif", "lif", "ternary"])
def test_padding_is_left_out_and_nothing_accumulates(neuron):
    torch.manual_seed(0)
    net = Net(neuron)
    x = 3 * torch.randn(2, 4, 3)
    net(x, MASK)
    before = firing_rates(net)
    firing = net.first.firing
    net(x.masked_fill(~MASK[..., None], 1e4), MASK)
    after = firing_rates(net)
    assert before == after
    assert net.first.firing.count_sum == firing.count_sum
    assert firing.numel == 4 * 3 * net.steps


def test_rate_is_spikes_per_level():
    neuron = NeuronFactory("imls", 6, {"stat": "fixed", "alpha_init": 1.0})(2)
    neuron(torch.tensor([[[1.0, 2.0], [9.0, -1.0]]]))
    assert neuron.firing.count_sum == 1 + 2 + 6
    assert neuron.firing.rate.item() == pytest.approx(9 / (4 * 6))
    assert neuron.firing.mean_count.item() == pytest.approx(9 / 4)


def test_an_empty_batch_has_rate_zero():
    neuron = NeuronFactory("imls")(2)
    neuron(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))
    assert neuron.firing.rate == 0 and neuron.threshold_spread == 0


def test_spread_is_the_coefficient_of_variation_of_the_level():
    neuron = NeuronFactory("imls")(2)
    x = torch.tensor([[[1.0, -1.0], [3.0, 3.0], [500.0, 7.0]]])
    neuron(x, torch.tensor([[True, True, False]]))
    assert neuron.threshold_spread.item() == pytest.approx(0.5)
    neuron(x[:, :1])
    assert neuron.threshold_spread == 0


def test_a_used_network_can_be_copied():
    net = Net("imls")
    net(torch.randn(2, 4, 3, requires_grad=True), MASK)
    assert firing_rates(copy.deepcopy(net)) == firing_rates(net)
