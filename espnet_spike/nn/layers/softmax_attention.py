"""Multi-head self-attention with softmax, over all valid frames or a window around each."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.heads import check_heads, merge_heads, split_heads
from espnet_spike.nn.stream_state import Stateful


def attention_mask(lengths: Tensor, frames: int, window: tuple[int, int] | None = None) -> Tensor:
    """Return which keys a query may see, ``(B, 1, 1 or L, L)``.

    Args:
        lengths: valid frames ``(B,)``.
        frames: L.
        window: frames to the left and to the right that a frame sees; None for all.
    """
    t = torch.arange(frames, device=lengths.device)
    if window is None:
        # an empty utterance sees its first padded frame: a softmax over nothing is NaN
        return (t < lengths.clamp(min=1)[:, None])[:, None, None]
    left, right = window
    distance = t - t[:, None]
    near = (distance >= -left) & (distance <= right)
    valid = t < lengths[:, None]
    return (near & (valid[:, None] | ~valid[:, :, None]))[:, None]


class SelfAttention(Stateful, nn.Module):
    """Scaled dot-product self-attention on ``(B, L, D)``, without norm and shortcut.

    Args:
        dim: D.
        heads: H, a divisor of D.
        dropout_rate: on the attention weights.
        points: where FATReLU layers go (F3, F4).
        window: frames to the left that a stream keeps the keys and values of, and to the right,
            which has to be 0 there.

    Raises:
        ValueError: D is no multiple of H.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout_rate: float = 0.0,
        points: FatPoints | None = None,
        window: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        points = points or FatPoints()
        self.heads = heads
        self.dropout_rate = dropout_rate
        self.window = window
        self.f3 = points("F3", macs=3 * dim)
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.f4 = points("F4", macs=dim)
        self.linear_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, visible: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: ``(B, L, D)``.
            mask: ``(B, L)``, true on valid frames.
            visible: of ``attention_mask``; a stream has its own.
        """
        x = self.f3(x, mask)
        q, k, v = (
            split_heads(linear(x), self.heads)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        if self.carry is not None:
            k, v, visible = self._with_past(self.carry, k, v)
        rate = self.dropout_rate if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, visible, rate)
        return self.linear_out(self.f4(merge_heads(context), mask))

    def _with_past(
        self, carry: dict[str, Tensor], k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put the keys and values kept of earlier chunks before those of this one, ``(B, H, ...)``.

        Returns:
            keys, values, and which of them each frame of this chunk sees.
        """
        frames = k.shape[2]
        left, right = self.window or (None, None)
        if right != 0 or left is None:
            raise ValueError("a stream needs attention_window: [N, 0] or causal: true")
        if "k" in carry:
            k, v = torch.cat([carry["k"], k], 2), torch.cat([carry["v"], v], 2)
        first = max(0, k.shape[2] - left)
        # a copy: a view would keep the memory of all
        carry["k"], carry["v"] = k[:, :, first:].clone(), v[:, :, first:].clone()
        t = torch.arange(k.shape[2], device=k.device)
        distance = t - t[-frames:, None]
        return k, v, (distance >= -left) & (distance <= 0)
