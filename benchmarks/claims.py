"""The claims of Ahmed et al. (2026, arXiv 2606.01135) on hardware, beside simulated cycles.

Reads the ``results.json`` of experiments that stage 13 has simulated::

    python -m benchmarks.claims egs/fsdd/exp

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
from espnet_spike.results.hardware_tables import METRICS, Simulations, saved, simulations
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import read_json

# improvement over the base model in %, Table II of the paper
PAPER = {
    "E": (32.32, 14.30, 17.57, 29.78),
    "S": (19.58, 14.0, 7.63, 17.9),
    "E, optimized": (46.13, 26.9, 28.50, 37.5),
}


def _base(found: Simulations, core: str, model: str) -> Mapping[str, Any] | None:
    same = [f for (_, c), f in found.items() if c == core and f["model"] == model]
    return same[0] if same else None


def paper_table(found: Simulations) -> list[str]:
    """Return the improvements of the event-driven models beside those of Table II.

    Against the dense SpeechMamba if there is one, else the model's own dense coding; and against
    the naively sparsified one, since the paper does not say which is its base.
    """
    rows = []
    for (experiment, core), figures in found.items():
        if figures["model"] not in PAPER:
            continue
        for loops in ("", "_unrolled"):
            for name in ("dense", "naive"):
                base = _base(found, core, name)
                if base is not None:
                    coding = ("dense" if name == "dense" else "event") + loops
                    counts, said = base["codings"][coding], name
                elif name == "dense":
                    counts, said = figures["codings"][f"dense{loops}"], "own dense coding"
                else:
                    continue
                ours = figures["codings"][f"event{loops}"]
                rows.append(
                    [
                        *(experiment, figures["model"], core, said),
                        "unrolled" if loops else "plain",
                        *(f"{saved(ours, counts, metric):.1f}" for metric in METRICS),
                        " / ".join(f"{value:g}" for value in PAPER[figures["model"]]),
                    ]
                )
    if not rows:
        return []
    head = ["experiment", "model", "core", "against", "loops", "cycles", "instructions"]
    return table([*head, "memory accesses", "latency", "the paper's four"], rows, 5)


def findings(found: Simulations) -> list[str]:
    """Return what our figures say to the three findings of the paper, a line each."""
    lines = []
    for (experiment, core), figures in found.items():
        codings = figures["codings"]
        if "event" not in codings or not figures["sparsity"]:
            continue
        gain, sparsity = saved(codings["event"], codings["dense"]), 100 * figures["sparsity"]
        verdict = "confirmed" if gain < sparsity else "refuted"
        lines.append(
            f"- The gain is less than the sparsity: {verdict} for {experiment} on {core} "
            f"({gain:.1f} % of the cycles at {sparsity:.1f} % sparsity)."
        )
        rival = _base(found, core, "E")
        if figures["model"] == "S" and rival is not None:
            neurons, total = figures["parts"]["neuron"]["event"], codings["event"]
            share = 100 * neurons["memory"] / total["memory"]
            theirs = saved(rival["codings"]["event"], rival["codings"]["dense"])
            # the paper's S is sparser than its E and gains less
            verdict = "confirmed" if gain < theirs else "refuted"
            lines.append(
                f"- Membranes eat the gain of spikes: {verdict} for {experiment} on {core} (S "
                f"saves {gain:.1f} % of the cycles at {sparsity:.1f} % sparsity, E {theirs:.1f} % "
                f"at {100 * rival['sparsity']:.1f} %; neurons make {share:.1f} % of the accesses)."
            )
    for core in dict.fromkeys(core for _, core in found):
        plain, more = _base(found, core, "E"), _base(found, core, "E, optimized")
        if plain is None or more is None:
            continue
        gains = [saved(f["codings"]["event"], f["codings"]["dense"]) for f in (plain, more)]
        verdict = "confirmed" if gains[1] - gains[0] > 10 else "refuted"
        lines.append(
            f"- More points inside Mamba add over 10 %: {verdict} on {core} "
            f"({gains[0]:.1f} % to {gains[1]:.1f} %)."
        )
    return lines


def claims(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return both sections as lines of Markdown; nothing if no experiment has been simulated."""
    found = simulations(results)
    lines = []
    if rows := paper_table(found):
        lines += ["### Improvement beside Ahmed et al. (2026), Table II", "", *rows, ""]
    if said := findings(found):
        lines += ["### Findings of Ahmed et al. (2026)", "", *said, ""]
    return lines


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="benchmarks.claims", description=__doc__)
    parser.add_argument("expdir", type=Path, help="folder of experiments, as egs/fsdd/exp")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    results = []
    for experiment in find_experiments(options.expdir):
        path = experiment.path / "results.json"
        if path.is_file():
            results.append(read_json(path))
    lines = claims(results)
    if not lines:
        raise UserError(f"{options.expdir}: no simulated experiment", "run stage 13 (simulate)")
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
