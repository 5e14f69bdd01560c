"""The integer multi-level spiking neuron (IMLS) of IML-Spikeformer.

Song et al. (2025, arXiv 2507.07396) describe a neuron that emulates several firing time steps in
one, with an input-aware threshold. Its equations were not available to us; ours: the count of
``multi_level`` is a number of spikes, that of an integrate-and-fire neuron pre-charged by half a
threshold which subtracts the threshold at each spike.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from espnet_spike.nn.accounting import Cost, Spikes
from espnet_spike.nn.neurons.base import FIRING_MODES
from espnet_spike.nn.neurons.multi_level import MultiLevel, frame_rows
from espnet_spike.nn.neurons.response import OtherResponse, Response, StaircaseResponse
from espnet_spike.nn.neurons.spike_train import FiredTrain, SpikeTrain
from espnet_spike.nn.ops import imls


class IMLS(MultiLevel):
    """Integer multi-level spiking neuron (Song et al., 2025); arguments as of ``MultiLevel``.

    T is the largest number of spikes. ``alpha_init`` None means 0.5, or 1.0 for T <= 2 and stat
    ``max``. In binary mode it hands on a ``SpikeTrain``; so it does in mode ``fire``, whose spikes
    come from a membrane that starts at X + V/2 and is reset by V at each spike. That is rounding
    half up; an input on a tie to the last bit may fire one spike less or, if ``even``, more.
    """

    spike_modes = FIRING_MODES
    binary_options: ClassVar = {"T": 1}

    @staticmethod
    def levels_of(T: int) -> int:
        """Return T."""
        return T

    @staticmethod
    def default_alpha(T: int, stat: str) -> float:
        """Return the initial threshold factor."""
        return 1.0 if T <= 2 or stat == "max" else 0.5

    @property
    def slots(self) -> int:
        """Spikes an activation can emit at most."""
        return self.levels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | SpikeTrain:
        """Emit spikes, see ``MultiLevel``; a ``SpikeTrain`` in binary mode."""
        if self.spike_mode != "integer" and not self.training:
            return self.spike_train(x, mask)
        return super().forward(x, mask)

    def spike_train(self, x: Tensor, mask: Tensor | None = None) -> SpikeTrain:
        """Return the spikes of ``forward`` in binary form; arguments as there."""
        x, level, scale, weight = self.prepare(x, mask)
        tail = (1,) * (x.dim() - 2)
        frame = level.view(level.shape + tail)
        spikes = None
        if self.spike_mode == "fire":
            spikes = imls.integrate_and_fire(x, frame * scale, self.levels)
            counts = spikes.sum(0, dtype=torch.long).to(x.dtype)
        else:
            counts = imls.spike_counts(x / (frame * scale), self.levels, self.rounding)
        valid = weight.view(weight.shape + tail)
        numel = weight.sum().double() * x[0, 0].numel()
        self.report((counts * valid).sum(dtype=torch.float64), numel, level, scale, weight)
        if self.stat == "utt":
            frame = frame[:, :1]
        elif self.stat in ("ema", "fixed"):
            frame = frame.new_ones(1)
        if spikes is not None:
            return FiredTrain.of(spikes, frame, scale)
        return SpikeTrain(counts, frame, scale, self.levels)

    def update_cost(self, numel: float, frames: float) -> Cost:
        """Return the cost of one decision (``MultiLevel``); in mode ``fire``, of T of them.

        A slot compares and subtracts, and reads and writes the potential; the threshold is made
        once, by a multiplication, and half of it added.
        """
        cost = super().update_cost(numel, frames)
        if self.spike_mode == "fire":
            cost.updates *= self.levels
            # in place of two comparisons
            cost.additions += (2 * self.levels + 1 - 2) * numel
            cost.values_read += self.levels * numel
            cost.values_written += self.levels * numel
        return cost

    def spike_counts(self, inputs: tuple, output: Any) -> tuple[Tensor, int]:
        """Return the counts behind the output and T; see ``Neuron``."""
        if isinstance(output, SpikeTrain):
            return output.counts, output.levels
        return super().spike_counts(inputs, output)

    @torch.no_grad()
    def counts_of(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the counts that an input makes, see ``MultiLevel``."""
        rows, level, scale = self.rows_and_unit(x, level)
        ratio = rows / (level[:, None, None] * scale)
        return imls.spike_counts(ratio, self.levels, self.rounding).view(x.shape)

    def emitted(self, inputs: tuple, output: Any) -> Spikes:
        """Return the spikes of the last forward pass as a ledger knows them.

        In one pass over the output, with the unit and the sum of the forward pass.
        """
        if isinstance(output, SpikeTrain) or output.dtype in (torch.bfloat16, torch.float16):
            return super().emitted(inputs, output)
        assert self.last_unit is not None and self.firing is not None  # of this pass
        level, scale = self.last_unit
        rows = frame_rows(output.detach())
        counts, nonzeros = imls.recount(rows, level.flatten().contiguous(), scale)
        total = float(self.firing.count_sum.detach())
        return Spikes(
            counts.view(output.shape),
            self.slots,
            self.follows_input,
            total,
            nonzeros,
            per_channel=self.unit_per_channel,
        )

    def response(self) -> Response:
        """Return the staircase; a neuron that does not round yet has none."""
        if self.warm:
            return OtherResponse("does not round yet (warm start)")
        scale = self.thresholds()
        parameters = ("a", "running_level") if self.stat == "ema" else ("a",)
        return StaircaseResponse(scale, scale, self.levels, self.rounding, self.stat, parameters)
