"""One table over experiments: error rates beside what they cost.

Reads the ``results.json`` that stage 14 leaves and the scores beside it; computes nothing that has
not been measured by the stages before.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.experiment import read_epochs
from espnet_spike.results.breakdown import (
    Breakdown,
    breakdowns,
    training_texts,
    word_frequency,
)
from espnet_spike.results.comparison import compare, pool
from espnet_spike.results.energy_tables import (
    AGAIN,
    BASELINES,
    COUNT_AGAIN,
    big,
    by_earlier_rules,
    is_dense,
)
from espnet_spike.results.experiments import RESULTS, read_results
from espnet_spike.utils.files import present

ENERGY_MODEL = "horowitz45_fp32"
HEAD = (
    *("experiment", "set", "WER %", "95 % interval", "P(better)", "parameters", "firing rate"),
    *("sparsity %", "SynOps/s", "compute mJ/s", "trained twin / compute", "dense twin / compute"),
    *("T + 1 levels / compute", "with memory mJ/s", "trained twin / memory", "dense twin / memory"),
    "RTF",
)
ABSENT = "–"


@dataclass(frozen=True)
class Row:
    """An experiment's figures on one set.

    Attributes:
        experiment, set: names.
        figures: what ``results.json`` holds of the set.
        parameters: of the whole model.
        p_better: probability that the experiment makes fewer errors than the first one, from a
            paired bootstrap over utterances: of these two trainings; None for the first.
        set_dir: ``exp/asr_<tag>/<inference_tag>/<set>``.
    """

    experiment: str
    set: str
    figures: Mapping[str, Any]
    parameters: int | None
    p_better: float | None
    set_dir: Path

    def values(self, energy_model: str) -> dict[str, Any]:
        """Return the row's figures by name, unrounded; None for what has not been measured."""
        figures = self.figures
        sparsity, each = figures.get("sparsity", {}), figures.get("per_second", {})
        energy = figures.get("energy", {}).get(energy_model)
        compute, total = {}, {}
        if energy is not None and not self.by_earlier_rules(energy_model):
            compute, total = energy["compute"], energy["total"]
        return {
            "experiment": self.experiment,
            "set": self.set,
            "wer": figures["wer"],
            "wer_low": figures["wer_ci"][0],
            "wer_high": figures["wer_ci"][1],
            "p_better": self.p_better,
            "parameters": self.parameters,
            "firing_rate": sparsity.get("firing_rate"),
            "sparsity": sparsity.get("activations"),
            "synops_per_second": each.get("synops"),
            "compute_joules_per_second": compute.get("joules_per_second"),
            "total_joules_per_second": total.get("joules_per_second"),
            "twin_over_compute": compute.get("ratio"),
            "trained_twin_over_compute": _ratio(compute, "trained_twin"),
            "quantised_over_compute": _ratio(compute, "quantised"),
            "twin_over_total": total.get("ratio"),
            "trained_twin_over_total": _ratio(total, "trained_twin"),
            "rtf": figures.get("rtf"),
        }

    def by_earlier_rules(self, energy_model: str) -> bool:
        """Tell whether the energy was counted by earlier rules, and stands in no column."""
        energy = self.figures.get("energy", {}).get(energy_model)
        return energy is not None and by_earlier_rules(energy["compute"])

    def cells(self, energy_model: str) -> list[str]:
        """Return the row's cells for a reader, as named by ``HEAD``."""
        v = self.values(energy_model)
        earlier = self.by_earlier_rules(energy_model)

        def priced(value: float | None, form: str, factor: float = 1) -> str:
            return AGAIN if earlier else _number(value, form, factor)

        mark = "" if self.figures["wer_ci_meaningful"] else " *"
        dense = is_dense(self.figures.get("energy", {}).get(energy_model) or {})
        over = dict.fromkeys(v).get if dense else v.get  # of a dense model no ratio means anything
        return [
            *(self.experiment, self.set, f"{v['wer']:.2f}"),
            f"{v['wer_low']:.2f} .. {v['wer_high']:.2f}{mark}",
            _number(v["p_better"], ".3f"),
            _number(v["parameters"], ","),
            _number(v["firing_rate"], ".3f"),
            _number(v["sparsity"], ".1f", 100),
            ABSENT if v["synops_per_second"] is None else big(v["synops_per_second"]),
            priced(v["compute_joules_per_second"], ".4g", 1e3),
            *(priced(over(f"{name}_over_compute"), ".2f") for name in BASELINES),
            priced(v["total_joules_per_second"], ".4g", 1e3),
            *(priced(over(f"{name}_over_total"), ".2f") for name in ("trained_twin", "twin")),
            _number(v["rtf"], ".4f"),
        ]


def _ratio(energy: Mapping[str, Any], name: str) -> float | None:
    """Return the energy of a baseline over ours; None where there is none."""
    return ((energy.get("against") or {}).get(name) or {}).get("ratio")


def _number(value: float | None, form: str, factor: float = 1) -> str:
    return ABSENT if value is None else format(factor * value, form)


def read_rows(exp_dirs: Sequence[Path], inference_tag: str | None = None) -> list[Row]:
    """Return a row for every set and experiment, set by set.

    Args:
        exp_dirs: ``exp/asr_<tag>`` folders; the others are compared with the first.
        inference_tag: the decoding to take; None for each experiment's newest.

    Raises:
        UserError: an experiment without results, or no set that all have.
    """
    found = {}
    for folder in exp_dirs:
        if not present(folder / RESULTS):
            raise UserError(f"{folder} has no {RESULTS}", "run --stage report for it first")
        results = read_results(folder)
        if "decodes" not in results:  # stage simulate leaves one, too
            raise UserError(
                f"{folder / RESULTS} has no error rates", "run --stage report for it first"
            )
        tag = inference_tag or results["inference_tag"]
        if tag not in results["decodes"]:
            there = ", ".join(results["decodes"])
            raise UserError(f"{folder}: no decoding {tag!r}", f"there are: {there}")
        found[folder] = results, tag
    sets = [set(results["decodes"][tag]) for results, tag in found.values()]
    common = sorted(set.intersection(*sets))
    if not common:
        raise UserError("the experiments have no decoded set in common", "decode the same sets")
    first_dir, (_, first_tag) = next(iter(found.items()))
    rows = []
    for name in common:
        first = pool([first_dir / first_tag / name])
        for folder, (results, tag) in found.items():
            better = None
            if folder != first_dir:
                better = compare(first, pool([folder / tag / name])).p_second_better
            rows.append(
                Row(
                    results["experiment"],
                    name,
                    results["decodes"][tag][name],
                    results["parameters"],
                    better,
                    folder / tag / name,
                )
            )
    return rows


def notes(rows: Sequence[Row], energy_model: str) -> list[str]:
    """Return what a reader of the table has to know."""
    profiles = sorted({row.figures["normalization"] for row in rows})
    lines = [
        f"P(better): probability of fewer errors than {rows[0].experiment}, by a paired bootstrap "
        "over the same utterances. Interval: bootstrap; * under 20 utterances. Each row is one "
        "training: neither says anything about another training of the same (several seeds: "
        "compare_decodes --group). SynOps and energy: "
        "front end and encoder, for a second of audio. Trained twin: the same network with ReLUs, "
        "its zeros skipped as ours are; dense twin: nothing skipped, the literature's comparison; "
        "T + 1 levels: ours as integers, each multiplied once; – none given, or none there. "
        "RTF: seconds of encoder and beam search for a second of audio. "
        f"Text normalization: {', '.join(profiles)}."
    ]
    sources = {
        f"{energy['source']}, {energy['technology']}"
        for row in rows
        if (energy := row.figures.get("energy", {}).get(energy_model)) is not None
    }
    if any(row.by_earlier_rules(energy_model) for row in rows):
        lines.append(COUNT_AGAIN)
    if sources:
        lines.append(f"Cost model {energy_model}: {'; '.join(sorted(sources))}.")
    else:
        lines.append(f"No experiment has been counted under {energy_model} (--stage count).")
    return lines


def to_markdown(rows: Sequence[Row], energy_model: str) -> str:
    """Return the table and its notes as Markdown."""
    from espnet_spike.results.formatting import table

    cells = [row.cells(energy_model) for row in rows]
    return "\n".join([*table(HEAD, cells, left=2), "", *notes(rows, energy_model), ""])


def _folder(row: Row) -> Path:
    return row.set_dir.parents[1]


def _names(rows: Sequence[Row]) -> dict[Path, str]:
    """Return the name of each experiment; where two have the same, with their folders."""
    names = {_folder(row): row.experiment for row in rows}
    if len(set(names.values())) < len(names):
        return {folder: str(folder) for folder in names}
    return names


def read_breakdowns(rows: Sequence[Row]) -> list[Breakdown]:
    """Return rates by length, speaker and word frequency, the latter in the first one's training.

    Raises:
        UserError: the scores of an experiment are missing.
    """
    found = []
    names = _names(rows)
    texts = training_texts(_folder(rows[0]))
    for name in dict.fromkeys(row.set for row in rows):
        systems = {names[_folder(row)]: row.set_dir for row in rows if row.set == name}
        profile = next(row.figures["normalization"] for row in rows if row.set == name)
        found += breakdowns(systems, word_frequency(texts, profile))
    return found


def breakdown_lines(rows: Sequence[Row]) -> str:
    """Return the rates by length, speaker and word frequency as Markdown."""
    from espnet_spike.results.formatting import table

    lines = []
    for one in read_breakdowns(rows):
        lines += [f"### {one.title}", "", *table(one.head, one.rows), ""]
    return "\n".join(lines)


def learning_curves(rows: Sequence[Row]) -> list[str]:
    """Return a figure for each statistic of validation, all experiments on one axis.

    One that an experiment has not recorded has no curve of it.
    """
    from espnet_spike.results.figures import LEARNING, curves

    epochs = {
        name: {epoch["epoch"]: epoch.get("valid", {}) for epoch in read_epochs(folder)}
        for folder, name in _names(rows).items()
    }
    x = sorted({number for recorded in epochs.values() for number in recorded})
    found = []
    for key, name, label, factor in LEARNING:
        series = {}
        for experiment, recorded in epochs.items():
            values = [recorded.get(number, {}).get(key) for number in x]
            if any(value is not None for value in values):
                series[experiment] = [None if v is None else factor * v for v in values]
        if series:
            found.append(curves(name, label, x, series))
    return found


def to_csv(rows: Sequence[Row], energy_model: str) -> str:
    """Return the figures unrounded as CSV; the first line names the columns, SI units."""
    out = io.StringIO()
    values = [row.values(energy_model) for row in rows]
    writer = csv.DictWriter(out, list(values[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    return out.getvalue()


def to_html(rows: Sequence[Row], energy_model: str) -> str:
    """Return the table as one page that needs nothing beside itself."""
    from espnet_spike.results import html

    cells = [row.cells(energy_model) for row in rows]
    title = "Experiments compared"
    body = [html.el("p", note) for note in notes(rows, energy_model)]
    whole = html.table(HEAD, cells, left=2, label=title)
    figures = [html.figure(svg, None) for svg in learning_curves(rows)]
    if figures:
        body.append(html.el("h2", "Learning, on the validation set"))
        body.append(html.el("div", *figures, class_="columns figures"))
    body.append(html.el("h2", "Where the errors are"))
    for one in read_breakdowns(rows):
        body += [html.el("h3", one.title), html.table(one.head, one.rows, label=one.title)]
    return html.page(title, html.el("h1", title), whole, *body)
