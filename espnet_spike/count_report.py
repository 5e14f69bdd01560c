"""What the counts say, as tables. Light: no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("compute", "total")


def count_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines that the count command prints.

    Args:
        results: set -> what its ``count.json`` holds.
    """
    lines = []
    for name, result in results.items():
        rate = result["per_second"]
        lines.append(
            f"{name}: {result['utterances']} utterances, {result['audio_seconds']:.1f} s; encoder "
            f"{big(rate['synops'])} SynOps/s, {big(rate['macs'])} MAC/s "
            f"(dense {big(rate['dense_macs'])}), sparsity {percent(result, 'activations')} %"
        )
        for model, energy in result["energy"].items():
            for column in COLUMNS:
                found = energy[column]
                low, high = found["ratio_ci"]
                lines.append(
                    f"  {model:16s} {LABELS[column]:18s}"
                    f"{1e3 * found['joules_per_second']:10.4f} mJ/s, twin "
                    f"{1e3 * found['twin_joules_per_second']:10.4f}: {found['ratio']:.2f}x "
                    f"({low:.2f} .. {high:.2f})"
                )
        if result["uncovered"]:
            lines.append(f"  NOT COUNTED, no rule: {', '.join(sorted(result['uncovered']))}")
        if result["spikes_made_real"]:
            names = ", ".join(sorted(result["spikes_made_real"]))
            lines.append(f"  spikes taken for real values after: {names}")
        if result["skipped"]:
            lines.append(f"  too short for the encoder, not counted: {len(result['skipped'])}")
    return lines


LABELS = {"compute": "compute", "total": "compute + memory"}


def big(value: float) -> str:
    """Return a large number in three digits.

    >>> big(1234567), big(0)
    ('1.23 M', '0')
    """
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g}"


def percent(result: Mapping[str, Any], name: str) -> str:
    """Return a share of ``sparsity`` in %, a dash where there is none."""
    value = result["sparsity"][name]
    return "–" if value is None else f"{100 * value:.1f}"


def set_counts(count: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``results.json`` keeps of a ``count.json``."""
    return {
        "sparsity": count["sparsity"],
        "per_second": count["per_second"],
        "energy": {
            name: {
                "source": energy["model"]["source"],
                "technology": energy["model"]["technology"],
                "precision": energy["model"]["precision"],
                "warnings": energy["model"]["warnings"],
                "twin": energy["twin"],
                **{column: energy[column] for column in COLUMNS},
            }
            for name, energy in count["energy"].items()
        },
        "uncovered": sorted(count["uncovered"]),
        "execution": count["execution"],
        "fold_qk": count["fold_qk"],
    }


def energy_rows(results: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Return a row for every experiment, decoding, set and cost model that has been counted.

    Args:
        results: the ``results.json`` of the experiments.
    """
    rows = []
    for result in results:
        for tag, sets in result["decodes"].items():
            for name, figures in sets.items():
                for model, energy in figures.get("energy", {}).items():
                    rows.append(_row(result, tag, name, figures, model, energy))
    return rows


HEAD = ["experiment", "decoding", "set", "cost model", "parameters", "firing rate", "sparsity %"]
HEAD += ["SynOps/s", "MAC/s", "dense MAC/s"]
HEAD += ["compute mJ/s", "twin", "ratio", "95 %", "with memory mJ/s", "twin", "ratio", "95 %"]


def _row(
    result: Mapping[str, Any],
    tag: str,
    name: str,
    figures: Mapping[str, Any],
    model: str,
    energy: Mapping[str, Any],
) -> list[object]:
    rate, each = figures["sparsity"]["firing_rate"], figures["per_second"]
    row = [result["experiment"], tag, name, model, f"{result['parameters'] or 0:,}"]
    row += ["–" if rate is None else f"{rate:.3f}", percent(figures, "activations")]
    row += [big(each[key]) for key in ("synops", "macs", "dense_macs")]
    for column in COLUMNS:
        found = energy[column]
        low, high = found["ratio_ci"]
        mark = "" if found["ratio_ci_meaningful"] else " *"
        row += [
            f"{1e3 * found['joules_per_second']:.4g}",
            f"{1e3 * found['twin_joules_per_second']:.4g}",
            f"{found['ratio']:.2f}",
            f"{low:.2f} .. {high:.2f}{mark}",
        ]
    return row


def energy_notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the energy table has to know: sources and warnings."""
    models: dict[str, Mapping[str, Any]] = {}
    uncovered: set[str] = set()
    for result in results:
        for sets in result["decodes"].values():
            for figures in sets.values():
                models |= figures.get("energy", {})
                uncovered |= set(figures.get("uncovered", ()))
    lines = [
        "Of front end and encoder, without CTC and decoder, for a second of audio. compute: "
        "products alone, as papers print it; with memory: also everything element by element, and "
        "memory traffic. twin: the dense network of the same size (ReLU for spikes, nothing "
        "skipped); ratio: its energy over ours, 95 % by bootstrap over utterances or speakers; \\* "
        "marks fewer than 20 utterances.",
        "",
    ]
    for name, energy in sorted(models.items()):
        lines.append(
            f"- `{name}` ({energy['technology']}, {energy['precision']}): {energy['source']}. "
            + "; ".join(energy["warnings"])
        )
    if uncovered:
        lines.append(f"- operations without a rule, not counted: {', '.join(sorted(uncovered))}")
    return [*lines, ""]
