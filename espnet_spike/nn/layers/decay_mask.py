"""Hierarchical decay mask (HDM): attention weights fade with distance, slower in deeper layers.

Song et al. (2025) name the mask; its formula was not available to us. Ours takes the decay of
RetNet and RMT, layer l = 1..L, head h = 0..H-1:

    e_lh    = e_min + (e_max - e_min) * (l - 1)/(L - 1) + r * h/H        (L = 1: first term e_min)
    gamma   = 1 - 2**(-e_lh)
    D_ij    = gamma**|i - j|                     causal: 0 for j > i
    Dn_ij   = D_ij / sqrt(sum over valid j of D_ij)
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.accounting import CostLedger, counted
from espnet_spike.nn.ops.decay import decay_exponents, decay_matrix, decay_row_sum
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose

HDM_MODES = ("none", "same", "layer", "head", "layer_head")


def _ahead(ledger: CostLedger, factors: Tensor | None, *args: object) -> None:
    """Factors that follow from weights and lengths are ready before the input."""
    if factors is not None:
        ledger.set_constant(factors)


class DecayMask(nn.Module):
    """The decay of one attention layer.

    Args:
        layer: 1-based number of the layer.
        num_layers: L.
        heads: H.
        mode: ``layer_head`` (default), ``layer``, ``head``, ``same`` (one gamma everywhere) or
            ``none`` (no decay: D is all ones).
        e_min, e_max, r: see the module's formula (our defaults).
        norm: divide row i by sqrt(sum over valid j of D_ij), as RetNet does.
        learn: make gamma a parameter, gamma = sigmoid(logit), initialised by the formula.
        causal: no weight on later frames.

    Raises:
        ValueError: for an unknown mode, or exponents that do not give 0 < gamma < 1.
    """

    fixed_log_gamma: Tensor

    def __init__(
        self,
        layer: int,
        num_layers: int,
        heads: int,
        mode: str = "layer_head",
        e_min: float = 2.0,
        e_max: float = 6.0,
        r: float = 2.0,
        norm: bool = True,
        learn: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.mode = choose("hdm_mode", mode, HDM_MODES)
        self.norm = norm
        self.causal = causal
        self.learn = learn and mode != "none"
        if mode == "none":
            self.register_buffer("fixed_log_gamma", torch.zeros(heads), persistent=False)
            return
        exponents = decay_exponents(mode, layer, num_layers, heads, e_min, e_max, r)
        if min(exponents) <= 0:
            raise ValueError(f"e_min, e_max, hdm_r: exponent {min(exponents):g} is not positive")
        if self.learn:
            # sigmoid(log(2^e - 1)) = 1 - 2^-e
            logits = [math.log(2.0**e - 1) for e in exponents]
            self.logit = without_weight_decay(nn.Parameter(torch.tensor(logits)))
        else:
            logs = [math.log1p(-(2.0**-e)) for e in exponents]
            self.register_buffer("fixed_log_gamma", torch.tensor(logs), persistent=False)

    @property
    def log_gamma(self) -> Tensor:
        """Natural logarithm of gamma per head, ``(H,)``."""
        return F.logsigmoid(self.logit) if self.learn else self.fixed_log_gamma

    @counted(_ahead)
    def matrix(self, length: int, rows: tuple[int, int] | None = None) -> Tensor | None:
        """Return D ``(H, N, N)``, or rows of it, unnormalised; None where it is all ones."""
        if self.mode == "none" and not self.causal:
            return None
        return decay_matrix(self.log_gamma, length, self.causal, rows)

    @counted(_ahead)
    def row_scale(self, length: int, lengths: Tensor) -> Tensor | None:
        """Return 1/sqrt(row sum) ``(B, H, N)`` for valid lengths ``(B,)``; None when off."""
        if not self.norm:
            return None
        total = decay_row_sum(self.log_gamma, length, lengths, self.causal)
        return total.clamp(min=1.0).rsqrt()

    def real_valued(self) -> list[str]:
        """Return the parameters that real values are multiplied with by design: what is learnt."""
        return ["logit"] if self.learn else []

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.mode}, norm={self.norm}, learn={self.learn}, causal={self.causal}"
