"""Try trained models and codings on a grid of cores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.simulator.energy import DEFAULT, energy_uj
from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.record import Recording
from espnet_spike.simulator.simulate import simulate_recording


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

    def beats(self, other: "Point") -> bool:
        """Tell whether this is nowhere worse and somewhere better, in time and energy."""
        ours, theirs = (self.latency_ms, self.energy_uj), (other.latency_ms, other.energy_uj)
        return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]


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
        cost: name of the cost model.
        jobs: simulators at once.
    """
    points = []
    for hardware in grid:
        for name, recording in recordings.items():
            figures = simulate_recording(recording, hardware, log(name), jobs, few=True)
            points += [
                Point(
                    *(name, coding, hardware.name, counts["cycles"], counts["latency_ms"]),
                    energy_uj(counts, cost),
                )
                for coding, counts in figures["codings"].items()
            ]
    return sorted(points, key=lambda point: point.latency_ms)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both time and energy, the fastest first."""
    return [point for point in points if not any(other.beats(point) for other in points)]
