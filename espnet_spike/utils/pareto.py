"""Points that no other beats."""

from collections.abc import Sequence


def pareto(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Return which points are in the Pareto set: none is as good in every cost and better in one.

    Args:
        costs: of each point, the less the better; the same number of costs each. Of equal points
            all are in the set, or none.
    """

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return tuple(a) != tuple(b) and all(x <= y for x, y in zip(a, b, strict=True))

    return [not any(beats(other, point) for other in costs) for point in costs]
