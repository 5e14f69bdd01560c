"""Compare decodings of the same utterances: runs are pooled, systems compared in pairs."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.results.bootstrap import (
    Difference,
    Interval,
    Trainings,
    error_interval,
    over_trainings,
    paired_difference,
    trainings_in_words,
    welch,
)
from espnet_spike.results.experiments import read_normalization
from espnet_spike.results.formatting import probability
from espnet_spike.results.scoring import Counts, percent, read_counts
from espnet_spike.utils.files import name_some, present


@dataclass(frozen=True)
class Pooled:
    """Runs of one system, with other seeds, over the same U utterances.

    Runs and utterances are drawn together: the interval tells how far the mean over seeds depends
    on the choice of both. Of one run it is of the choice of utterances alone, and says so.
    """

    runs: tuple[Counts, ...]

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors (U,) and reference units (U,), over all runs."""
        errors = np.sum([run.errors for run in self.runs], axis=0)
        return errors, np.sum([run.lengths for run in self.runs], axis=0)

    @property
    def trainings(self) -> Trainings:
        """Errors and reference units of each run."""
        return Trainings(
            np.stack([run.errors for run in self.runs]),
            np.stack([run.lengths for run in self.runs]),
        )

    @property
    def rate(self) -> float:
        """The error rate over all runs, %."""
        errors, lengths = self.sums
        return percent(errors.sum(), lengths.sum())

    @property
    def rates(self) -> list[float]:
        """The error rate of each run, %."""
        return [percent(run.errors.sum(), run.lengths.sum()) for run in self.runs]

    def interval(self) -> Interval:
        """Return the 95 % interval of `rate`."""
        if len(self.runs) == 1:
            return error_interval(*self.sums, self.runs[0].speakers)
        return over_trainings(self.trainings, self.runs[0].speakers, scale=100.0)

    @property
    def spread(self) -> float | None:
        """The standard deviation of `rates`; None of one run."""
        return statistics.stdev(self.rates) if len(self.runs) > 1 else None

    def seeds_alone(self) -> tuple[float, float] | None:
        """Return the 95 % interval over the runs' rates alone (Student), %; None of one run."""
        found = welch([self.trainings])
        return found and (100.0 * found[0], 100.0 * found[1])


def pool(set_dirs: Sequence[Path], metric: str = "wer") -> Pooled:
    """Read the scored set folders of one system's runs.

    Raises:
        UserError: a folder is not scored, or the folders are not of the same utterances, or not
            under the same text normalization.
    """
    runs = tuple(read_counts(folder, metric) for folder in set_dirs)
    for run in runs[1:]:
        _check_same_set(runs[0], run)
    return Pooled(runs)


def _check_same_set(first: Counts, second: Counts) -> None:
    first_profile, second_profile = _normalization(first), _normalization(second)
    if first_profile != second_profile:
        raise UserError(
            f"{first.path} is scored under text normalization {first_profile}, {second.path} under "
            f"{second_profile}",
            "score both under that of the recipe (--stage score)",
        )
    differing = sorted(set(first.keys) ^ set(second.keys))
    if differing:
        raise UserError(
            f"{first.path} and {second.path} are not of the same utterances: "
            + name_some(differing),
            "compare decodings of one test set",
        )
    changed = np.flatnonzero(first.lengths != second.lengths)
    if len(changed):
        raise UserError(
            f"{first.path} and {second.path} come from other references: "
            + name_some(first.keys[i] for i in changed),
            "score both again with the same references and tokens (--stage score)",
        )


def _normalization(counts: Counts) -> str:
    path = counts.path / "result.json"
    if not present(path):
        raise UserError(f"{path} does not exist", "score the set first (--stage score)")
    return read_normalization(counts.path)


def common_sets(*systems: Sequence[Path]) -> dict[str, list[list[Path]]]:
    """Find the scored sets that every folder has.

    Args:
        systems: of each system, the decode folders (``exp/asr_x/decode_y``) of its runs, or the
            folders of one set in them.

    Returns:
        Set name -> for each system, the set folders of its runs.

    Raises:
        UserError: a folder is absent, or they have no scored set in common.
    """
    folders = [folder for system in systems for folder in system]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder", "give exp/asr_X/INFERENCE_TAG or a set in it"
            )
    if all(present(folder / "result.json") for folder in folders):
        return {folders[0].name: [list(system) for system in systems]}
    found = [{path.parent.name for path in folder.glob("*/result.json")} for folder in folders]
    common = sorted(set.intersection(*found))
    if not common:
        lists = "; ".join(
            f"{folder}: {', '.join(sorted(names)) or 'none'}"
            for folder, names in zip(folders, found, strict=True)
        )
        raise UserError(f"no scored set in common ({lists})", "score them first (--stage score)")
    return {name: [[run / name for run in system] for system in systems] for name in common}


def compare(first: Pooled, second: Pooled) -> Difference:
    """Return the paired difference of two systems.

    Both systems get the same draws of utterances; the runs of each are drawn apart.

    Raises:
        UserError: they are not of the same utterances, or not under the same text normalization.
    """
    _check_same_set(first.runs[0], second.runs[0])
    a, b = first.trainings, second.trainings
    return paired_difference((a.parts, a.wholes), (b.parts, b.wholes), first.runs[0].speakers)


@dataclass(frozen=True)
class Comparison:
    """Two systems on one set.

    Attributes:
        first, second: their runs.
        difference: second minus first.
    """

    first: Pooled
    second: Pooled
    difference: Difference

    def lines(self) -> list[str]:
        """Return a line for each system, and the lines on the difference."""
        lines = []
        for label, pooled in (("first", self.first), ("second", self.second)):
            lines.append(f"  {label:7s}{pooled.rate:8.2f}   95 % interval {pooled.interval()}")
            if (alone := pooled.seeds_alone()) is not None:
                runs = ", ".join(f"{rate:.2f}" for rate in pooled.rates)
                lines.append(
                    f"         each run: {runs}; std {pooled.spread:.2f}; "
                    f"over runs alone {alone[0]:.2f} .. {alone[1]:.2f}"
                )
        found = self.difference
        lines.append(f"  second - first {found.difference:+.2f}   95 % interval {found.joint}")
        if found.welch is not None:
            low, high = found.welch
            lines.append(f"         over runs alone (Welch) {low:+.2f} .. {high:+.2f}")
        if found.p_joint is not None:
            better = probability(found.p_joint)
            lines.append(f"  P(second better) {better}, utterances and runs drawn")
        elif len(self.first.runs) == len(self.second.runs) == 1:
            better = probability(found.p_second_better)
            lines.append(f"  P(second better) {better}, of these two trainings")
        else:
            few = trainings_in_words(found.joint.trainings)
            lines.append(f"  P(second better) is not known: {few} of a system")
        return lines

    def figures(self) -> dict[str, Any]:
        """Return runs, rates and difference as plain values."""
        return {
            "first": _figures(self.first),
            "second": _figures(self.second),
            "difference": asdict(self.difference),
        }


def _figures(pooled: Pooled) -> dict[str, Any]:
    return {
        "runs": [str(run.path) for run in pooled.runs],
        "rates": pooled.rates,
        "interval": asdict(pooled.interval()),
        "std": pooled.spread,
        "seeds_alone": pooled.seeds_alone(),
    }


def compare_systems(
    first: Sequence[Path], second: Sequence[Path], metric: str = "wer"
) -> Iterator[tuple[str, Comparison]]:
    """Yield the scored sets that two systems have in common, each with its comparison.

    Args:
        first, second: decode folders of the runs, see ``common_sets``.
        metric: ``wer``, ``cer`` or ``ter``.

    Raises:
        UserError: nothing in common, or the sets cannot be compared.
    """
    for name, systems in common_sets(first, second).items():
        a, b = (pool(runs, metric) for runs in systems)
        yield name, Comparison(a, b, compare(a, b))
