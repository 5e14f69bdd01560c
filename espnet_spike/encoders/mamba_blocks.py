"""The encoder blocks of SpeechMamba, ``(B, L, D)`` to ``(B, L, D)``.

``mamba_mhsa_mamba`` is the layer of Speech-Mamba (Gao and Chen, 2024, arXiv 2409.18654, and its
official recipe): Mamba, self-attention, Mamba, no feed-forward module. ``mhsa_mamba`` is our
reading of before its layout was known: Mamba in the place of the feed-forward module.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.layers.dropout import Dropout
from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.mamba import Mamba, RMSNorm
from espnet_spike.nn.layers.residual import PreNormResidual
from espnet_spike.nn.layers.softmax_attention import SelfAttention
from espnet_spike.nn.layers.spike_layers import SpikeConv1d
from espnet_spike.nn.norms import LayerNorm


@dataclass(frozen=True)
class BlockConfig:
    """What the blocks of one encoder have in common.

    Attributes:
        dim: D.
        heads: of self-attention.
        hidden: channels of a feed-forward module.
        kernel: of ConMamba's convolution module.
        dropout_rate: after each branch and inside feed-forward modules.
        attention_dropout_rate: on the attention weights.
        mamba: arguments of ``Mamba``.
        points: where FATReLU layers go.
        window: frames to the left and right that attention sees; None for all.
    """

    dim: int
    heads: int
    hidden: int
    kernel: int
    dropout_rate: float
    attention_dropout_rate: float
    mamba: dict = field(default_factory=dict)
    points: FatPoints = field(default_factory=FatPoints)
    window: tuple[int, int] | None = None


@dataclass(frozen=True)
class Frames:
    """Which frames of a batch are valid.

    Attributes:
        lengths: ``(B,)``.
        mask: ``(B, L)``, true on valid frames; None when all are.
        visible: of ``attention_mask``; None in a stream.
    """

    lengths: Tensor
    mask: Tensor | None
    visible: Tensor | None


class FeedForward(nn.Module):
    """Linear, activation (F8), linear."""

    def __init__(self, conf: BlockConfig) -> None:
        super().__init__()
        self.linear_in = nn.Linear(conf.dim, conf.hidden)
        self.f8 = conf.points("F8", nn.SiLU(), conf.dim)
        self.dropout = Dropout(conf.dropout_rate)
        self.linear_out = nn.Linear(conf.hidden, conf.dim)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Mix the channels."""
        return self.linear_out(self.dropout(self.f8(self.linear_in(x), frames.mask)))


class ConvModule(nn.Module):
    """ConMamba's convolution module: pointwise, GLU, depthwise, LayerNorm, SiLU, pointwise."""

    def __init__(self, conf: BlockConfig) -> None:
        super().__init__()
        self.pointwise_in = nn.Linear(conf.dim, 2 * conf.dim)
        self.depthwise = SpikeConv1d(conf.dim, conf.dim, conf.kernel, groups=conf.dim)
        self.norm = LayerNorm(conf.dim)
        self.pointwise_out = nn.Linear(conf.dim, conf.dim)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Mix neighbouring frames; padding counts as zeros."""
        x = F.glu(self.pointwise_in(x), -1)
        if frames.mask is not None:
            x = x.masked_fill(~frames.mask[..., None], 0)
        x = self.depthwise(x)
        return self.pointwise_out(F.silu(self.norm(x)))


class MambaMHSAMambaBlock(nn.Module):
    """Mamba, self-attention, Mamba, each as x + dropout(sublayer(RMSNorm(x))).

    Args:
        conf: of the encoder.
        mamba_in: called as ``Mamba``.
        attn: called as ``SelfAttention``.
        mamba_out: called as ``Mamba``.
    """

    def __init__(
        self, conf: BlockConfig, mamba_in: nn.Module, attn: nn.Module, mamba_out: nn.Module
    ) -> None:
        super().__init__()
        self.mamba_in, self.attn, self.mamba_out = (
            PreNormResidual(RMSNorm(conf.dim), sublayer, conf.dropout_rate)
            for sublayer in (mamba_in, attn, mamba_out)
        )

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the block."""
        x = self.mamba_in(x, frames.lengths, frames.mask)
        x = self.attn(x, frames.mask, frames.visible)
        return self.mamba_out(x, frames.lengths, frames.mask)


def mamba_mhsa_mamba(conf: BlockConfig) -> MambaMHSAMambaBlock:
    """Return the dense or event-driven block of Speech-Mamba."""
    return MambaMHSAMambaBlock(
        conf,
        Mamba(conf.dim, points=conf.points, **conf.mamba),
        SelfAttention(conf.dim, conf.heads, conf.attention_dropout_rate, conf.points, conf.window),
        Mamba(conf.dim, points=conf.points, **conf.mamba),
    )


class MHSAMambaBlock(nn.Module):
    """Self-attention, then Mamba: x + MHSA(norm(x)), x + Mamba(RMSNorm(x))."""

    def __init__(self, conf: BlockConfig) -> None:
        super().__init__()
        self.norm_attn = RMSNorm(conf.dim)
        self.attn = SelfAttention(
            conf.dim, conf.heads, conf.attention_dropout_rate, conf.points, conf.window
        )
        self.norm_mamba = RMSNorm(conf.dim)
        self.mamba = Mamba(conf.dim, points=conf.points, **conf.mamba)
        self.dropout = Dropout(conf.dropout_rate)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the block."""
        x = x + self.dropout(self.attn(self.norm_attn(x), frames.mask, frames.visible))
        return x + self.dropout(self.mamba(self.norm_mamba(x), frames.lengths, frames.mask))


class MambaFFNBlock(nn.Module):
    """Mamba in the place of self-attention, then a feed-forward module."""

    def __init__(self, conf: BlockConfig) -> None:
        super().__init__()
        self.norm_mamba = RMSNorm(conf.dim)
        self.mamba = Mamba(conf.dim, points=conf.points, **conf.mamba)
        self.norm_ffn = RMSNorm(conf.dim)
        self.ffn = FeedForward(conf)
        self.dropout = Dropout(conf.dropout_rate)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the block."""
        x = x + self.dropout(self.mamba(self.norm_mamba(x), frames.lengths, frames.mask))
        return x + self.dropout(self.ffn(self.norm_ffn(x), frames))


class ConMambaBlock(nn.Module):
    """ConMamba (arXiv 2407.09732): a Conformer block with Mamba in the place of attention.

    Half a feed-forward module, Mamba, a convolution module, half a feed-forward module, LayerNorm.
    """

    def __init__(self, conf: BlockConfig) -> None:
        super().__init__()
        self.norm_ffn_in = LayerNorm(conf.dim)
        self.ffn_in = FeedForward(conf)
        self.norm_mamba = LayerNorm(conf.dim)
        self.mamba = Mamba(conf.dim, points=conf.points, **conf.mamba)
        self.norm_conv = LayerNorm(conf.dim)
        self.conv = ConvModule(conf)
        self.norm_ffn_out = LayerNorm(conf.dim)
        self.ffn_out = FeedForward(conf)
        self.norm = LayerNorm(conf.dim)
        self.dropout = Dropout(conf.dropout_rate)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the block."""
        x = x + 0.5 * self.dropout(self.ffn_in(self.norm_ffn_in(x), frames))
        x = x + self.dropout(self.mamba(self.norm_mamba(x), frames.lengths, frames.mask))
        x = x + self.dropout(self.conv(self.norm_conv(x), frames))
        x = x + 0.5 * self.dropout(self.ffn_out(self.norm_ffn_out(x), frames))
        return self.norm(x)


BLOCKS: dict[str, Callable[[BlockConfig], nn.Module]] = {
    "mamba_mhsa_mamba": mamba_mhsa_mamba,
    "mhsa_mamba": MHSAMambaBlock,
    "conmamba": ConMambaBlock,
    "mamba_ffn": MambaFFNBlock,
}
