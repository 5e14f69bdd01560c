"""What IMLS and the ternary neuron share: levels, thresholds, what is held over pieces."""

import pytest
import torch
from torch import nn

from espnet_spike.nn.neurons.frame_lif import RateLoss
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.multi_level import IMLS_STATS, MultiLevel
from espnet_spike.nn.neurons.ternary import TernaryMomentum

CLASSES = [IMLS, TernaryMomentum]


def make(cls, **conf):
    return cls(4, T=3, **conf).double().eval()


def data(*shape):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


def test_they_are_siblings():
    assert issubclass(IMLS, MultiLevel) and issubclass(TernaryMomentum, MultiLevel)
    assert not issubclass(TernaryMomentum, IMLS)
    with pytest.raises(TypeError, match="abstract"):
        MultiLevel(4)


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_keep_their_names(cls):
    assert list(make(cls).state_dict()) == ["a"]
    assert list(make(cls, stat="ema").state_dict()) == ["a", "running_level", "updates"]


@pytest.mark.parametrize("cls", CLASSES)
def test_levels_are_chosen_and_given_back_exactly(cls):
    neuron, x = make(cls), data(1, 9, 4)
    y = neuron(x)
    before = neuron.chosen_levels
    for rule in ("keep", "rescale"):
        neuron.set_levels(1, rule)
        assert neuron.chosen_levels == (1, rule) and not torch.equal(neuron(x), y)
        neuron.set_levels(*before)
        assert torch.equal(neuron(x), y)
    with pytest.raises(ValueError, match="at least one level"):
        neuron.set_levels(0)
    with pytest.raises(ValueError, match="did you mean 'keep'"):
        neuron.set_levels(2, "kep")


@pytest.mark.parametrize("stat", IMLS_STATS)
@pytest.mark.parametrize("cls", CLASSES)
def test_thresholds_are_scaled_and_given_back_exactly(cls, stat):
    neuron, x = make(cls, stat=stat), data(1, 9, 4)
    y, thresholds = neuron(x), neuron.thresholds()
    neuron.scale_thresholds(2.0)
    assert torch.equal(neuron.thresholds(), 2 * thresholds)
    scaled = neuron(2 * x) if stat == "fixed" else neuron(x)
    assert torch.equal(scaled, 2 * y) if stat == "fixed" else not torch.equal(scaled, y)
    neuron.scale_thresholds(1.0)
    assert torch.equal(neuron(x), y)


@pytest.mark.parametrize("mode", ["integer", "binary"])
@pytest.mark.parametrize("stat", IMLS_STATS)
@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 6, 3, 4)])
def test_what_is_emitted_is_told_alike_in_all_ways(shape, stat, mode):
    neuron, x = make(IMLS, stat=stat), data(*shape)
    neuron.set_spike_mode(mode)
    with torch.no_grad():
        y = neuron(x)
    counts, levels = neuron.spike_counts((x,), y)
    assert levels == 3 and torch.equal(counts, neuron.spike_train(x).counts)
    found = neuron.emitted((x,), y)
    assert (found.levels, found.scaled) == (3, neuron.follows_input)
    assert found.total == counts.sum() and found.nonzeros == (counts != 0).sum()
    assert mode == "binary" or torch.equal(found.counts, counts)


def test_counting_changes_nothing_that_is_trained():
    neuron, x = make(IMLS, stat="ema").train(), data(2, 6, 4)
    y = neuron(x)
    before = {name: value.clone() for name, value in neuron.state_dict().items()}
    neuron.spike_counts((x,), y.detach())
    neuron.emitted((x,), y.detach())
    assert all(torch.equal(value, before[name]) for name, value in neuron.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rounded_output_does_not_blur_the_counts(dtype):
    neuron = IMLS(4, T=300, alpha_init=0.01).eval()
    x = data(2, 6, 4).to(dtype)
    with torch.no_grad():
        y = neuron(x)
    found = neuron.emitted((x,), y)
    assert torch.equal(found.counts, neuron.spike_train(x).counts)
    assert found.counts.max() > 256  # more than the output's eight bits can tell apart


@pytest.mark.parametrize("stat", IMLS_STATS)
def test_the_level_of_an_utterance_is_held_over_its_pieces(stat):
    neuron, x = make(IMLS, stat=stat), data(2, 10, 4)
    mask = torch.ones(2, 10, dtype=torch.bool)
    pieces = [(x[:, :6], mask[:, :6]), (x[:, 6:], mask[:, 6:])]
    whole = neuron(x, mask)
    with neuron.over_pieces(pieces):
        assert torch.allclose(torch.cat([neuron(*piece) for piece in pieces], 1), whole)
    assert torch.equal(neuron(x, mask), whole)


def test_running_level_is_that_of_fp32_under_autocast():
    plain, mixed = (make(IMLS, stat="ema").train() for _ in range(2))
    x = 300 * data(2, 400, 4)
    plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed(x)
    assert torch.equal(plain.running_level, mixed.running_level)


@pytest.mark.parametrize("tail", [0.0, 0.3])
def test_only_tails_bring_a_silent_layer_back(tail):
    """What falls below zero in all channels has no gradient in the rectangular window."""
    torch.manual_seed(0)
    linear, neuron = nn.Linear(4, 8), IMLS(8, surrogate_tail=tail)
    nn.init.constant_(linear.bias, -3.0)
    neuron.keeps_rate = True
    loss = RateLoss(0.05, 0.5, 1.0, 1.0)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.1)
    x = torch.randn(2, 20, 4) / 4
    for _ in range(80):
        neuron(linear(x))
        optimizer.zero_grad()
        terms = loss([neuron])
        sum(terms.values()).backward()
        optimizer.step()
    rate = float(neuron.firing.rate)
    assert rate > 0.04 if tail else rate == 0


@pytest.mark.parametrize("cls", [IMLS, TernaryMomentum])
def test_the_mean_rate_is_that_of_the_counts_over_valid_frames(cls):
    neuron = cls(8, T=3)
    x, mask = torch.randn(2, 5, 3, 8), torch.tensor([[True] * 5, [True, False] + [False] * 3])
    neuron(x, mask)
    assert neuron.mean_rate is None
    neuron.keeps_rate = True
    y = neuron(x, mask)
    level, scale = neuron.last_unit
    counts = y / (level[..., None, None] * scale)
    assert float(neuron.mean_rate) == pytest.approx(float(counts[mask].mean() / neuron.levels))


@pytest.mark.parametrize("tail", [-0.1, 1.5, "x", True])
def test_a_tail_lies_between_0_and_1(tail):
    with pytest.raises(
        ValueError, match=r"surrogate_tail: .* is out of range; give a number from 0 to 1"
    ):
        IMLS(4, surrogate_tail=tail)
