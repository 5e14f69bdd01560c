"""Try trained models and codings on a grid of cores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.results.formatting import table
from espnet_spike.simulator.energy import DEFAULT, energy_uj, read_prices
from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.record import Recording
from espnet_spike.simulator.simulate import simulate_recording
from espnet_spike.utils.pareto import pareto


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


def explore(
    recordings: Mapping[str, Recording],
    grid: Iterable[Hardware],
    log: Callable[[str], Path],
    cost: str = DEFAULT,
    jobs: int | None = None,
) -> list[Point]:
    """Return every model and coding on every core, the fastest first.

    Args:
        recordings: of the models, by name.
        grid: the cores.
        log: model -> file of its simulated calls.
        cost: name of the prices, see ``read_prices``.
        jobs: simulators at once.
    """
    points, prices = [], read_prices(cost)
    for hardware in grid:
        for name, recording in recordings.items():
            figures = simulate_recording(recording, hardware, log(name), jobs, few=True)
            points += [
                Point(
                    *(name, coding, hardware.name, counts["cycles"], counts["latency_ms"]),
                    energy_uj(counts, prices),
                )
                for coding, counts in figures["codings"].items()
            ]
    return sorted(points, key=lambda point: point.latency_ms)


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
