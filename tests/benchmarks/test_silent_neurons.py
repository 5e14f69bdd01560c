"""The table of silent neurons."""

import math

import pytest
import torch
from torch import nn

from benchmarks.silent_neurons import layers_of
from espnet_spike.nn.neurons.factory import ReLU
from espnet_spike.nn.neurons.imls import IMLS


class Encoder(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x, lengths):
        return self.neuron(x), lengths


@pytest.mark.parametrize("neuron", [IMLS(4, T=2, stat="fixed"), ReLU(4)])
def test_rates_and_silent_channels(neuron):
    x = torch.tensor([[[1.0, 5.0, -1.0, -0.3], [-1.0, 5.0, -1.0, -0.1]]])
    (layer,) = layers_of(Encoder(neuron), iter([(x, torch.tensor([2]))] * 3)).values()
    found, silent, positive, never, threshold = layer.row()
    spikes = {"IMLS": (1 + 2 + 2) / 2, "ReLU": 3}[type(neuron).__name__]
    assert found == pytest.approx(spikes / 8)
    assert (silent, positive, never) == (0.5, 3 / 8, 0.5)
    assert threshold == pytest.approx(1.0) if isinstance(neuron, IMLS) else math.isnan(threshold)
