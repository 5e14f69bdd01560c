"""Timing that can be trusted on a busy machine: medians, and ratios inside one run.

A benchmark compares named cases with a peer that does the same work another way. All cases run
in turn in every round, so that what disturbs the machine disturbs all of them; the ratio to the
peer is taken round by round. Results are printed and, with ``--out STEM``, go to a JSON file and a
Markdown table.

Run a benchmark from the root of the checkout: ``.venv/bin/python -m benchmarks.bench_fbank``.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from espnet_spike.utils.files import write_bytes


@dataclass(frozen=True)
class Timing:
    """Seconds of a case in every round, and of the peer in the same rounds."""

    name: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    peer_wall: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median wall clock seconds."""
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        """Median processor seconds of this process and its finished children."""
        return statistics.median(self.cpu)

    @property
    def ratio(self) -> float:
        """How many times faster than the peer: median over rounds of peer / case."""
        pairs = zip(self.peer_wall, self.wall, strict=True)
        return statistics.median(peer / own for peer, own in pairs)


def _cpu_seconds() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(who) for who in whose]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(
    cases: Mapping[str, Callable[[], object]], peer: str, repeats: int = 5, warmups: int = 1
) -> dict[str, Timing]:
    """Time all cases in turn.

    Args:
        cases: name -> what to run.
        peer: the case that the others are compared with.
        repeats: rounds that count.
        warmups: rounds before, which do not.

    Returns:
        name -> its timing.
    """
    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmups + repeats):
        for name, run in cases.items():
            start, cpu_start = time.perf_counter(), _cpu_seconds()
            run()
            if turn >= warmups:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(_cpu_seconds() - cpu_start)
    return {
        name: Timing(name, tuple(wall[name]), tuple(cpu[name]), tuple(wall[peer])) for name in cases
    }


def machine(packages: Sequence[str] = ()) -> dict[str, str]:
    """Say what the figures were measured on: processor, memory, load, versions, commit."""
    facts = {"processor": platform.processor() or platform.machine()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                facts["processor"] = line.partition(":")[2].strip()
                break
    facts["cores"] = str(len(os.sched_getaffinity(0)))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts["memory"] = f"{memory / 2**30:.0f} GiB"
    facts["load"] = f"{os.getloadavg()[0]:.1f}"
    facts["python"] = platform.python_version()
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "absent"
    facts["commit"] = commit_of(Path(__file__).parent)
    return facts


def commit_of(folder: Path) -> str:
    """Return the short name of the commit that a folder's checkout is at."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows with the same keys as a Markdown table; floats get three figures."""

    def show(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([show(row[key]) for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def command() -> str:
    """Return the command that runs, as it can be typed at the root of the checkout."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # None of a file or standard input
    started = [sys.argv[0]] if spec is None else ["-m", spec.name]
    return shlex.join([".venv/bin/python", *started, *sys.argv[1:]])


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add ``--out``: a trial with other options must not replace a table that is kept."""
    parser.add_argument(
        "--out", type=Path, metavar="STEM", help="write STEM.json and STEM.md; else print alone"
    )


def write_report(
    stem: Path | None,
    title: str,
    rows: Sequence[Mapping[str, object]],
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
) -> str:
    """Write ``stem.json`` and ``stem.md``, which name the command that runs; return the Markdown.

    Args:
        stem: path without ending; None: nothing is written.
        title: heading.
        rows: the table, all rows with the same keys.
        facts: of the machine.
        notes: sentences below the table.
    """
    measured_on = ", ".join(f"{key} {value}" for key, value in facts.items())
    made_by = f"Made by `{command()}`."
    parts = [f"# {title}", made_by, markdown_table(rows), *notes, f"Measured on: {measured_on}."]
    text = "\n\n".join(parts) + "\n"
    if stem is None:
        return text
    stem.parent.mkdir(parents=True, exist_ok=True)
    record = {"title": title, "command": command(), "rows": rows, "notes": notes, "machine": facts}
    for ending, content in ((".json", json.dumps(record, indent=1) + "\n"), (".md", text)):
        write_bytes(stem.with_name(stem.name + ending), content.encode())
    return text
