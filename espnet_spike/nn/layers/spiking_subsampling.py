"""The convolutional front end: shortens the feature sequence and encodes it into spikes."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor, nn

from espnet_spike.nn.layers.overlapping_chunks import (
    PIECE_FRAMES,
    PIECES_FROM,
    Piece,
    map_lengths,
    plan_pieces,
    receptive_field,
    run_pieces,
)
from espnet_spike.nn.layers.spike_layers import SpikeConv2d, SpikeLinear
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.neurons.spike_train import SpikeTrain, keep_recipe
from espnet_spike.utils.files import plural
from espnet_spike.utils.options import choose

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
    thresholds are per channel (our choice of Song et al. (2025)).

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
        bins = map_lengths(input_size, self.layers)[-1]
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
        self.pieces_from = PIECES_FROM
        self.piece_frames = PIECE_FRAMES

    @property
    def factor(self) -> int:
        """Input frames per output frame."""
        return receptive_field(self.layers)[1]

    @property
    def min_length(self) -> int:
        """Fewest input frames that give one output frame."""
        return receptive_field(self.layers)[0]

    def output_lengths(self, ilens: Tensor) -> Tensor:
        """Return the output length of each utterance, ``(B,)``; 0 for one that is too short."""
        return map_lengths(ilens, self.layers)[-1]

    def forward(self, x: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample.

        Outside training and without gradients, inputs from ``PIECES_FROM`` frames on run in pieces
        (``espnet_spike.nn.layers.overlapping_chunks``); gradients need every map whole.

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
                f"has {plural(x.shape[1], 'frame')} and is too short for subsampling "
                f"(it needs {plural(self.min_length, 'frame')}), return empty results",
                x.shape[1],
                self.min_length,
            )
        lengths = map_lengths(ilens, self.layers)
        keeps_maps = self.training or torch.is_grad_enabled()
        in_pieces = x.shape[1] >= self.pieces_from and not keeps_maps
        size = self.piece_frames if in_pieces else x.shape[1]
        pieces = plan_pieces(x.shape[1], self.layers, size)
        if len(pieces) == 1:
            return self._run(x, pieces[0], lengths), lengths[-1]
        with ExitStack() as stack:
            neurons: list[Any] = [*self.neurons]
            for index, neuron in enumerate(neurons):
                maps = (self.conv_map(x, piece, lengths, index) for piece in pieces)
                stack.enter_context(neuron.over_pieces(maps))
            y = run_pieces(lambda piece: self._run(x, piece, lengths), pieces, self)
        return y, lengths[-1]

    def _run(self, x: Tensor, piece: Piece, lengths: list[Tensor]) -> Tensor:
        """Return the output of one piece, ``(time_steps * B, n, D)``."""
        xs = self.neurons[-1](*self.conv_map(x, piece, lengths, len(self.convs) - 1))
        return self.out(flatten_bins(xs))

    def conv_map(
        self, x: Tensor, piece: Piece, lengths: list[Tensor], index: int
    ) -> tuple[Tensor, Tensor]:
        """Return what the neurons of convolution ``index`` get in one piece.

        Args:
            x: the whole input ``(B, F, input_size)``.
            piece: the piece.
            lengths: valid frames ``(B,)`` of every convolution's whole map.
            index: of the convolution.

        Returns:
            the map ``(time_steps * B, n, F', C)`` and the mask of its frames.
        """
        if index == 0:
            xs = x[:, piece.start : piece.stop, :, None]
        else:
            xs = self.neurons[index - 1](*self.conv_map(x, piece, lengths, index - 1))
        y = self.convs[index](xs)
        if index == 0 and self.time_steps > 1:
            # the analog map is constant in time: every time step starts from it
            y = y.repeat(self.time_steps, 1, 1, 1)
        mask = piece.mask(index, y.shape[1], lengths[index])
        return y, mask.repeat(self.time_steps, 1)


def flatten_bins(xs: Tensor | SpikeTrain) -> Tensor | SpikeTrain:
    """Put frequency bins and channels on one axis: ``(B, N, F, C)`` to ``(B, N, F * C)``."""
    if isinstance(xs, SpikeTrain):
        frame = xs.frame.flatten(2) if xs.frame.dim() > 1 else xs.frame
        flat = xs.each(lambda spikes: spikes.flatten(2))
        return replace(flat, frame=frame, channel=xs.channel.repeat(xs.shape[2]))
    flat = xs.flatten(2)
    recipe = getattr(xs, "recipe", None)
    return flat if recipe is None else keep_recipe(flat, recipe)
