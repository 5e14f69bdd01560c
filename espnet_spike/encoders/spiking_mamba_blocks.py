"""The spiking blocks of S-SpeechMamba (Ahmed et al., 2026): Mamba and attention on LIF spikes.

Mamba as in SpikMamba (``nn.layers.spiking_mamba``), attention as in Spikformer
(``nn.layers.spikformer_attention``).
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from espnet_spike.encoders.mamba_blocks import BlockConfig, Frames, MambaMHSAMambaBlock
from espnet_spike.nn.layers.dropout import Dropout
from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.spikformer_attention import SpikformerAttention
from espnet_spike.nn.layers.spiking_mamba import SpikingMamba
from espnet_spike.nn.neurons.frame_lif import frame_neuron


class LIFPoints(FatPoints):
    """Puts a neuron at the front end's points F1 and F2."""

    def __init__(self, channels: Mapping[str, int], lif: dict) -> None:
        super().__init__()
        self.channels = channels
        self.lif = lif

    def __call__(
        self, point: str, activation: nn.Module | None = None, macs: float = 1
    ) -> nn.Module:
        """Return the layer for a point; see ``FatPoints``."""
        if point not in self.channels:
            return super().__call__(point, activation, macs)
        return frame_neuron(self.channels[point], self.lif)


class SpikingMambaBlock(nn.Module):
    """``mhsa_mamba``: x + attention(x), x + Mamba(x); spikes never add up on the shortcut."""

    def __init__(
        self,
        conf: BlockConfig,
        lif: dict,
        scale: float,
        attn_v_th: float,
        decay: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.attn = SpikformerAttention(conf.dim, conf.heads, lif, scale, attn_v_th, decay)
        self.mamba = SpikingMamba(conf.dim, lif, **conf.mamba)
        self.dropout = Dropout(conf.dropout_rate)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the block."""
        x = x + self.dropout(self.attn(x, frames.mask))
        return x + self.dropout(self.mamba(x, frames.lengths, frames.mask))


def spiking_mamba_mhsa_mamba(
    conf: BlockConfig,
    lif: dict,
    scale: float,
    attn_v_th: float,
    decay: Sequence[float] | None = None,
) -> MambaMHSAMambaBlock:
    """Return the block ``mamba_mhsa_mamba`` on spikes; shortcuts and RMSNorms are the dense one's.

    A batch norm stands before the neurons of u, convolution, z and y in each Mamba and of Q, K and
    V, and behind attention's output: 18,432 parameters a block of D = 512 more than the dense one,
    so that the network has the published 67.8 million. Attention's input neuron follows the
    RMSNorm directly.
    """
    return MambaMHSAMambaBlock(
        conf,
        SpikingMamba(conf.dim, lif, **conf.mamba),
        SpikformerAttention(
            conf.dim, conf.heads, lif, scale, attn_v_th, decay, norm_in=False, bias=True
        ),
        SpikingMamba(conf.dim, lif, **conf.mamba),
    )


SPIKING_BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "mamba_mhsa_mamba": spiking_mamba_mhsa_mamba,
    "mhsa_mamba": SpikingMambaBlock,
}
