"""The convolutional front ends of SpeechMamba: strided 2-D convolutions, "same" padding, a linear
layer.

Unlike ESPnet's ``conv2d`` input layers, the number of frames is divided by the stride and rounded
up; frames past the end of an utterance count as zeros before every convolution, so the output
does not depend on padding.
"""

import torch
from torch import Tensor, nn

from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.nn.stream_state import Stateful
from espnet_spike.utils.options import choose

# (kernel, stride, channels) of each convolution, along time and frequency alike
FRONT_ENDS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "conmamba": ((3, 2, 64), (3, 2, 32)),
    "speechbrain": ((5, 2, 64), (5, 2, 64), (1, 1, 64)),
}


def front_end_layers(
    input_layer: str, channels: int | None = None
) -> tuple[tuple[int, int, int], ...]:
    """Return (kernel, stride, channels) of each convolution.

    Args:
        input_layer: a name in ``FRONT_ENDS``.
        channels: of every convolution, in place of those that belong to the name.

    Raises:
        ValueError: for an unknown ``input_layer``.
    """
    layers = FRONT_ENDS[choose("input_layer", input_layer, FRONT_ENDS)]
    return tuple((kernel, stride, channels or own) for kernel, stride, own in layers)


class Skip(nn.Module):
    """LayerNorm(1x1 convolution) on ``(B, F, bins, channels)``."""

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.norm = LayerNorm([bins, channels], eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Map every position."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ConvFrontEnd(Stateful, nn.Module):
    """Convolution, LayerNorm over channels and bins of a frame, activation; then a linear layer.

    Args:
        input_size: feature dimension.
        output_size: D.
        input_layer: a name in ``FRONT_ENDS``.
        points: where FATReLU layers go (F1, F2).
        causal: pad on the left alone in time: an output frame sees no later input.
        channels: of every convolution; None for those of ``input_layer``.
        skip: add LayerNorm(1x1 convolution) of the last convolution's input to its activation, as
            SpeechBrain's ``ConvBlock`` does with ``residual``; Speech-Mamba's recipe has it. F2
            then stands on the sum (ours), so that the linear layer reads sparse values.

    Raises:
        ValueError: for an unknown ``input_layer``, or a skip around a convolution with a stride.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        input_layer: str = "conmamba",
        points: FatPoints | None = None,
        causal: bool = False,
        channels: int | None = None,
        skip: bool = False,
    ) -> None:
        super().__init__()
        points = points or FatPoints()
        self.layers = front_end_layers(input_layer, channels)
        self.causal = causal
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs, bins = 1, input_size
        for kernel, stride, outputs in self.layers:
            conv: nn.Module = nn.Conv2d(inputs, outputs, kernel, stride)
            self.convs.append(conv.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]  # torch's stub lacks it
            inputs, bins = outputs, (bins - 1) // stride + 1
            self.norms.append(LayerNorm([bins, inputs], eps=1e-5))
        # what a value of each map feeds: the positions of the next kernel that cover it
        macs = [(kernel / stride) ** 2 * out for kernel, stride, out in self.layers[1:]]
        self.skip = None
        if skip:
            if self.layers[-1][:2] != (1, 1):
                raise ValueError(f"conv_skip: the last convolution of {input_layer} is none of 1x1")
            self.skip = Skip(inputs, bins)
            macs[-1] += inputs
        self.f1 = nn.ModuleList(points("F1", nn.LeakyReLU(), count) for count in macs)
        self.f2 = points("F2", None if skip else nn.LeakyReLU(), output_size)
        self.out = nn.Linear(inputs * bins, output_size)

    @property
    def factor(self) -> int:
        """Input frames per output frame."""
        product = 1
        for _, stride, _ in self.layers:
            product *= stride
        return product

    def output_lengths(self, ilens: Tensor) -> Tensor:
        """Return the number of output frames of each utterance, ``(B,)``."""
        for _, stride, _ in self.layers:
            ilens = (ilens - 1) // stride + 1
        return ilens

    def forward(self, x: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample.

        Args:
            x: features ``(B, F, input_size)``; frames past ``ilens`` are ignored.
            ilens: ``(B,)``.

        Returns:
            ``(B, L, D)`` and the output lengths ``(B,)``.
        """
        lengths, x = ilens, x[..., None]  # (B, F, bins, channels)
        if self.carry is not None:
            x = self._chunk(x)
            return x, torch.full_like(ilens, x.shape[1])
        for index, (kernel, stride, _) in enumerate(self.layers):
            x = x.masked_fill(~_valid(x, lengths)[..., None, None], 0)
            before = kernel - 1 if self.causal else (kernel - 1) // 2
            after = kernel - 1 - before
            side = (kernel - 1) // 2
            x = nn.functional.pad(x, (0, 0, side, kernel - 1 - side, before, after))
            lengths = (lengths - 1) // stride + 1
            x = self._layer(index, x, lengths)
        return self.out(x.flatten(2)), lengths

    def _chunk(self, x: Tensor) -> Tensor:
        """Return the output frames ``(B, L, D)`` that a chunk ``(B, F, bins, 1)`` completes."""
        if not self.causal or self.carry is None:
            raise ValueError("a stream needs causal: true")
        for index, (kernel, stride, _) in enumerate(self.layers):
            before = x.new_zeros(len(x), kernel - 1, *x.shape[2:])
            x = torch.cat([self.carry.get(f"inputs{index}", before), x], 1)
            frames = max(0, (x.shape[1] - kernel) // stride + 1)
            self.carry[f"inputs{index}"] = x[:, frames * stride :].clone()
            if frames == 0:
                return x.new_zeros(len(x), 0, self.out.out_features)
            side = (kernel - 1) // 2
            x = x[:, : (frames - 1) * stride + kernel]
            x = nn.functional.pad(x, (0, 0, side, kernel - 1 - side))
            x = self._layer(index, x)
        return self.out(x.flatten(2))

    def _layer(self, index: int, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Convolve padded ``inputs`` ``(B, F, bins, channels)``, normalise and activate."""
        x = self.convs[index](inputs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.norms[index](x)
        last = index == len(self.f1)
        if last and self.skip is not None:
            x = nn.functional.leaky_relu(x) + self.skip(inputs)
        point = self.f2 if last else self.f1[index]
        return point(x, None if lengths is None else _valid(x, lengths))


def _valid(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]
