"""Powers of decay rates: exponents, matrices and row sums."""

import torch
from torch import Tensor


def decay_exponents(
    mode: str, layer: int, num_layers: int, heads: int, e_min: float, e_max: float, r: float
) -> list[float]:
    """Return e for each head of ``layer`` (1-based); gamma = 1 - 2**(-e).

    ``layer_head`` is the formula above. A term that a mode leaves out is held at its mean, so that
    ``same``, ``layer`` and ``head`` stay comparable (ours).
    """
    depth = (layer - 1) / (num_layers - 1) if num_layers > 1 else 0.0
    if mode in ("same", "head"):
        depth = 0.5
    spread = [h / heads for h in range(heads)]
    if mode in ("same", "layer"):
        spread = [sum(spread) / heads] * heads
    return [e_min + (e_max - e_min) * depth + r * s for s in spread]


def decay_matrix(
    log_gamma: Tensor, length: int, causal: bool, rows: tuple[int, int] | None = None
) -> Tensor:
    """Return D ``(H, N, N)`` for ``log_gamma`` ``(H,)``, or rows from start to stop of it.

    Computed as exp(|i-j| log gamma): far entries fade to 0, never to NaN.
    """
    distance = torch.arange(length, device=log_gamma.device, dtype=log_gamma.dtype)
    powers = torch.exp(distance * log_gamma[:, None])
    future = torch.zeros_like(powers[:, 1:]) if causal else powers[:, 1:]
    # D is a Toeplitz matrix: row i is a window of (past reversed, self, future)
    band = torch.cat([powers.flip(1), future], 1)
    if torch.jit.is_tracing():  # a graph for any length has no windows
        t = torch.arange(length, device=log_gamma.device)
        return band[:, t - t[:, None] + length - 1]
    start, stop = rows or (0, length)
    return band.unfold(1, length, 1)[:, length - stop : length - start].flip(1)


def decay_row_sum(log_gamma: Tensor, length: int, lengths: Tensor, causal: bool) -> Tensor:
    """Return sum over the valid j of D_ij in closed form, ``(B, H, N)``.

    sum_j gamma^|i-j| = (1 - gamma^(i+1)) / (1 - gamma) + gamma (1 - gamma^(n-1-i)) / (1 - gamma)
    for a valid i (0-based) and valid length n; rows of padding hold a positive number.

    Args:
        log_gamma: ``(H,)``.
        length: N, the padded length.
        lengths: ``(B,)`` valid lengths n.
        causal: only the sum over j <= i.
    """
    i = torch.arange(length, device=log_gamma.device, dtype=log_gamma.dtype)
    n = lengths.to(log_gamma.dtype)[:, None, None]
    g = log_gamma[:, None]
    if causal:
        return _geometric(g, i + 1).expand(lengths.shape[0], -1, -1)
    ahead = (n - 1 - i).clamp(min=0)
    return _geometric(g, i + 1) + torch.exp(g) * _geometric(g, ahead)


def _geometric(log_gamma: Tensor, terms: Tensor) -> Tensor:
    """Return 1 + gamma + ... + gamma^(terms-1); ``terms`` itself where gamma is 1."""
    flat = log_gamma == 0
    safe = torch.where(flat, torch.full_like(log_gamma, -1.0), log_gamma)
    return torch.where(flat, terms, torch.expm1(terms * safe) / torch.expm1(safe))
