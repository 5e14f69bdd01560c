"""Weight layers that read spikes, as integer counts or as binary trains.

Integer mode, for training: a neuron hands on ``Y = V * counts`` as an ordinary tensor. Binary mode,
for inference: it hands on a ``SpikeTrain``, T slots of 0/1 spikes a frame with their unit V, and
the layers here run on the slots only. With ``V_nc = frame_n * channel_c``,

    W y_n + b = frame_n * sum_t (W diag(channel)) S_n[t] + b

the bias once, never per slot (that would add it T times). Where a kernel spans frames with
different units, the unit is applied per tap, before the taps are summed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.accounting import in_accumulators
from espnet_spike.nn.neurons.spike_train import SpikeTrain, add_up, recomputing
from espnet_spike.nn.ops.depthwise_conv import depthwise_conv


class SpikeLinear(nn.Linear):
    """``nn.Linear`` on spikes ``(..., C)``: a tensor or a ``SpikeTrain``."""

    def forward(self, xs: Tensor | SpikeTrain) -> Tensor:
        """Return ``W y + b``."""
        if isinstance(xs, SpikeTrain):
            return self._forward_train(xs)
        with recomputing(xs):
            return super().forward(xs)

    @in_accumulators
    def _forward_train(self, xs: SpikeTrain) -> Tensor:
        weight = self.weight * xs.channel
        total = add_up(F.linear(xs.slot(t), weight) for t in range(1, xs.levels + 1))
        out = xs.frame * total
        return out if self.bias is None else out + self.bias


class SpikeConv2d(nn.Conv2d):
    """``nn.Conv2d`` over time and frequency, unpadded, on ``(B, N, F, C)``: channels last."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        anyhow: Any = self  # torch's types lack this form of `to`
        anyhow.to(memory_format=torch.channels_last)

    def forward(self, xs: Tensor | SpikeTrain) -> Tensor:
        """Return ``(B, N', F', outputs)``."""
        if isinstance(xs, SpikeTrain):
            return self._forward_train(xs)
        with recomputing(xs):
            return super().forward(xs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    @in_accumulators
    def _forward_train(self, xs: SpikeTrain) -> Tensor:
        weight = self.weight * xs.channel[:, None, None]
        stride = self.stride[0]
        kernel = self.kernel_size[0]
        length = (xs.shape[1] - kernel) // stride + 1
        frame = xs.frame.expand(xs.shape[0], xs.shape[1], 1, 1)
        step = (1, self.stride[1])

        def of_tap(tap: int) -> Tensor:
            rows = slice(tap, tap + (length - 1) * stride + 1, stride)
            taps = weight[:, :, tap : tap + 1]
            slots = (xs.slot(t)[:, rows].permute(0, 3, 1, 2) for t in range(1, xs.levels + 1))
            total = add_up(F.conv2d(slot, taps, stride=step) for slot in slots)
            return frame[:, rows] * total.permute(0, 2, 3, 1)

        out = add_up(map(of_tap, range(kernel)))
        return out if self.bias is None else out + self.bias


class SpikeConv1d(nn.Conv1d):
    """``nn.Conv1d`` over time on ``(B, N, C)``, zero-padded to keep the length.

    Frames of padding must not spike, or they leak into their neighbours. Values that are no spikes
    are taken as well.

    Args:
        inputs: C.
        outputs: C of the output.
        kernel: odd width.
        groups: ``inputs`` for a depthwise convolution.
        bias: add a bias.
        padding: frames of zeros at either end, in place of those that keep the length.

    Raises:
        ValueError: for an even ``kernel``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        groups: int = 1,
        bias: bool = True,
        padding: int | None = None,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel: {kernel} is even; an odd width keeps the length")
        padding = kernel // 2 if padding is None else padding
        super().__init__(inputs, outputs, kernel, padding=padding, groups=groups, bias=bias)

    def forward(self, xs: Tensor | SpikeTrain) -> Tensor:
        """Return ``(B, N, outputs)``."""
        if isinstance(xs, SpikeTrain):
            return self._forward_train(xs)
        with recomputing(xs):
            if self.groups == self.in_channels == self.out_channels:
                return depthwise_conv(xs, self.weight, self.bias, int(self.padding[0]))
            return super().forward(xs.transpose(1, 2)).transpose(1, 2)

    @in_accumulators
    def _forward_train(self, xs: SpikeTrain) -> Tensor:
        length, half = xs.shape[1], int(self.padding[0])
        outputs = length + 2 * half - self.kernel_size[0] + 1
        # a group's weights are (outputs/groups, inputs/groups); channels lie group by group
        channel = xs.channel.unflatten(0, (self.groups, 1, -1))
        weight = self.weight.unflatten(0, (self.groups, -1)) * channel[..., None]
        weight = weight.flatten(0, 1)
        frame = F.pad(xs.frame.expand(xs.shape[0], length, 1), (0, 0, half, half))
        slots = [F.pad(xs.slot(t), (0, 0, half, half)) for t in range(1, xs.levels + 1)]

        def of_tap(tap: int) -> Tensor:
            rows, taps = slice(tap, tap + outputs), weight[:, :, tap : tap + 1]
            total = add_up(
                F.conv1d(slot[:, rows].transpose(1, 2), taps, groups=self.groups) for slot in slots
            )
            return frame[:, rows] * total.transpose(1, 2)

        out = add_up(map(of_tap, range(self.kernel_size[0])))
        return out if self.bias is None else out + self.bias
