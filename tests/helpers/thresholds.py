"""A model of two FATReLU points whose loss is known, and batches for it."""

import torch
from torch import nn

from espnet_spike.nn.layers.fatrelu import FATReLU


class Encoder(nn.Module):
    """Two points; ``wide`` matters to the loss only by its large values."""

    def __init__(self, **conf):
        super().__init__()
        self.narrow = FATReLU(T=0.0, learn=False, macs=1, **conf)
        self.wide = FATReLU(T=0.0, learn=False, macs=10, **conf)


class Model(nn.Module):
    """The loss an utterance is the mean of all it gets, less what the points take away."""

    def __init__(self, narrow=1.0, wide=0.005, **conf):
        super().__init__()
        self.encoder = Encoder(**conf)
        self.weights = narrow, wide
        self.weight = nn.Parameter(torch.tensor(1.0))

    def task_loss(self, speech, speech_lengths):
        mask = torch.arange(speech.shape[1]) < speech_lengths[:, None]
        lost = 0.0
        layers = self.encoder.narrow, self.encoder.wide
        for layer, weight in zip(layers, self.weights, strict=True):
            y = layer(speech, mask)
            want = speech if layer.two_sided else speech.clamp(min=0)
            lost = lost + weight * ((want - y).abs() * mask[..., None]).sum() / mask.sum()
        return 1.0 + self.weight * lost, {}, torch.tensor(len(speech))


def batches():
    """Return three batches, of other lengths each."""
    g = torch.Generator().manual_seed(0)
    return [
        {
            "speech": torch.randn(size, 40, 16, generator=g),
            "speech_lengths": torch.tensor([40] + [25] * (size - 1)),
        }
        for size in (3, 2, 4)
    ]
