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

from espnet_spike.nn.accounting import Spikes
from espnet_spike.nn.neurons.imls import IMLS, at_least_fp32
from espnet_spike.nn.neurons.spike_train import SpikeTrain, add_up


class TernaryMomentum(IMLS):
    """The ternary momentum neuron; arguments as of ``IMLS``, T being the ternary steps.

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

    def spike_counts(self, inputs: tuple, output: Tensor | SpikeTrain) -> tuple[Tensor, int] | None:
        """Return the spikes of either sign behind the output and T; see ``Neuron``."""
        if self.warm:
            return None
        level = self.frame_level(at_least_fp32(inputs[0]).contiguous(), *inputs[1:])
        return self._spikes(inputs[0], level), self.slots

    def emitted(self, inputs: tuple, output: Tensor) -> Spikes | None:
        """Return the spikes of the last forward pass as a ledger knows them."""
        if self.warm:
            return None
        assert self.last_level is not None  # of this pass
        return Spikes(self._spikes(inputs[0], self.last_level), self.slots, self.follows_input)

    def _spikes(self, x: Tensor, level: Tensor) -> Tensor:
        rows, scale = self.rows_and_scale(x)
        digits = self.digits(rows, level.flatten(), scale)
        return add_up(digit.abs() for digit in digits).view(x.shape)

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
