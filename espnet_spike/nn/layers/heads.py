"""Heads of an attention layer: what all forms of attention here do before and after their map."""

from torch import Tensor


def check_heads(dim: int, heads: int, what: str = "output_size") -> None:
    """Refuse channels that heads cannot share.

    Args:
        dim: D.
        heads: H.
        what: D is, for the message.

    Raises:
        ValueError: D is no multiple of H.
    """
    if heads < 1 or dim % heads:
        raise ValueError(f"attention_heads: {heads} does not divide {what} {dim}")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, N, D)`` -> ``(B, H, N, D/H)``."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, H, N, D/H)`` -> ``(B, N, D)``, what ``split_heads`` divided."""
    return x.transpose(1, 2).flatten(2)
