"""Intervals over trainings, in tables of RESULTS.md that were reported before seeds were drawn.

Their experiments are gone, but the rates of each seed stand in them. This writes, into the file,
Student's interval over the rates of a row, and Welch's of a difference; intervals over utterances
alone stay, under a name that says what they are, and shares of their draws go::

    .venv/bin/python -m benchmarks.seeds egs/fsdd/RESULTS.md

A file that has nothing of that kind stays as it is.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.results.bootstrap import Trainings, welch
from espnet_spike.results.formatting import low_high
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import read_text, write_bytes

SEEDS_NOTE = (
    "Seeds alone: Student's interval of the mean over the rates of the seeds. The interval of "
    "these trainings is over utterances, and says nothing about another training; std is over the "
    "seeds. Made by `.venv/bin/python -m benchmarks.seeds`."
)
DIFFERENCES_NOTE = (
    "WER minus the WER compared with, in points. Welch, seeds alone: over the rates of the seeds; "
    "with one training of either it is not known. The interval of these trainings is of the same "
    "utterances (paired bootstrap, seeds pooled), and says nothing about another training. Made by "
    "`.venv/bin/python -m benchmarks.seeds`."
)
NOTES = {
    "The interval is of the mean over these seeds; std is over the seeds.": SEEDS_NOTE,
    "WER minus the WER compared with, in points, from the same utterances: paired bootstrap, runs "
    "with other seeds pooled. P(better): share of draws with fewer errors.": DIFFERENCES_NOTE,
}
RULE = re.compile(r"[-:]+")
HELD = "95 %, these trainings"
Key = tuple[str, ...]


def get_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(prog="benchmarks.seeds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="RESULTS.md")
    return parser


def student(rates: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of the mean of rates, in their units; None of one rate."""
    return welch([_trainings(rates)])


def difference(rates: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Return Welch's interval of the first mean minus the second; None where either has one."""
    return welch([_trainings(base), _trainings(rates)])


def _trainings(rates: Sequence[float]) -> Trainings:
    parts = np.asarray(rates, dtype=float)[:, None]
    return Trainings(parts, np.ones_like(parts))


def with_seeds(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a RESULTS.md with its earlier tables as this module makes them.

    Raises:
        UserError: a difference is between rows whose seeds are in no table of the same part.
    """
    head: list[str] = []
    rates: dict[Key, list[float]] = {}
    for line in lines:
        if line.startswith("# "):
            rates = {}
        if not line.startswith("|"):
            head = []
            yield NOTES.get(line, line)
            continue
        cells = line[1:-1].split("|")
        head = head or cells
        seeds, differences = "each seed" in head, "P(better)" in head
        if not (seeds or differences):
            yield line  # of any other table, where names of columns may be there twice
            continue
        row = dict(zip(head, cells, strict=True))
        told = cells != head and not RULE.fullmatch(cells[0])
        if seeds and told:
            key = row["experiments"], row["decoding"], row["set"]
            rates[key] = [float(rate) for rate in row["each seed"].split(", ")]
        if seeds and "seeds alone" not in head:
            row = _with(row, head, "std", "seeds alone", student(rates[key]) if told else None)
        if differences and "Welch, seeds alone" not in head:
            found = _difference(row, rates) if told else None
            row = _with(row, head, "over", "Welch, seeds alone", found, "+")
            del row["P(better)"]
        yield f"|{'|'.join(row.values())}|"


def _difference(
    row: Mapping[str, str], rates: Mapping[Key, list[float]]
) -> tuple[float, float] | None:
    if "1" in row["runs"].split(" / "):
        return None  # of one training there is no row of seeds
    names = row["experiments"], row["compared with"]
    pair = [(name, row["decoding"], row["set"]) for name in names]
    if lacking := [" ".join(key) for key in pair if key not in rates]:
        raise UserError(
            f"no table of seeds has {', '.join(lacking)}", "write the part anew by bin.report"
        )
    return difference(*(rates[key] for key in pair))


def _with(
    row: Mapping[str, str],
    head: Sequence[str],
    after: str,
    name: str,
    found: tuple[float, float] | None,
    sign: str = "",
) -> dict[str, str]:
    """Return a row, a head or the rule below it with one more cell."""
    is_head = list(row.values()) == list(head)
    cells = {}
    for key, value in row.items():
        cells[key] = HELD if is_head and key == "95 % interval" else value
        if key == after:
            rule = RULE.fullmatch(value)
            cells[name] = name if is_head else value if rule else low_high(found, sign)
    return cells


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files that change, and say which."""
    for path in get_parser().parse_args(argv).files:
        text = read_text(path)
        new = "".join(f"{line}\n" for line in with_seeds(text.splitlines()))
        if new == text:
            print(f"{path}: nothing to change")
        else:
            write_bytes(path, new.encode())
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)
