"""Multi-head attention of a decoder's tokens to the frames of encoded utterances.

What a layer has to know of an utterance is computed once, by its ``keys_values``; all hypotheses of
a beam search share it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.heads import check_heads, split_heads
from espnet_spike.nn.layers.softmax_attention import attention_mask
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.nn.ops.precision import full_matmul


@dataclass(frozen=True)
class KeysValues:
    """Encoded utterances as one attention layer sees them; their number is the length.

    Attributes:
        keys: ``(B, H, T, D/H)``.
        values: ``(B, H, T, D/H)``.
        visible: valid frames ``(B, 1, 1, T)``.
    """

    keys: Tensor
    values: Tensor
    visible: Tensor

    def __len__(self) -> int:
        """Return B."""
        return len(self.keys)

    def select(self, rows: Tensor) -> "KeysValues":
        """Return those of the utterances ``rows``, indices ``(N,)``."""
        return KeysValues(self.keys[rows], self.values[rows], self.visible[rows])


class CrossAttention(nn.Module):
    """Scaled dot-product attention of ``(N, L, D)`` to utterances, without norm and shortcut.

    Args:
        dim: D.
        heads: H, a divisor of D.
        dropout_rate: on the attention weights.
        points: where FATReLU layers go (F3 before the queries' projection, F4).

    Raises:
        ValueError: D is no multiple of H.
    """

    def __init__(
        self, dim: int, heads: int, dropout_rate: float = 0.0, points: FatPoints | None = None
    ) -> None:
        super().__init__()
        check_heads(dim, heads, "the channels of the decoder,")
        points = points or FatPoints()
        self.heads = heads
        self.dropout_rate = dropout_rate
        self.f3 = points("F3", macs=dim)
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.f4 = points("F4", macs=dim)
        self.linear_out = nn.Linear(dim, dim)

    def keys_values(self, encoded: Tensor, lengths: Tensor) -> KeysValues:
        """Return what the layer sees of utterances.

        Args:
            encoded: ``(B, T, D)``.
            lengths: valid frames ``(B,)``.
        """
        k, v = (split_heads(f(encoded), self.heads) for f in (self.linear_k, self.linear_v))
        return KeysValues(k, v, attention_mask(lengths, encoded.shape[1]))

    def forward(self, x: Tensor, mask: Tensor | None, encoded: KeysValues) -> Tensor:
        """Attend.

        Args:
            x: tokens ``(N, L, D)``; with N = B K, sequences ``b K`` to ``b K + K - 1`` belong to
                utterance b.
            mask: ``(N, L)``, true on valid tokens; None when all are.
            encoded: B utterances.

        Returns:
            ``(N, L, D)``.
        """
        q = _by_utterance(self.linear_q(self.f3(x, mask)), len(encoded), self.heads)
        rate = self.dropout_rate if self.training else 0.0
        context = F.scaled_dot_product_attention(
            q, encoded.keys, encoded.values, encoded.visible, rate
        )
        context = context.transpose(1, 2).reshape(x.shape)
        return self.linear_out(self.f4(context, mask))


@dataclass(frozen=True)
class SpikingKeysValues:
    """Encoded utterances as one spiking attention layer sees them; their number is the length.

    Attributes:
        products: K^T V of each head, ``(B, H, D/H, D/H)``.
    """

    products: Tensor

    def __len__(self) -> int:
        """Return B."""
        return len(self.products)

    def select(self, rows: Tensor) -> "SpikingKeysValues":
        """Return those of the utterances ``rows``, indices ``(N,)``."""
        return SpikingKeysValues(self.products[rows])


class SpikingCrossAttention(nn.Module):
    """Spikformer's attention (arXiv 2209.15425) across: Q (K^T V) * scale on spikes, no softmax.

    The counterpart of ``SpikformerAttention``: Q, K and V are LIF(BN(linear)) of spikes, those of Q
    over tokens, those of K and V over frames; a neuron of a lower threshold makes the context
    binary, and the output is BN(linear). That the encoder's output, which is real, goes through a
    neuron first, so that no projection multiplies, is ours.

    Args:
        dim: D.
        heads: H, a divisor of D.
        lif: arguments of ``FrameLIF``.
        scale: of the product.
        v_th: threshold of the neuron on the context.

    Raises:
        ValueError: D is no multiple of H.
    """

    def __init__(
        self, dim: int, heads: int, lif: dict, scale: float = 0.125, v_th: float = 0.5
    ) -> None:
        super().__init__()
        check_heads(dim, heads, "the channels of the decoder,")
        self.heads = heads
        self.scale = scale
        self.neuron_in = FrameLIF(dim, **lif)
        self.neuron_encoded = FrameLIF(dim, **lif)
        self.linear_q, self.linear_k, self.linear_v = (nn.Linear(dim, dim) for _ in range(3))
        self.neuron_q, self.neuron_k, self.neuron_v = (
            NormedNeuron(FrameLIF(dim, **lif)) for _ in range(3)
        )
        self.neuron_out = FrameLIF(dim, **{**lif, "v_th": v_th})
        self.linear_out = nn.Linear(dim, dim)
        self.norm_out = MaskedBatchNorm(dim)

    def keys_values(self, encoded: Tensor, lengths: Tensor) -> SpikingKeysValues:
        """Return what the layer sees of utterances; see ``CrossAttention``."""
        mask = torch.arange(encoded.shape[1], device=encoded.device) < lengths[:, None]
        s = self.neuron_encoded(encoded, mask)
        k = split_heads(self.neuron_k(self.linear_k(s), mask), self.heads)
        v = split_heads(self.neuron_v(self.linear_v(s), mask), self.heads)
        return SpikingKeysValues(full_matmul(k.mT, v))  # the neurons are silent on padding

    def forward(self, x: Tensor, mask: Tensor | None, encoded: SpikingKeysValues) -> Tensor:
        """Attend; see ``CrossAttention``."""
        q = self.neuron_q(self.linear_q(self.neuron_in(x, mask)), mask)
        q = _by_utterance(q, len(encoded), self.heads)
        context = full_matmul(q, encoded.products).to(q.dtype) * self.scale
        context = self.neuron_out(context.transpose(1, 2).reshape(x.shape), mask)
        return self.norm_out(self.linear_out(context), mask)


def _by_utterance(q: Tensor, utterances: int, heads: int) -> Tensor:
    """Return queries ``(N, L, D)`` as ``(B, H, N/B L, D/H)``: keys are read once for all."""
    return split_heads(q.reshape(utterances, -1, q.shape[2]), heads)
