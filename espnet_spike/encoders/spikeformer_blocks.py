"""The blocks of the spiking Transformer: channel mixing, convolution module, encoder block."""

from torch import Tensor, nn

from espnet_spike.nn.layers.dropout import Dropout
from espnet_spike.nn.layers.spike_layers import SpikeConv1d, SpikeLinear
from espnet_spike.nn.layers.spiking_attention import SpikingAttention, mask_spikes
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.norms import MaskedBatchNorm, build_norm


class SpikingFeedForward(nn.Module):
    """Channel mixing: neuron, linear, neuron, linear, on ``(B, N, D)``."""

    def __init__(self, dim: int, hidden: int, neurons: NeuronFactory) -> None:
        super().__init__()
        self.neuron_in = neurons(dim)
        self.linear_in = SpikeLinear(dim, hidden)
        self.neuron_hidden = neurons.unnormed(hidden)
        self.linear_out = SpikeLinear(hidden, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix the channels of ``x`` ``(B, N, D)``; ``mask`` ``(B, N)`` is true on valid frames."""
        hidden = self.linear_in(self.neuron_in(x, mask))
        return self.linear_out(self.neuron_hidden(hidden, mask))


class SpikingConvModule(nn.Module):
    """Local mixing, after Conformer's module (our choice; off by default).

    neuron, pointwise, neuron, depthwise, batch norm, neuron, pointwise, on ``(B, N, D)``; nothing
    stands for the gated linear unit.
    """

    def __init__(self, dim: int, kernel: int, neurons: NeuronFactory) -> None:
        super().__init__()
        self.neuron_in = neurons(dim)
        self.pointwise_in = SpikeLinear(dim, dim)
        self.neuron_depthwise = neurons.unnormed(dim)
        self.depthwise = SpikeConv1d(dim, dim, kernel, groups=dim, bias=False)
        self.norm = MaskedBatchNorm(dim)
        self.neuron_out = neurons(dim)
        self.pointwise_out = SpikeLinear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix neighbouring frames of ``x``; ``mask`` ``(B, N)`` is true on valid frames."""
        xs = self.neuron_depthwise(self.pointwise_in(self.neuron_in(x, mask)), mask)
        x = self.norm(self.depthwise(mask_spikes(xs, mask)), mask)
        return self.pointwise_out(self.neuron_out(x, mask))


class SpikeformerBlock(nn.Module):
    """One encoder block with a membrane shortcut, ``(B, N, D)`` to ``(B, N, D)``.

    Args:
        dim: D.
        hidden: hidden channels of the channel mixing.
        attn: the attention.
        neurons: makes the neurons.
        norm: before each branch, see ``espnet_spike.nn.norms``.
        dropout_rate: after each branch.
        conv_kernel: width of the convolution module between the two; None for no module.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        attn: SpikingAttention,
        neurons: NeuronFactory,
        norm: str,
        dropout_rate: float,
        conv_kernel: int | None = None,
    ) -> None:
        super().__init__()
        self.norm_attn = build_norm(norm, dim)
        self.attn = attn
        self.conv: SpikingConvModule | None = None
        if conv_kernel is not None:
            self.norm_conv = build_norm(norm, dim)
            self.conv = SpikingConvModule(dim, conv_kernel, neurons)
        self.norm_ffn = build_norm(norm, dim)
        self.ffn = SpikingFeedForward(dim, hidden, neurons)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Update the membrane potential ``x``."""
        x = self.join(x, self.attn(self.norm_attn(x, mask), mask, lengths))
        if self.conv is not None:
            x = self.join(x, self.conv(self.norm_conv(x, mask), mask))
        return self.join(x, self.ffn(self.norm_ffn(x, mask), mask))

    def join(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return the membrane potential ``x`` with what a branch adds to it."""
        return x + self.dropout(branch)
