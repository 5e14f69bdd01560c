"""Thresholds from the activations of a dense network."""

import pytest
import torch

from espnet_spike.nn.neurons.fitting import SHARES, Piece, inverse_softplus, peaks
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import ILIF, LIF
from espnet_spike.nn.neurons.ternary import TernaryMomentum


def pieces(steps=1, channels=4):
    """Two batches of dense activations, one channel 100 times another, one silent."""
    found = []
    for seed in (0, 1):
        make = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 30, channels, generator=make) * torch.tensor([1.0, 100, 0.3, 1])
        x[..., 3] = -x[..., 3].abs()
        mask = torch.arange(30) < torch.tensor([30, 20])[:, None]
        x[1, 20:] = 1e4  # padding has no say
        found.append(Piece(x.repeat(steps, 1, 1), mask.repeat(steps, 1), x.clamp(min=0)))
    return found


NEURONS = {
    "imls": IMLS(4, T=6),
    "imls of utterances": IMLS(4, T=6, stat="utt"),
    "imls of the largest": IMLS(4, T=6, stat="max"),
    "imls with a running level": IMLS(4, T=6, stat="ema"),
    "imls without a level": IMLS(4, T=6, stat="fixed"),
    "ternary": TernaryMomentum(4, T=3),
    "ilif": ILIF(4, T=6, per_channel=True),
    "ilif divided": ILIF(4, T=6, divide=True, per_channel=True),
    "ilif of two steps": ILIF(4, T=4, time_steps=2, per_channel=True),
    "lif": LIF(4, T=4, per_channel=True),
    "lif, soft reset": LIF(4, T=8, reset="soft", tau=8.0, per_channel=True),
    "frame lif": FrameLIF(4, per_channel=True),
}


@pytest.mark.parametrize("name", NEURONS)
def test_each_channel_gets_the_level_at_which_it_loses_least(name):
    neuron = NEURONS[name].eval()
    data = pieces(neuron.time_steps)
    lost = neuron.fit_thresholds(data)
    assert lost.shape == (4,) and lost[3] == 0  # silent
    # the first channels share their frames' level with one 100 times as large
    bound = 0.9 if name == "frame lif" else 0.5 if name.startswith("lif") else 0.15
    assert bool((lost[:3] < bound).all())
    kept = neuron.thresholds().clone()

    def loss():
        total = torch.zeros(4)
        truth = torch.zeros(4)
        for x, mask, target in data:
            y = neuron(x, mask).view(neuron.time_steps, *target.shape).mean(0)
            valid = mask[: len(target)]
            total += ((y - target)[valid] ** 2).sum(0)
            truth += (target[valid] ** 2).sum(0)
        return torch.where(truth > 0, total / truth.clamp(min=1e-9), 0.0)

    with torch.no_grad():
        assert torch.allclose(loss().double(), lost.double(), rtol=1e-3, atol=1e-4)
        for step in (-3, 3):  # there is nothing better among what was tried
            neuron.scale_thresholds(2.0 ** (step / 4))
            assert bool((loss()[:3] >= lost[:3] - 1e-5).all())
        neuron.scale_thresholds(1)
    assert torch.equal(neuron.thresholds(), kept)


def test_channels_of_other_ranges_get_other_thresholds():
    neuron = ILIF(4, T=6, per_channel=True)
    neuron.fit_thresholds(pieces())
    small, large = neuron.thresholds()[[2, 1]]
    assert 200 < large / small < 500  # the ranges differ 333 times
    # a spike is worth about the threshold that it takes
    assert torch.allclose(neuron.worth()[:3], neuron.thresholds()[:3], rtol=0.1)


@pytest.mark.parametrize("neuron", [LIF(4), ILIF(4), FrameLIF(4)])
def test_one_threshold_for_all_is_refused_by_name(neuron):
    name = type(neuron).__name__
    with pytest.raises(ValueError, match=f"^{name} has one threshold for all channels$"):
        neuron.fit_thresholds(pieces())


def test_peaks():
    x = torch.arange(1001.0).repeat(2, 1, 1).mT.clone()  # 0..1000
    x[1] *= -1
    piece = Piece(x, None, x)
    assert peaks([piece], quantile=0.999).tolist() == [999]
    assert peaks([piece], lambda x, mask: torch.tensor(2.0), quantile=1.0).tolist() == [500]
    silent = Piece(x, None, torch.cat([x, -x.abs()], -1))
    assert peaks([silent]).tolist() == [999, 999]  # as much as the others
    assert peaks([Piece(x, None, -x.abs())]).tolist() == [1]


def test_shares_and_inverse():
    assert SHARES[0] > 1.3 and SHARES[-1] < 0.005 and sorted(SHARES, reverse=True) == [*SHARES]
    y = torch.tensor([1e-3, 0.5, 30.0])
    assert torch.allclose(torch.nn.functional.softplus(inverse_softplus(y)), y)
