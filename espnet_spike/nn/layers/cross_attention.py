"""Multi-head attention of a decoder's tokens to the frames of encoded utterances."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.softmax_attention import attention_mask
from espnet_spike.nn.layers.spiking_attention import split_heads


@dataclass(frozen=True)
class KeysValues:
    """Encoded utterances as one attention layer sees them.

    Attributes:
        keys: ``(B, H, T, D/H)``.
        values: ``(B, H, T, D/H)``.
        visible: valid frames ``(B, 1, 1, T)``.
    """

    keys: Tensor
    values: Tensor
    visible: Tensor

    def select(self, rows: Tensor) -> "KeysValues":
        """Return those of the utterances ``rows``, indices ``(N,)``."""
        return KeysValues(self.keys[rows], self.values[rows], self.visible[rows])


class CrossAttention(nn.Module):
    """Scaled dot-product attention of ``(N, L, D)`` to utterances, without norm and shortcut.

    Keys and values of an utterance are computed once, by ``keys_values``; all hypotheses of a beam
    search share them.

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
        if dim % heads:
            raise ValueError(f"attention_heads: {heads} does not divide the {dim} channels")
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
        utterances = len(encoded.keys)
        # the queries of one utterance side by side: its keys are read once for all of them
        q = self.linear_q(self.f3(x, mask)).reshape(utterances, -1, x.shape[2])
        q = split_heads(q, self.heads)
        rate = self.dropout_rate if self.training else 0.0
        context = F.scaled_dot_product_attention(
            q, encoded.keys, encoded.values, encoded.visible, rate
        )
        context = context.transpose(1, 2).reshape(x.shape)
        return self.linear_out(self.f4(context, mask))
