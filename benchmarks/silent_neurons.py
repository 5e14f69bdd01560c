"""Which neurons of a trained encoder are silent, and what they read.

    .venv/bin/python -m benchmarks.silent_neurons --asr_exp egs/an4/exp/asr_TAG --data DIR

For each activation layer, spiking or the ReLU of a dense twin: spikes an activation and level (of
a ReLU: the share of its outputs above zero), the share of channels that put out nothing over all
utterances, the share of inputs above zero, the share of channels whose input never is, and the
median threshold.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from espnet_spike.encoders.monitor import watching
from espnet_spike.nn.neurons.base import Activation, Neuron
from espnet_spike.tasks.loading import encoder_inputs, load_model
from espnet_spike.utils.cli import COUNT


@dataclass
class Layer:
    """Sums over the utterances seen so far.

    Attributes:
        spikes: outputs (of a ReLU: 1 where positive) over levels.
        numel: outputs.
        fired, positive: times that a channel put out something, or read something above zero.
        thresholds: in use; None without.
    """

    spikes: float = 0.0
    numel: int = 0
    fired: Tensor = field(default_factory=lambda: torch.zeros(()))
    positive: Tensor = field(default_factory=lambda: torch.zeros(()))
    thresholds: Tensor | None = None

    def add(self, module: Activation, args: tuple, out: Tensor) -> None:
        """Take in a forward pass over one utterance."""
        x = args[0]
        counts, levels = (out > 0).float(), 1
        if isinstance(module, Neuron):
            counts, levels = module.spike_counts(args, out)
            self.thresholds = module.thresholds()
        counts = counts.abs().flatten(0, -2)
        self.spikes += float(counts.sum()) / levels
        self.numel += counts.numel()
        self.fired = self.fired + (counts > 0).sum(0)
        self.positive = self.positive + (x.flatten(0, -2) > 0).sum(0)

    def row(self) -> list[float]:
        """Return rate, silent channels, inputs above zero, channels without any, threshold."""
        median = float("nan") if self.thresholds is None else float(self.thresholds.median())
        return [
            self.spikes / self.numel,
            float((self.fired == 0).float().mean()),
            float(self.positive.sum()) / self.numel,
            float((self.positive == 0).float().mean()),
            median,
        ]


def layers_of(encoder: nn.Module, inputs: Iterator[tuple[Tensor, Tensor]]) -> Mapping[str, Layer]:
    """Return what each activation layer of an encoder did, by name, in the order of the network."""
    modules = {name: m for name, m in encoder.named_modules() if isinstance(m, Activation)}
    found = {name: Layer() for name in modules}
    with watching(modules, lambda name, *call: found[name].add(*call)), torch.no_grad():
        for speech, lengths in inputs:
            encoder(speech, lengths)
    return found


def main() -> None:
    """Print the table of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="the trained experiment")
    parser.add_argument("--data", type=Path, required=True, help="features, e.g. of dev")
    parser.add_argument("--utterances", type=COUNT, default=30, help="how many of them")
    options = parser.parse_args()
    model = load_model(options.asr_exp).model
    found = layers_of(model.encoder, encoder_inputs(model, options.data, options.utterances))
    print(f"{'layer':34}   rate  silent channels  inputs > 0  channels never  threshold")
    for name, layer in found.items():
        rate, silent, positive, never, median = layer.row()
        print(f"{name:34} {rate:6.4f} {silent:16.1%} {positive:11.1%} {never:15.1%} {median:10.3f}")


if __name__ == "__main__":
    main()
