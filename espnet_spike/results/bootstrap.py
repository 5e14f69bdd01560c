"""Bootstrap intervals of error rates (Bisani & Ney, ICASSP 2004).

An error rate is a ratio of two sums, errors over reference units. The bootstrap draws the sampling
units (utterances, or whole speakers) with replacement and recomputes the ratio. Utterances of one
speaker fail together, so speakers are drawn where there are enough of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np

REPLICATIONS = 10_000
LONGEST = 10_000  # units of an utterance that kaldialign aligns at once
SEED = 0
MIN_SPEAKERS = 20  # fewer clusters than this make a cluster bootstrap too narrow
MIN_UTTERANCES = 20  # under this an interval is printed, but marked
Z95 = 1.959964  # two-sided 95 % point of the normal distribution
DRAWS_AT_ONCE = 4_000_000  # bounds the memory of the index matrix


@dataclass(frozen=True)
class Interval:
    """A 95 % interval in percent, with what was drawn to get it.

    Attributes:
        low, high: ends of the interval, %.
        unit: ``"speaker"`` or ``"utterance"``, what was drawn.
        units: how many of them there are.
        meaningful: False under ``MIN_UTTERANCES`` utterances.
    """

    low: float
    high: float
    unit: str
    units: int
    meaningful: bool

    def __str__(self) -> str:
        note = "" if self.meaningful else f", not meaningful: under {MIN_UTTERANCES} utterances"
        plural = "" if self.units == 1 else "s"
        return f"{self.low:.2f} .. {self.high:.2f} (over {self.units} {self.unit}{plural}{note})"


@dataclass(frozen=True)
class Difference:
    """The paired difference second - first of two systems, in percentage points.

    Attributes:
        first, second: error rates in %.
        difference: second - first; negative: the second is better.
        interval: 95 % interval of the difference.
        p_second_better: share of the draws in which the second makes fewer errors, ties half.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    p_second_better: float


def sampling_unit(speakers: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return what to draw and, for each utterance, the index (U,) of the unit it belongs to."""
    names, index = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) >= MIN_SPEAKERS:
        return "speaker", index
    return "utterance", np.arange(len(speakers))


def draw_sums(table: np.ndarray, replications: int = REPLICATIONS, seed: int = SEED) -> np.ndarray:
    """Return the column sums (R, K) of R draws, with replacement, of the rows of a table (N, K)."""
    rng = np.random.default_rng(seed)
    rows = len(table)
    sums = []
    for start in range(0, replications, max(1, DRAWS_AT_ONCE // rows)):
        count = min(max(1, DRAWS_AT_ONCE // rows), replications - start)
        sums.append(table[rng.integers(0, rows, (count, rows))].sum(axis=1))
    return np.concatenate(sums)


def _table(columns: Sequence[np.ndarray], index: np.ndarray) -> np.ndarray:
    """Sum each column (U,) over the utterances of a unit: (N, K)."""
    return np.stack([np.bincount(index, weights=column) for column in columns], axis=1)


def error_interval(
    errors: np.ndarray, lengths: np.ndarray, speakers: Sequence[str], seed: int = SEED
) -> Interval:
    """Return the interval of an error rate.

    Args:
        errors: errors of each utterance (U,).
        lengths: reference units of each utterance (U,), at least 1.
        speakers: the speaker of each utterance.
        seed: seed of the draws.

    The interval is the mean of the replicates plus and minus 1.96 of their standard deviations,
    cut at zero: the form that kaldialign and Kaldi's ``compute-wer-bootci`` use. kaldialign draws
    utterances; speakers, which it does not know, are drawn here, and utterances so long that its
    alignment, which grows with their square, takes minutes.
    """
    unit, index = sampling_unit(speakers)
    if unit == "utterance" and max(errors.max(), lengths.max()) <= LONGEST:
        mean, half = _kaldialign_interval(errors, lengths, seed)
    else:
        sums = draw_sums(_table([errors, lengths], index), seed=seed)
        rates = 100.0 * sums[:, 0] / sums[:, 1]
        mean, half = float(rates.mean()), Z95 * float(rates.std())
    return Interval(
        low=max(0.0, mean - half),
        high=mean + half,
        unit=unit,
        units=int(index.max()) + 1,
        meaningful=len(speakers) >= MIN_UTTERANCES,
    )


def _kaldialign_interval(errors: np.ndarray, lengths: np.ndarray, seed: int) -> tuple[float, float]:
    """Return mean and half width in %.

    kaldialign takes sequences and reduces each pair to its errors and its length. Sums over
    several runs have no sequences, so it gets synthetic ones with just these counts: a reference of
    zeros and a hypothesis whose first ``errors`` units are ones.
    """
    refs = [[0] * int(length) for length in lengths]
    hyps = [
        [1] * int(wrong) + [0] * int(max(0, length - wrong))
        for wrong, length in zip(errors, lengths, strict=True)
    ]
    result = kaldialign.bootstrap_wer_ci(refs, hyps, replications=REPLICATIONS, seed=seed)
    return 100.0 * result["wer"], 100.0 * result["ci95"]


def paired_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    speakers: Sequence[str],
    seed: int = SEED,
) -> Difference:
    """Compare two systems on the same utterances, drawing both together.

    Args:
        first, second: (errors (U,), reference units (U,)) of each system, the same utterances in
            the same order; sums over several runs when runs are pooled.
        speakers: the speaker of each utterance.
        seed: seed of the draws.
    """
    unit, index = sampling_unit(speakers)
    sums = draw_sums(_table([*first, *second], index), seed=seed)
    deltas = 100.0 * (sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1])
    rates = [100.0 * float(errors.sum() / lengths.sum()) for errors, lengths in (first, second)]
    mean, half = float(deltas.mean()), Z95 * float(deltas.std())
    # 1e-9 points: equal ratios of different sums differ in the last bit
    better = float((deltas < -1e-9).mean() + 0.5 * (np.abs(deltas) <= 1e-9).mean())
    return Difference(
        first=rates[0],
        second=rates[1],
        difference=rates[1] - rates[0],
        interval=Interval(
            low=mean - half,
            high=mean + half,
            unit=unit,
            units=int(index.max()) + 1,
            meaningful=len(speakers) >= MIN_UTTERANCES,
        ),
        p_second_better=better,
    )
