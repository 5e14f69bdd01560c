"""The claims of Ahmed et al. (2026, arXiv 2606.01135) on hardware, beside simulated cycles.

Reads the ``results.json`` of experiments that stage 13 has simulated, or what ``explore`` has
written::

    .venv/bin/python -m benchmarks.claims egs/fsdd/exp
    .venv/bin/python -m benchmarks.claims exp/published_layer/explore.json

prints the improvements beside Table II of the paper, and what the figures say to its three
findings, as Markdown.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.results.experiments import find_experiments
from espnet_spike.results.formatting import table
from espnet_spike.results.hardware_findings import (
    METRICS,
    Simulations,
    findings,
    gain,
    groups,
    naive_gain,
    simulations,
)
from espnet_spike.results.hardware_tables import model_label
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import read_json

# improvement over the base model in %, Table II of the paper
PAPER = {
    "E": (32.32, 14.30, 17.57, 29.78),
    "S": (19.58, 14.0, 7.63, 17.9),
    "E, optimized": (46.13, 26.9, 28.50, 37.5),
}


def paper_table(found: Simulations) -> list[str]:
    """Return the improvements of the event-driven models beside those of Table II.

    Against the dense SpeechMamba if there is one, else the model's own dense coding; and against
    the naively sparsified one, since the paper does not say which is its base.
    """
    rows = []
    for group in groups(found):
        for experiment, figures in group.members.items():
            if figures["model"] not in PAPER:
                continue
            theirs = " / ".join(f"{value:g}" for value in PAPER[figures["model"]])
            for ours in gain(group, figures), naive_gain(group, figures):
                if ours is not None:
                    saved = (f"{ours.saved[metric]:.1f}" for metric in METRICS)
                    place = group.core, str(group.states or "–")
                    name = model_label(figures["model"])
                    rows.append([experiment, name, *place, ours.against, *saved, theirs])
    if not rows:
        return []
    head = ["experiment", "model", "core", "scan states", "against", "cycles", "instructions"]
    return table([*head, "memory accesses", "latency", "the paper's four"], rows, 5)


def claims(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return both sections as lines of Markdown; nothing if no experiment has been simulated."""
    found = simulations(results)
    lines = []
    if rows := paper_table(found):
        lines += ["### Improvement beside Ahmed et al. (2026), Table II", "", *rows, ""]
    if said := findings(found):
        lines += ["### Findings of Ahmed et al. (2026)", "", *map(str, said), ""]
    return lines


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="benchmarks.claims", description=__doc__)
    parser.add_argument(
        "expdir", type=Path, help="folder of experiments, as egs/fsdd/exp, or an explore.json"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    if options.expdir.is_file():
        results = read_json(options.expdir, kind=list)
    else:
        paths = [e.path / "results.json" for e in find_experiments(options.expdir)]
        results = [read_json(path) for path in paths if path.is_file()]
    lines = claims(results)
    if not lines:
        raise UserError(f"{options.expdir}: no simulated experiment", "run stage 13 (simulate)")
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
