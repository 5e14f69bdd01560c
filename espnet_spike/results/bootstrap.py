"""Bootstrap intervals of error rates (Bisani & Ney, ICASSP 2004).

An error rate is a ratio of two sums, errors over reference units. The bootstrap draws the sampling
units (utterances, or whole speakers) with replacement and recomputes the ratio. Utterances of one
speaker fail together, so speakers are drawn where there are enough of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np

from espnet_spike.utils.files import plural

REPLICATIONS = 10_000
LONGEST = 10_000  # units of an utterance that kaldialign aligns at once
SEED = 0
MIN_SPEAKERS = 20  # fewer clusters than this make a cluster bootstrap too narrow
MIN_UTTERANCES = 20  # under this an interval is printed, but marked
MIN_TRAININGS = 3  # fewer say next to nothing on what another training would give
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
        trainings: how many trainings the figure is of, the fewest of the systems compared. Of one,
            the interval says nothing about another training.
    """

    low: float
    high: float
    unit: str
    units: int
    meaningful: bool
    trainings: int = 1

    @property
    def over(self) -> str:
        """What was drawn, in words for a table."""
        return f"{self.unit}, {trainings_in_words(self.trainings)}"

    def __str__(self) -> str:
        note = "" if self.meaningful else f", not meaningful: under {MIN_UTTERANCES} utterances"
        drawn = f"{plural(self.units, self.unit)}, {trainings_in_words(self.trainings)}"
        return f"{self.low:.2f} .. {self.high:.2f} (over {drawn}{note})"


def trainings_in_words(count: int) -> str:
    """Return how many trainings there are; under ``MIN_TRAININGS`` the word is a warning."""
    return {1: "one training", 2: "two trainings"}.get(count, f"{count} trainings")


@dataclass(frozen=True)
class Difference:
    """The paired difference second - first of two systems, in percentage points.

    Attributes:
        first, second: error rates in %, over all trainings of a system.
        difference: second - first; negative: the second is better.
        interval: 95 % interval of the difference for these very trainings: units alone are drawn.
        p_second_better: share of its draws in which the second makes fewer errors, ties half.
        joint: the interval with trainings and units drawn together.
        p_joint: probability that the second makes fewer errors, by the t distribution of ``joint``;
            None under ``MIN_TRAININGS`` trainings of either.
        welch: ends of Welch's interval over trainings alone; None under two trainings of either.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    p_second_better: float
    joint: Interval
    p_joint: float | None
    welch: tuple[float, float] | None


def sampling_unit(speakers: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return what to draw and, for each utterance, the index (U,) of the unit it belongs to."""
    names, index = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) >= MIN_SPEAKERS:
        return "speaker", index
    return "utterance", np.arange(len(speakers))


def draw_sums(table: np.ndarray, replications: int | None = None, seed: int = SEED) -> np.ndarray:
    """Return the column sums (R, K) of R draws, with replacement, of the rows of a table (N, K).

    R is ``REPLICATIONS`` if none is given.
    """
    replications = REPLICATIONS if replications is None else replications
    rng = np.random.default_rng(seed)
    rows = len(table)
    sums = []
    for start in range(0, replications, max(1, DRAWS_AT_ONCE // rows)):
        count = min(max(1, DRAWS_AT_ONCE // rows), replications - start)
        drawn = rng.integers(0, rows, (count, rows))
        sums.append(np.stack([column[drawn].sum(axis=1) for column in table.T], axis=1))
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


class Trainings:
    """The trainings of one system on one test set, as two numbers for each utterance.

    Args:
        parts, wholes: (S, U), or (U,) of one training: errors and reference units, or the energies
            of twin and system. The figure is their ratio of sums.
    """

    def __init__(self, parts: np.ndarray, wholes: np.ndarray) -> None:
        self.parts = np.atleast_2d(np.asarray(parts, dtype=float))
        self.wholes = np.atleast_2d(np.asarray(wholes, dtype=float))

    @property
    def count(self) -> int:
        """S."""
        return len(self.parts)

    @property
    def figure(self) -> float:
        """The ratio of sums over all trainings."""
        return float(self.parts.sum() / self.wholes.sum())

    @property
    def each(self) -> np.ndarray:
        """The ratio of sums of each training (S,)."""
        return self.parts.sum(axis=1) / self.wholes.sum(axis=1)

    @property
    def variance(self) -> float:
        """The variance of the mean over trainings, as they differ; 0 for one, or equal ones.

        The mean of equal figures differs from them in the last bit, and so would their variance
        from 0.
        """
        each = self.each
        if self.count < 2 or np.ptp(each) <= 1e-12 * np.abs(each).max():
            return 0.0
        return float(each.var(ddof=1)) / self.count

    def draw(self, sums: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the figures (R,) of R draws of units: of all trainings, and of drawn ones.

        Args:
            sums: (R, 2 S), a draw's sums of every training's parts, then of its wholes.
            seed: of the draws of trainings.
        """
        parts, wholes = np.split(sums, 2, axis=1)
        all_of_them = parts.sum(axis=1) / wholes.sum(axis=1)
        if self.count == 1:
            return all_of_them, all_of_them
        rng = np.random.default_rng(seed)
        picks = rng.integers(0, self.count, (len(sums), self.count - 1))
        drawn = [np.take_along_axis(x, picks, axis=1).sum(axis=1) for x in (parts, wholes)]
        return all_of_them, drawn[0] / drawn[1]


def _draw(
    systems: Sequence[Trainings], index: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``Trainings.draw`` of each system, all with the same draws of units."""
    columns = [column for one in systems for column in (*one.parts, *one.wholes)]
    sums = draw_sums(_table(columns, index), seed=seed)
    found = []
    for number, one in enumerate(systems):
        mine, sums = sums[:, : 2 * one.count], sums[:, 2 * one.count :]
        # trainings of two systems are drawn apart: their seeds have nothing in common
        found.append(one.draw(mine, (seed, number)))
    return found


def _freedom(variance: float, systems: Sequence[Trainings]) -> float:
    """Return the degrees of freedom of a variance that the systems' trainings have a part in.

    That of the units counts as known, as in the interval of a single training.
    """
    parts = sum(one.variance**2 / (one.count - 1) for one in systems if one.count > 1)
    # equal trainings differ in the last bits
    return variance**2 / parts if parts > 1e-18 * variance**2 > 0 else np.inf


def _quantile(freedom: float) -> float:
    """Return the two-sided 95 % point of Student's t."""
    if np.isinf(freedom):
        return Z95
    from scipy.special import stdtrit  # 0.4 s, and only for several trainings

    return float(stdtrit(freedom, 0.975))


def _p_below_zero(mean: float, deviation: float, freedom: float) -> float:
    """Return the probability that what was estimated as ``mean`` is below 0."""
    if deviation == 0:
        return 0.5 if mean == 0 else float(mean < 0)
    from scipy.special import ndtr, stdtr

    t = -mean / deviation
    return float(ndtr(t) if np.isinf(freedom) else stdtr(freedom, t))


def over_trainings(
    trainings: Trainings, speakers: Sequence[str], seed: int = SEED, scale: float = 1.0
) -> Interval:
    """Return the interval of a system's figure, trainings and units drawn together.

    Args:
        trainings: of the system.
        speakers: the speaker of each utterance.
        seed: seed of the draws.
        scale: what the figure is multiplied with, 100 for %.
    """
    unit, index = sampling_unit(speakers)
    ((_, drawn),) = _draw([trainings], index, seed)
    half = _quantile(_freedom(float(drawn.var()), [trainings])) * float(drawn.std())
    return Interval(
        low=scale * max(0.0, float(drawn.mean()) - half),
        high=scale * (float(drawn.mean()) + half),
        unit=unit,
        units=int(index.max()) + 1,
        meaningful=len(speakers) >= MIN_UTTERANCES,
        trainings=trainings.count,
    )


def welch(systems: Sequence[Trainings]) -> tuple[float, float] | None:
    """Return the ends of the interval over trainings alone.

    Args:
        systems: one, for the mean of its figure (Student); two, for second minus first (Welch).

    Returns:
        None where a system has one training.
    """
    if any(one.count < 2 for one in systems):
        return None
    means = [float(one.each.mean()) for one in systems]
    mean = means[-1] - means[0] if len(means) == 2 else means[0]
    variance = sum(one.variance for one in systems)
    half = _quantile(_freedom(variance, systems)) * variance**0.5
    return mean - half, mean + half


def paired_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    speakers: Sequence[str],
    seed: int = SEED,
) -> Difference:
    """Compare two systems on the same utterances, drawing both together.

    Args:
        first, second: (errors (U,), reference units (U,)) of each system, the same utterances in
            the same order; (S, U) of S trainings.
        speakers: the speaker of each utterance.
        seed: seed of the draws.
    """
    unit, index = sampling_unit(speakers)
    systems = [Trainings(*first), Trainings(*second)]
    drawn = _draw(systems, index, seed)
    deltas, joint = (100.0 * (b - a) for a, b in zip(*drawn, strict=True))
    # 1e-9 points: equal ratios of different sums differ in the last bit
    better = float((deltas < -1e-9).mean() + 0.5 * (np.abs(deltas) <= 1e-9).mean())
    trainings = min(one.count for one in systems)

    def interval(draws: np.ndarray, quantile: float) -> Interval:
        mean, half = float(draws.mean()), quantile * float(draws.std())
        return Interval(
            low=mean - half,
            high=mean + half,
            unit=unit,
            units=int(index.max()) + 1,
            meaningful=len(speakers) >= MIN_UTTERANCES,
            trainings=trainings,
        )

    rates = [100.0 * one.figure for one in systems]
    freedom = _freedom(float(joint.var()) / 100.0**2, systems)
    p_joint = _p_below_zero(rates[1] - rates[0], float(joint.std()), freedom)
    alone = welch(systems)
    return Difference(
        first=rates[0],
        second=rates[1],
        difference=rates[1] - rates[0],
        interval=interval(deltas, Z95),
        p_second_better=better,
        joint=interval(joint, _quantile(freedom)),
        p_joint=p_joint if trainings >= MIN_TRAININGS else None,
        welch=alone and (100.0 * alone[0], 100.0 * alone[1]),
    )
