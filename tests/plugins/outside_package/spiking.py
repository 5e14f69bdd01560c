"""Neurons and an encoder of somebody else."""

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder

from espnet_spike import Cost, Firing, Neuron, NeuronFactory, SpikeTrain, StaircaseResponse
from espnet_spike.nn.layers.spike_layers import SpikeLinear
from espnet_spike.nn.neurons.base import SPIKE_MODES, set_spike_mode


class Plain(Neuron):
    """Fires where its input is positive; says only what a neuron must say."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x, mask=None):
        y = (x > 0).to(x.dtype)
        valid = y if mask is None else y[mask]
        numel = torch.tensor(valid.numel(), dtype=torch.float64)
        self.firing = Firing(valid.sum().double(), numel, torch.ones_like(numel))
        return y + (x - x.detach())

    def update_cost(self, numel, frames):
        return Cost(updates=numel, additions=numel, values_read=numel)

    def spike_counts(self, inputs, output):
        return output, 1


class Burst(Plain):
    """Rounds its input to 0..T spikes of one size; offers all there is to offer."""

    spike_modes = SPIKE_MODES

    def __init__(self, dim: int, T: int = 4, size: float = 0.5):
        super().__init__(dim)
        self.T = T
        self.size = self.trained_size = size

    def forward(self, x, mask=None):
        counts = (x.detach() / self.size + 0.5).floor().clamp(0, self.T)
        valid = counts if mask is None else counts[mask]
        numel = torch.tensor(valid.numel(), dtype=torch.float64)
        self.firing = Firing(valid.sum().double(), numel, torch.full_like(numel, self.T))
        if self.spike_mode == "binary" and not self.training:
            unit = counts.new_full((self.dim,), self.size)
            return SpikeTrain(counts, counts.new_ones(1), unit, self.T)
        return self.size * counts + (x - x.detach())

    def spike_counts(self, inputs, output):
        if isinstance(output, SpikeTrain):
            return output.counts, output.levels
        return (output / self.size).round(), self.T

    def thresholds(self):
        return torch.tensor([self.size])

    def scale_thresholds(self, factor):
        self.threshold_scale = factor
        self.size = self.trained_size * factor

    def response(self):
        step = torch.full((self.dim,), self.size, dtype=torch.float64)
        return StaircaseResponse(step, step, self.T, "half_up")


class Silent(Neuron):
    """Does not say what a neuron must say."""


class SpikingEncoder(AbsEncoder):
    """A linear layer, neurons, a linear layer on their spikes."""

    def __init__(
        self,
        input_size: int,
        output_size: int = 16,
        hidden: int = 24,
        neuron: str = "outside_burst",
    ):
        super().__init__()
        self.first = torch.nn.Linear(input_size, hidden)
        self.neuron = NeuronFactory(neuron, 3)(hidden)
        self.last = SpikeLinear(hidden, output_size)

    def output_size(self) -> int:
        return self.last.out_features

    def forward(self, xs_pad, ilens, prev_states=None):
        mask = torch.arange(xs_pad.shape[1], device=ilens.device) < ilens[:, None]
        return self.last(self.neuron(self.first(xs_pad), mask)), ilens, None

    def set_spike_mode(self, mode: str) -> None:
        set_spike_mode(self, mode)

    @classmethod
    def twin(cls, conf):
        return cls, {**conf, "neuron": "relu"}
