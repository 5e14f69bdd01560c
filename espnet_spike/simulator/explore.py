"""Try models and codings on a grid of cores."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from espnet_spike.results.formatting import table
from espnet_spike.results.hardware_findings import Finding, findings, simulations
from espnet_spike.results.hardware_tables import gains_table, markdown, notes, parts_table
from espnet_spike.simulator.energy import DEFAULT, energy_uj, read_prices
from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.operations import KINDS, LOOPS
from espnet_spike.simulator.record import Recording
from espnet_spike.simulator.simulate import simulate_recording, summary
from espnet_spike.utils.files import plural
from espnet_spike.utils.pareto import pareto

_logger = logging.getLogger(__name__)
MOST_VERDICTS = 20
NOISE = "noise"


@dataclass(frozen=True)
class Point:
    """A model in one coding on one core.

    Attributes:
        model: name of the experiment.
        coding: of its operations.
        core: name of the hardware.
        cycles: a frame.
        latency_ms: a frame.
        energy_uj: a frame, under the cost model.
    """

    model: str
    coding: str
    core: str
    cycles: float
    latency_ms: float
    energy_uj: float


@dataclass(frozen=True)
class Subject:
    """What is explored.

    Attributes:
        name: of the experiment.
        model: as ``results.json`` names it.
        recording: of its encoder.
        log: file of its simulated calls.
        data: what was recorded; ``NOISE`` of untrained encoders.
    """

    name: str
    model: str
    recording: Recording
    log: Path
    data: str


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes:
        points: every model and coding on every core, the fastest first.
        results: of every subject, as ``results.json`` has it: core -> figures, in ``simulate``.
    """

    points: list[Point]
    results: list[dict[str, Any]]


def explore(
    subjects: Iterable[Subject],
    grid: Sequence[Hardware],
    cost: str = DEFAULT,
    jobs: int | None = None,
    loops: Sequence[str] = LOOPS,
) -> Exploration:
    """Simulate every model on every core.

    Args:
        subjects: the models; one at a time is kept.
        grid: the cores.
        cost: name of the prices, see ``read_prices``.
        jobs: simulators at once.
        loops: of ``operations.LOOPS``, those that are simulated.
    """
    points, results, prices = [], [], read_prices(cost)
    for subject in subjects:
        cores, recording = {}, subject.recording
        chosen = tuple(kind + loop for kind in KINDS for loop in loops)
        recording = replace(recording, codings=tuple(c for c in chosen if c in recording.codings))
        codings = plural(len(recording.codings), "coding")
        for number, hardware in enumerate(grid, 1):
            place = subject.name, codings, hardware.name, number, len(grid)
            _logger.info("%s: %s on core %s (%d of %d)", *place)
            figures = simulate_recording(
                recording, hardware, subject.log, jobs, few=True, drawn=subject.data == NOISE
            )
            points += [
                Point(
                    *(subject.name, coding, hardware.name),
                    *(counts["cycles"], counts["latency_ms"], energy_uj(counts, prices)),
                )
                for coding, counts in figures["codings"].items()
            ]
            figures |= {"model": subject.model, "data": subject.data, "left_out": []}
            cores[hardware.name] = summary(figures)
        results.append({"experiment": subject.name, "simulate": cores})
    return Exploration(sorted(points, key=lambda point: point.latency_ms), results)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both time and energy, the fastest first."""
    best = pareto([(point.latency_ms, point.energy_uj) for point in points])
    return [point for point, unbeaten in zip(points, best, strict=True) if unbeaten]


def front_table(points: Sequence[Point], fastest: int) -> list[str]:
    """Return a Markdown table of the fastest points, and of all that no other beats.

    Args:
        points: the fastest first.
        fastest: how many of them are shown in any case.
    """
    best = front(points)
    head = ["experiment", "coding", "core", "unbeaten"]
    head += ["cycles a frame", "latency, ms", "energy, µJ"]
    rows = [
        [
            *(point.model, point.coding, point.core, "yes" if point in best else ""),
            *(f"{point.cycles:.0f}", f"{point.latency_ms:.3f}", f"{point.energy_uj:.1f}"),
        ]
        for point in dict.fromkeys([*points[:fastest], *best])
    ]
    return table(head, rows, left=4)


def report(exploration: Exploration) -> list[str]:
    """Return, as Markdown, what is saved, where the cycles go, and the findings judged by that.

    The tables by sub-module are those of a single core; on a grid, verdicts alone.
    """
    found = simulations(exploration.results)
    lines: list[str] = []
    if len({core for _, core in found}) == 1:
        for listing in gains_table(found), parts_table(found):
            if listing.rows:
                lines += [f"### {listing.title}", "", *markdown(listing), ""]
        lines += [notes(found), ""]
    judged = findings(found)
    if judged:
        lines += ["### Published findings, judged by these figures", "", *verdicts(judged)]
    return lines


def verdicts(judged: Sequence[Finding]) -> list[str]:
    """Return a line for each finding; if there are many, a line for those that say the same."""
    if len(judged) <= MOST_VERDICTS:
        return [str(finding) for finding in judged]
    alike: dict[tuple[str, str, str], int] = {}
    for finding in judged:
        key = finding.claim, finding.verdict, finding.where.partition(", ")[2]
        alike[key] = alike.get(key, 0) + 1
    return [
        f"- {claim}: **{verdict}** {number} times with {states}"
        for (claim, verdict, states), number in sorted(alike.items())
    ]
