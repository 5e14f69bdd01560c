"""Long inputs through a stack of convolutions in overlapping pieces with exact seams.

The first map of the front end is far larger than anything after it: 14 GB for an hour of speech
with 512 channels. Unpadded convolutions see ``min_length`` input frames per output frame, so a
piece of the input that overlaps the next one by ``min_length - factor`` frames yields its output
frames from the same numbers as the whole input does. Frames of the inner maps that two pieces
compute belong to the later one: statistics count every frame once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from espnet_spike.nn.neurons.base import Firing, named_neurons

PIECE_FRAMES = 2048
"""Input frames per piece (20 s at a 10 ms hop)."""

PIECES_FROM = 4096
"""Input frames from which on a front end works in pieces; ordinary utterances stay below."""

Layers = Sequence[tuple[int, int]]
"""(kernel, stride) along time of each convolution, without padding."""


def map_lengths(length, layers: Layers) -> list:  # noqa: ANN001 - int or Tensor, and the same back
    """Return the frames of every convolution's map for an input of ``length`` frames, ints >= 0."""
    lengths = []
    for kernel, stride in layers:
        length = (length - kernel) // stride + 1
        length = length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)
        lengths.append(length)
    return lengths


def receptive_field(layers: Layers) -> tuple[int, int]:
    """Return the input frames that one output frame sees, and the frames from one to the next."""
    field, factor = 1, 1
    for kernel, stride in reversed(layers):
        field = (field - 1) * stride + kernel
        factor *= stride
    return field, factor


@dataclass(frozen=True)
class Piece:
    """One piece of an input.

    Attributes:
        start: first input frame.
        stop: end of the input frames, exclusive.
        own: for every convolution the frames ``(first, last)`` of the whole map, last exclusive,
            that belong to this piece. The piece's map begins at ``first`` and may go on beyond
            ``last``.
    """

    start: int
    stop: int
    own: tuple[tuple[int, int], ...]

    def mask(self, index: int, length: int, lengths: Tensor) -> Tensor:
        """Return which frames of map ``index`` are valid and this piece's own, ``(B, length)``.

        Args:
            index: of the convolution.
            length: frames of the piece's map.
            lengths: ``(B,)`` valid frames of the whole map.
        """
        first, last = self.own[index]
        frames = torch.arange(first, first + length, device=lengths.device)
        return frames < lengths.clamp(max=last)[:, None]


def plan_pieces(length: int, layers: Layers, size: int) -> list[Piece]:
    """Cut an input of ``length`` frames into pieces.

    Args:
        length: at least the receptive field.
        layers: of the stack.
        size: input frames per piece without its overlap; at least one output frame is made.
    """
    field, factor = receptive_field(layers)
    totals = map_lengths(length, layers)
    outputs, per_piece = totals[-1], max(1, size // factor)
    pieces = []
    for begin in range(0, outputs, per_piece):
        end = min(begin + per_piece, outputs)
        is_last = end == outputs
        own = []
        for index, total in enumerate(totals):
            _, step = receptive_field(layers[index + 1 :])
            own.append((begin * step, total if is_last else end * step))
        # the last piece takes what is left, also frames that no output sees: maps are counted whole
        stop = length if is_last else (end - 1) * factor + field
        pieces.append(Piece(begin * factor, stop, tuple(own)))
    return pieces


def run_pieces(
    run: Callable[[Piece], Tensor], pieces: Sequence[Piece], module: nn.Module
) -> Tensor:
    """Run every piece and join the outputs ``(B, n, D)`` along time.

    The ``firing`` of the neurons inside ``module`` is that of the whole input afterwards. Their
    ``threshold_spread`` is None: it does not follow from the spreads of the pieces.
    """
    neurons = named_neurons(module).values()
    firings: list[list[Firing]] = [[] for _ in neurons]
    _, total = pieces[-1].own[-1]
    joined = None
    for piece in pieces:
        y = run(piece)
        if joined is None:
            joined = y.new_empty(y.shape[0], total, y.shape[2])
        first, last = piece.own[-1]
        joined[:, first:last] = y
        for neuron, seen in zip(neurons, firings, strict=True):
            assert neuron.firing is not None  # it has just run
            seen.append(neuron.firing)
    for neuron, seen in zip(neurons, firings, strict=True):
        neuron.firing = replace(
            seen[0],
            count_sum=torch.stack([firing.count_sum for firing in seen]).sum(),
            numel=torch.stack([firing.numel for firing in seen]).sum(),
        )
        neuron.threshold_spread = None
    assert joined is not None  # there are pieces
    return joined
