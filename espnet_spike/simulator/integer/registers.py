"""What the numbers of an encoder in integers have to fit, and how many of them do not.

Activations have 16 bits and saturate, accumulators have 32. Sums of few spikes are small, so they
are shifted left before they are scaled; by how much is fixed by the largest sum of the calibration,
so that every utterance meets the same machine, and what is larger saturates there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from espnet_spike.simulator.integer.arithmetic import rescale
from espnet_spike.simulator.operations import Array

ROOM = 1.25  # of a range, over the largest value that was measured; ours
WARN_SHARE = 0.001  # of a layer's values; ours


@dataclass
class Tally:
    """Values of one kind in a layer.

    Attributes:
        beyond: how many were larger than their register.
        total: how many there were.
    """

    beyond: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """Share of values beyond their register; 0 where there were none."""
        return self.beyond / self.total if self.total else 0.0


@dataclass
class Registers:
    """Counts what saturates, layer by layer.

    Attributes:
        limits: name -> largest sum of the calibration; None while that runs.
        largest: name -> largest sum met.
        activations: name -> of 16 bits.
        accumulators: name -> of 32 bits, or of what the shift leaves of them.
    """

    limits: Mapping[str, int] | None = None
    largest: dict[str, int] = field(default_factory=dict)
    activations: dict[str, Tally] = field(default_factory=dict)
    accumulators: dict[str, Tally] = field(default_factory=dict)

    def fit(self, name: str, x: Array, most: float, least: float | None = None) -> Array:
        """Return integers of at most ``most``, at least its negative; count what is beyond."""
        least = -most if least is None else least
        tally = self.activations.setdefault(name, Tally())
        tally.beyond += int(((x > most) | (x < least)).sum())
        tally.total += x.size
        return np.clip(x, least, most)

    def fit16(self, name: str, x: Array) -> Array:
        """Return integers within 16 bits, in int64; count what is beyond."""
        return self.fit(name, x, 32767, -32768).astype(np.int64)

    def grid(self, name: str, x: Array, step: float) -> Array:
        """Return real values as int16 numbers of steps, in int64."""
        return self.fit16(name, np.rint(x / step))

    def scaled(self, name: str, sums: Array, factor: Array) -> Array:
        """Return accumulators times a factor each, as int16 numbers in int64.

        Args:
            name: of the layer.
            sums: integers, any shape.
            factor: positive, broadcastable to ``sums``.
        """
        met = int(np.abs(sums).max(initial=0))
        self.largest[name] = max(self.largest.get(name, 0), met)
        known = self.largest if self.limits is None else self.limits
        limit = min(int(known[name] * (1 if self.limits is None else ROOM)), 2**31 - 1)
        most = 2 ** max(limit, 1).bit_length() - 1  # what fits the register
        tally = self.accumulators.setdefault(name, Tally())
        tally.beyond += int((np.abs(sums) > most).sum())
        tally.total += sums.size
        return self.fit16(name, rescale(np.clip(sums, -most, most), factor, most))

    def saturating(self) -> dict[str, tuple[float, float]]:
        """Return the layers of which something saturates: share of activations and of sums."""
        names = dict.fromkeys([*self.activations, *self.accumulators])
        shares = {
            name: tuple(
                kind.get(name, Tally()).share for kind in (self.activations, self.accumulators)
            )
            for name in names
        }
        return {name: (a, s) for name, (a, s) in shares.items() if a or s}
