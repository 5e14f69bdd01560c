"""Ternary momentum neuron, after TMN (arXiv 2408.17245), collapsed in time as IMLS is.

From the paper: over T steps the potential doubles, U_t = 2 U_{t-1}; the neuron emits +1 where
U_t >= v/2, -1 where U_t <= -v/2 (which corrects an early spike) and subtracts v times that. A
spike of step t is worth v 2^(1-t), so that T ternary steps reach 2^T - 1 levels of the unit
V = v 2^(1-T), and the whole is rounding to the nearest level.

Ours: the input arrives at the first step only, negative inputs stay silent (as with the other
neurons here), V follows the input and learns as in IMLS, and so does the gradient.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from espnet_spike.nn.neurons.multi_level import MultiLevel
from espnet_spike.nn.neurons.response import OtherResponse, Response
from espnet_spike.nn.neurons.spike_train import add_up


class TernaryMomentum(MultiLevel):
    """The ternary momentum neuron; arguments as of ``MultiLevel``, T being the ternary steps.

    ``alpha_init`` None puts the largest output at 3 times the level of the frame, as IMLS does.
    """

    @staticmethod
    def levels_of(T: int) -> int:
        """Return 2^T - 1, all T steps firing +1."""
        return 2**T - 1

    @staticmethod
    def default_alpha(T: int, stat: str) -> float:
        """Return the initial threshold factor."""
        return 1.0 if stat == "max" else 3.0 / (2**T - 1)

    @property
    def slots(self) -> int:
        """Spikes an activation can emit at most."""
        return (self.levels + 1).bit_length() - 1

    @torch.no_grad()
    def spike_sum(
        self, count: Tensor, rows: Tensor, level: Tensor, scale: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the spikes of either sign over valid rows, 0-dim."""
        spikes = add_up(
            digit.abs().sum((1, 2)).double() for digit in self.digits(rows, level, scale)
        )
        return (spikes * weight).sum()

    @torch.no_grad()
    def counts_of(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the spikes of either sign that an input makes, see ``MultiLevel``."""
        digits = self.digits(*self.rows_and_unit(x, level))
        return add_up(digit.abs() for digit in digits).view(x.shape)

    def response(self) -> Response:
        """Return that it is no staircase of positive spikes."""
        return OtherResponse("has negative spikes")

    def digits(self, rows: Tensor, level: Tensor, scale: Tensor) -> Iterator[Tensor]:
        """Yield the spikes in {-1, 0, 1} of each step for ``rows`` ``(R, K, C)``."""
        return ternary_digits(rows / (level[:, None, None] * scale), self.slots)


def ternary_digits(ratio: Tensor, steps: int) -> Iterator[Tensor]:
    """Yield the spikes in {-1, 0, 1} that the momentum neuron emits in each step.

    Args:
        ratio: the input in units of the smallest level, X / V, any shape.
        steps: T; a spike of step t = 1..T is worth 2^(T-t).
    """
    v = 2 ** (steps - 1)
    potential = ratio.clamp(min=0)
    for step in range(steps):
        if step:
            potential = potential * 2
        digit = (potential >= v / 2).to(ratio.dtype) - (potential <= -v / 2).to(ratio.dtype)
        potential = potential - v * digit
        yield digit
