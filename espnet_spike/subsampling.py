"""The convolutional front end: shortens the feature sequence and encodes it into spikes."""

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor, nn

from espnet_spike.neurons import NeuronFactory
from espnet_spike.options import choose
from espnet_spike.spikes import SpikeConv2d, SpikeLinear, SpikeTrain

# (kernel, stride) of each convolution, along time and frequency alike, as ESPnet's input layers
INPUT_LAYERS: dict[str, tuple[tuple[int, int], ...]] = {
    "conv2d": ((3, 2), (3, 2)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}


class ConvSubsampling(nn.Module):
    """Two or three 2-D convolutions with a neuron after each, then a linear layer.

    The first convolution sees analog features (the "encoding layer"); everything after it sees
    spikes. The neuron's token statistic covers channels and frequency bins of a time step, its
    thresholds are per channel (our reading of paper A).

    Args:
        input_size: feature dimension.
        output_size: D.
        neurons: makes the neurons.
        input_layer: a name in ``INPUT_LAYERS``.
        channels: channels of the convolutions; None means ``output_size``, as in ESPnet.

    Raises:
        ValueError: for an unknown ``input_layer`` or too few features for it.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        neurons: NeuronFactory,
        input_layer: str = "conv2d",
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = INPUT_LAYERS[choose("input_layer", input_layer, INPUT_LAYERS)]
        channels = channels or output_size
        bins = self._out_length(input_size)
        if bins < 1:
            raise ValueError(f"input_layer: {input_layer} needs more than {input_size} features")
        self.time_steps = neurons.time_steps
        self.convs = nn.ModuleList()
        self.neurons = nn.ModuleList()
        for index, (kernel, stride) in enumerate(self.layers):
            inputs = channels if index else 1
            self.convs.append(SpikeConv2d(inputs, channels, kernel, stride))
            self.neurons.append(neurons.unnormed(channels))
        self.out = SpikeLinear(channels * bins, output_size)

    @property
    def factor(self) -> int:
        """Input frames per output frame."""
        product = 1
        for _, stride in self.layers:
            product *= stride
        return product

    @property
    def min_length(self) -> int:
        """Fewest input frames that give one output frame."""
        length = 1
        for kernel, stride in reversed(self.layers):
            length = (length - 1) * stride + kernel
        return length

    def _out_length(self, length):  # noqa: ANN001 - int or Tensor, and the same back
        for kernel, stride in self.layers:
            length = (length - kernel) // stride + 1
        return length

    def output_lengths(self, ilens: Tensor) -> Tensor:
        """Return the output length of each utterance, ``(B,)``; 0 for one that is too short."""
        return self._out_length(ilens).clamp(min=0)

    def forward(self, x: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample.

        Args:
            x: features ``(B, F, input_size)``.
            ilens: ``(B,)``.

        Returns:
            ``(time_steps * B, N, D)`` and the output lengths ``(B,)``.

        Raises:
            TooShortUttError: if no utterance of the batch gives an output frame.
        """
        if x.shape[1] < self.min_length:
            raise TooShortUttError(
                f"has {x.shape[1]} frames and is too short for subsampling "
                f"(it needs {self.min_length} frames), return empty results",
                x.shape[1],
                self.min_length,
            )
        lengths = ilens
        xs = x[..., None]
        for index, (conv, neuron) in enumerate(zip(self.convs, self.neurons, strict=True)):
            kernel, stride = self.layers[index]
            x = conv(xs)
            lengths = ((lengths - kernel) // stride + 1).clamp(min=0)
            if index == 0 and self.time_steps > 1:
                # the analog map is constant in time: every time step starts from it
                x = x.repeat(self.time_steps, 1, 1, 1)
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            xs = neuron(x, mask.repeat(self.time_steps, 1))
        return self.out(flatten_bins(xs)), lengths


def flatten_bins(xs: Tensor | SpikeTrain) -> Tensor | SpikeTrain:
    """Put frequency bins and channels on one axis: ``(B, N, F, C)`` to ``(B, N, F * C)``."""
    if isinstance(xs, SpikeTrain):
        counts = xs.counts.flatten(2)
        frame = xs.frame.flatten(2) if xs.frame.dim() > 1 else xs.frame
        return SpikeTrain(counts, frame, xs.channel.repeat(xs.shape[2]), xs.levels)
    flat = xs.flatten(2)
    if hasattr(xs, "recipe"):
        flat.recipe = xs.recipe
    return flat
