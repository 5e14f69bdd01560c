"""The spiking blocks of S-SpeechMamba (Ahmed et al., 2026): Mamba and attention on LIF spikes.

Mamba as in SpikMamba, attention as in Spikformer; the paper's details were not available to us, so
where the norms and neurons stand is our choice. Neurons run over frames (``frame_lif``).

    s0 = LIF(BN(u));  [x; z] = in_proj(s0);  s1 = LIF(BN(causal depthwise conv(x)))
    (dt_r, B, C) = x_proj(s1);  y = selective_scan(s1, softplus(dt_proj(dt_r)), A, B, C) + D s1
    out = out_proj(LIF(BN(y)) * LIF(BN(z)));  u <- u + out

in_proj, x_proj and out_proj read spikes only, and the scan's input is a select; its state is real.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.encoders.mamba_blocks import BlockConfig, Frames
from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.mamba import Mamba
from espnet_spike.nn.layers.spiking_attention import split_heads
from espnet_spike.nn.neurons.frame_lif import FrameLIF, NormedLIF
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.nn.ops.decay import decay_matrix
from espnet_spike.nn.ops.decay_attention import decay_attention
from espnet_spike.nn.stream_state import Stateful


class LIFPoints(FatPoints):
    """Puts a LIF neuron at the front end's points F1 and F2."""

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
        return FrameLIF(self.channels[point], **self.lif)


class SpikingMamba(Mamba):
    """Mamba on spikes: LIF neurons before in_proj, after the convolution, on gate and output.

    Args:
        dim: D.
        lif: arguments of ``FrameLIF``.
        **conf: of ``Mamba``.
    """

    def __init__(self, dim: int, lif: dict, **conf: Any) -> None:
        super().__init__(dim, **conf)
        inner = self.out_proj.in_features
        self.f5 = NormedLIF(dim, lif)
        self.f6 = NormedLIF(inner, lif)
        self.f7 = NormedLIF(inner, lif)
        for ssm in (self.ssm, self.ssm_reverse):
            if ssm is not None:
                ssm.activation = NormedLIF(inner, lif)

    def gated(self, y: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
        """Return LIF(BN(y)) * LIF(BN(z)): a spike again."""
        return self.f7(y, mask) * self.f6(z, mask)


class SpikformerAttention(Stateful, nn.Module):
    """Spikformer's attention (arXiv 2209.15425) on ``(B, L, D)``: (Q K^T) V * scale, no softmax.

    Q, K and V are binary, LIF(BN(linear)); so is the context behind a neuron of a lower threshold.
    Without a softmax the product K^T V comes first: exact, since it sums integers, and linear in L.

    The causal form, ours, sums over earlier frames alone, which fade: head h weighs the frame j
    before frame i by gamma_h^(i-j). One matrix a head, gamma K^T V, is all it knows of the past.

    Args:
        dim: D.
        heads: H, a divisor of D.
        lif: arguments of ``FrameLIF``.
        scale: of the product.
        v_th: threshold of the neuron on the context.
        decay: None for all frames alike; else exponents e of the first and the last head of the
            causal form, gamma = 1 - 2^-e.

    Raises:
        ValueError: D is no multiple of H.
    """

    log_gamma: Tensor | None

    def __init__(
        self,
        dim: int,
        heads: int,
        lif: dict,
        scale: float = 0.125,
        v_th: float = 0.5,
        decay: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention_heads: {heads} does not divide output_size {dim}")
        self.heads = heads
        self.scale = scale
        log_gamma = None
        if decay is not None:
            first, last = decay
            log_gamma = torch.log1p(-(2.0 ** -torch.linspace(first, last, heads)))
        self.register_buffer("log_gamma", log_gamma, persistent=False)
        self.neuron_in = NormedLIF(dim, lif)
        for name in "qkv":
            self.add_module(f"linear_{name}", nn.Linear(dim, dim, bias=False))
            self.add_module(f"neuron_{name}", NormedLIF(dim, lif))
        self.neuron_out = FrameLIF(dim, **{**lif, "v_th": v_th})
        self.linear_out = nn.Linear(dim, dim, bias=False)
        self.norm_out = MaskedBatchNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; ``mask`` ``(B, L)`` is true on valid frames, which come first."""
        s = self.neuron_in(x, mask)
        q, k, v = (
            split_heads(
                getattr(self, f"neuron_{name}")(getattr(self, f"linear_{name}")(s), mask),
                self.heads,
            )
            for name in "qkv"
        )
        # the neurons are silent on padding, so K and V are zero there
        if self.log_gamma is None:
            if self.carry is not None:
                raise ValueError("a stream needs causal: true")
            context = q @ (k.mT @ v)
        elif self.carry is None:
            context = decay_attention(q, k, v, self.log_gamma, causal=True).to(v.dtype)
        else:
            context = self._chunk(self.carry, self.log_gamma, q, k, v)
        context = context * self.scale
        context = self.neuron_out(context.transpose(1, 2).flatten(2), mask)
        return self.norm_out(self.linear_out(context), mask)

    def _chunk(
        self, carry: dict[str, Tensor], log_gamma: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Attend within a chunk ``(B, H, n, ...)`` and, through one matrix a head, before it."""
        frames = q.shape[2]
        t = torch.arange(1, frames + 1, device=q.device, dtype=q.dtype)
        log_gamma = log_gamma.to(q.dtype)[:, None]
        rising, falling = torch.exp(t * log_gamma), torch.exp((frames - t) * log_gamma)
        context = (q @ k.mT * decay_matrix(log_gamma[:, 0], frames, causal=True)) @ v
        past = carry.get("kv")
        new = (k * falling[..., None]).mT @ v
        if past is not None:
            context = context + q * rising[..., None] @ past
            new = new + rising[:, -1, None, None] * past
        carry["kv"] = new
        return context


class SpikingMambaBlock(nn.Module):
    """x + attention(x), x + Mamba(x); the shortcut carries real values, spikes never add up."""

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
        self.dropout = nn.Dropout(conf.dropout_rate)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Run the block."""
        x = x + self.dropout(self.attn(x, frames.mask))
        return x + self.dropout(self.mamba(x, frames.lengths, frames.mask))
