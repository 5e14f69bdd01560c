"""Numbers and tables as they stand in Markdown.

Names of sets, tags and files, and what a configuration or a result says, may hold anything: it
stays text, in one line and one cell.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from espnet_spike.results.bootstrap import Interval


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    """Return a Markdown table whose first ``left`` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, rule, *rows]
    return ["|" + "|".join(map(cell, line)) + "|" for line in lines]


def without_blanks(
    head: Sequence[str], rows: Sequence[Sequence[object]]
) -> tuple[list[str], list[list[object]]]:
    """Return a table without the columns that say nothing in any row: a dash, or nothing at all."""
    kept = [
        place
        for place in range(len(head))
        if not rows or any(str(row[place]) not in ("", "–") for row in rows)
    ]
    return [head[place] for place in kept], [[row[place] for place in kept] for row in rows]


def cell(value: object) -> str:
    """Return what stands in a cell of a table, which no bar in it ends."""
    return re.sub(r"\\*\|", lambda bar: "\\|", str(value))


def as_text(line: str) -> str:
    """Return a line of Markdown without what data could have brought: line ends, HTML, links.

    Code between backticks stays as it is.
    """
    parts = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", line).split("`")
    if len(parts) % 2 == 0:  # one of the backticks is none of ours
        parts = ["'".join(parts)]
    parts[::2] = [part.replace("<", "&lt;").replace("](", "]\\(") for part in parts[::2]]
    return "`".join(parts)


def code_block(lines: Iterable[str], language: str = "") -> list[str]:
    """Return lines as a block of code, which none of them ends."""
    shown = [re.sub(r"[\x00-\x1f]", " ", line).replace("```", "` ` `") for line in lines]
    return [f"```{language}", *shown, "```"]


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def probability(value: float | None) -> str:
    """Return a probability in three digits, a bound where they would say that it is certain.

    >>> probability(0.9997), probability(0.0213)
    ('> 0.999', '0.021')
    """
    if value is None:
        return "–"
    shown = f"{value:.3f}"
    return {"0.000": "< 0.001", "1.000": "> 0.999"}.get(shown, shown)


def scored_of(figures: Mapping[str, Any]) -> str:
    """Return how many utterances of a set were scored, and of how many where some were lost.

    Args:
        figures: ``utterances``, and ``utterances_given`` where it is known.
    """
    scored = figures["utterances"]
    given = figures.get("utterances_given", scored)
    return str(scored) if given == scored else f"{scored} of {given}"


def thousands(count: int | None) -> str:
    """Return a count with its thousands set apart."""
    return "–" if count is None else f"{count:,}".replace(",", " ")


def ends(interval: Interval, sign: str = "") -> list[str]:
    """Return the ends of an interval and what was drawn, for a table."""
    mark = "" if interval.meaningful else " *"
    return [f"{interval.low:{sign}.2f} .. {interval.high:{sign}.2f}{mark}", interval.over]


def low_high(found: tuple[float, float] | None, sign: str = "") -> str:
    """Return two ends for a table, a dash where there are none."""
    return "–" if found is None else f"{found[0]:{sign}.2f} .. {found[1]:{sign}.2f}"
