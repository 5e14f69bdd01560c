"""Spiking self-attention with a decay mask and no softmax (HD-RepSSA of IML-Spikeformer).

Paper A names re-parameterised spiking self-attention; its equations are not public to us. Our
reading (R1, ``bilinear``), for the spikes Xs of the block's input neuron, heads h, d_h = d/H:

    Q_h = Xs W_Q^h,   K_h = Xs W_K^h                    real-valued: nothing spikes on Q and K
    A_h = Q_h K_h^T / sqrt(d_h)                         no softmax
    V   = neuron_v(Xs W_V)
    O_h = (A_h * Dn_h) V_h                              Dn: decay mask, 0 for padded keys
    Y   = neuron_out(concat_h O_h) W_O + b_O

Every weight layer, and the product with V, has one spiking operand.
"""

import math

from torch import Tensor, nn

from espnet_spike.decay import DecayMask
from espnet_spike.neurons import NeuronFactory
from espnet_spike.norms import LayerNorm
from espnet_spike.options import choose

QK_MODES = ("bilinear",)


class SpikingAttention(nn.Module):
    """Multi-head spiking self-attention.

    Args:
        dim: number of channels d.
        heads: H; must divide ``dim``.
        neurons: makes the neurons.
        decay: the layer's decay mask.
        qk_mode: how the attention map is made, see ``QK_MODES``.
        qkv_bias: biases on the projections to Q, K and V.
        inner_norm: LayerNorm before the neurons on V and before W_O.
        dropout_rate: dropout on the attention map.

    Raises:
        ValueError: if ``heads`` does not divide ``dim`` or ``qk_mode`` is unknown.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        neurons: NeuronFactory,
        decay: DecayMask,
        qk_mode: str = "bilinear",
        qkv_bias: bool = False,
        inner_norm: bool = False,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention_heads: {heads} does not divide output_size {dim}")
        self.heads = heads
        self.scale = 1.0 / math.sqrt(dim // heads)
        self.qk_mode = choose("qk_mode", qk_mode, QK_MODES)
        self.decay = decay
        self.neuron_in = neurons(dim)
        self.linear_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.linear_k = nn.Linear(dim, dim, bias=qkv_bias)
        self.linear_v = nn.Linear(dim, dim, bias=qkv_bias)
        self.linear_out = nn.Linear(dim, dim)
        self.neuron_v = neurons(dim)
        self.neuron_out = neurons(dim)
        self.norm_v = LayerNorm(dim) if inner_norm else nn.Identity()
        self.norm_out = LayerNorm(dim) if inner_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout_rate)
        for linear in (self.linear_q, self.linear_k, self.linear_v):
            nn.init.xavier_uniform_(linear.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.linear_out.weight)
        for linear in (self.linear_q, self.linear_k, self.linear_v, self.linear_out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Attend.

        Args:
            x: normalised membrane potentials ``(B, N, D)``.
            mask: ``(B, N)``, true on valid frames.
            lengths: ``(B,)``, the valid frames of each utterance.

        Returns:
            ``(B, N, D)``, real-valued, to be added to the membrane potential.
        """
        xs = self.neuron_in(x, mask)
        query, key = self.linear_q(xs), self.linear_k(xs)
        value = self.neuron_v(self.norm_v(self.linear_v(xs)), mask)
        context = self.attend(query, key, value, mask, lengths)
        return self.linear_out(self.neuron_out(self.norm_out(context), mask))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return the decayed, masked, row-normalised map times V, ``(B, N, D)``, N x N form."""
        length = query.shape[1]
        query, key = self._split(query * self.scale), self._split(key)
        value = self._split(value.masked_fill(~mask[..., None], 0.0))
        scores = query @ key.transpose(-1, -2)
        matrix = self.decay.matrix(length)
        if matrix is not None:
            scores = scores * matrix.to(scores.dtype)
        context = self.dropout(scores) @ value
        row_scale = self.decay.row_scale(length, lengths)
        if row_scale is not None:
            context = context * row_scale[..., None].to(context.dtype)
        return context.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` -> ``(B, H, N, D/H)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
