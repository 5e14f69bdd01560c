"""What neurons report about their last forward pass."""

import copy

import pytest
import torch
from torch import nn

from espnet_spike.counting.counter import Counter
from espnet_spike.nn.accounting import Cost
from espnet_spike.nn.neurons.base import (
    Neuron,
    firing_rates,
    named_neurons,
    set_levels,
    set_spike_mode,
    threshold_spreads,
)
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
    neuron = NeuronFactory("imls")(2).eval()
    neuron(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))
    assert neuron.firing.rate == 0 and neuron.threshold_spread == 0


def test_spread_is_the_coefficient_of_variation_of_the_level():
    neuron = NeuronFactory("imls")(2).eval()
    x = torch.tensor([[[1.0, -1.0], [3.0, 3.0], [500.0, 7.0]]])
    neuron(x, torch.tensor([[True, True, False]]))
    assert neuron.threshold_spread.item() == pytest.approx(0.5)
    neuron(x[:, :1])
    assert neuron.threshold_spread == 0
    neuron.train()(x)
    assert neuron.threshold_spread is None  # that of another pass would be told as this one's


def test_a_used_network_can_be_copied():
    net = Net("imls")
    net(torch.randn(2, 4, 3, requires_grad=True), MASK)
    assert firing_rates(copy.deepcopy(net)) == firing_rates(net)


class Bare(Neuron):
    """A neuron that says no more than it has to."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x, mask=None):
        return (x > 0).to(x.dtype)

    def update_cost(self, numel, frames):
        return Cost(updates=numel)

    def spike_counts(self, inputs, output):
        return output, 1


def test_what_a_neuron_must_say():
    class Silent(Neuron):
        def forward(self, x, mask=None):
            return x

    with pytest.raises(TypeError, match=r"spike_counts.*update_cost"):
        Silent()


def test_what_a_neuron_does_not_offer_is_refused_by_name():
    neuron = Bare(3)
    neuron.set_spike_mode("integer")
    for refused in (
        lambda: neuron.set_spike_mode("binary"),
        lambda: neuron.set_levels(2),
        lambda: neuron.scale_thresholds(2.0),
    ):
        with pytest.raises(ValueError, match="Bare"):
            refused()
    with pytest.raises(ValueError, match="did you mean 'binary'"):
        neuron.set_spike_mode("binry")
    assert neuron.thresholds() is None and neuron.chosen_levels is None
    assert "Bare" in neuron.response().why
    assert neuron.frame_level(torch.randn(2, 5, 3)).tolist() == [[1.0] * 5] * 2
    with neuron.over_pieces(iter([])):
        pass


def test_modes_of_a_network_are_set_together_or_not_at_all():
    net = nn.ModuleDict({"first": NeuronFactory("imls")(3), "second": Bare(3)})
    with pytest.raises(ValueError, match=r"spike_mode: Bare \(second\) does not emit 0/1 spikes"):
        set_spike_mode(net, "binary")
    assert net["first"].spike_mode == "integer"
    net["second"] = NeuronFactory("lif")(3)
    set_spike_mode(net, "binary")
    assert [neuron.spike_mode for neuron in net.values()] == ["binary", "binary"]


def test_levels_of_a_network_leave_those_that_are_binary_by_design():
    make = NeuronFactory("imls", 4)
    net = nn.ModuleList([make(3), make.binary(3), Bare(3)])
    set_levels(net, 2, "rescale")
    assert [neuron.chosen_levels for neuron in net] == [(2, "rescale"), (1, "keep"), None]
    with pytest.raises(ValueError, match="only an encoder with IMLS neurons"):
        set_levels(net[2:], 2)


@pytest.mark.parametrize("name", ["lif", "ilif"])
def test_a_fixed_threshold_is_scaled_and_given_back(name):
    neuron, x = NeuronFactory(name, 1, {"v_th": 0.3})(3), torch.randn(1, 20, 3)
    y = neuron(x)
    neuron.scale_thresholds(4.0)
    assert neuron.thresholds() == torch.tensor([4 * 0.3]) and not torch.equal(neuron(x), y)
    neuron.scale_thresholds(1.0)
    assert torch.equal(neuron(x), y)


def test_a_bare_neuron_is_counted():
    model, x = nn.Sequential(Bare(3), nn.Linear(3, 2, bias=False)), torch.randn(1, 20, 3)
    with torch.inference_mode(), Counter(model) as counter:
        spikes = model[0](x)
        model[1](spikes)
    assert counter.costs["0", "neuron"].updates == 60
    assert counter.costs["0", "neuron"].spikes == spikes.sum() > 0
    assert counter.costs["1", "linear"].acs == 2 * spikes.sum()
