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
        if decoder := result.get("decoder"):
            each = decoder["per_token"]
            energy = next(iter(decoder["energy"].values()))
            lines.append(
                f"  decoder, {decoder['tokens']} tokens: {big(each['synops'])} SynOps, "
                f"{big(each['macs'])} MAC per token (dense {big(each['dense_macs'])}), sparsity "
                f"{percent(decoder, 'activations')} %, {1e6 * energy['compute']:.4g} uJ, with "
                f"memory {1e6 * energy['total']:.4g} uJ"
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
    value = result["sparsity"].get(name)
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
        "decoder": count.get("decoder"),
        "uncovered": sorted(count["uncovered"]),
        "execution": count["execution"],
        "fold_qk": count["fold_qk"],
    }


HEAD = ["experiment", "decoding", "set", "parameters", "firing rate", "sparsity %"]
HEAD += ["of points %", "by MACs %", "SynOps/s", "MAC/s", "dense MAC/s"]
HEAD += ["compute mJ/s", "twin", "ratio", "95 %", "with memory mJ/s", "twin", "ratio", "95 %"]


def energy_tables(
    results: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[str], list[list[object]]]]:
    """Return the tables on operations and energy: what stands above, head, rows.

    The main cost model, the first that was given to the count command, has a row for every
    experiment, decoding and set (a table for each, should experiments differ in it). The others
    follow in one table with as many rows.

    Args:
        results: the ``results.json`` of the experiments.
    """
    main: dict[str, list[list[object]]] = {}
    others: list[tuple[list[object], dict[str, Mapping[str, Any]]]] = []
    for result in results:
        for tag, sets in result["decodes"].items():
            counted = {name: figures for name, figures in sets.items() if figures.get("energy")}
            for name, figures in counted.items():
                model, energy = next(iter(figures["energy"].items()))
                main.setdefault(model, []).append(_row(result, tag, name, figures, energy))
                rest = dict(list(figures["energy"].items())[1:])
                others.append(([result["experiment"], tag, name], rest))
    tables = [(f"Prices: `{model}`.", HEAD, rows) for model, rows in main.items()]
    if models := list(dict.fromkeys(model for _, rest in others for model in rest)):
        head = ["experiment", "decoding", "set"]
        head += [f"{model}{memory}" for model in models for memory in ("", ", with memory")]
        rows = [
            first + [_short(rest.get(model), column) for model in models for column in COLUMNS]
            for first, rest in others
            if rest
        ]
        title = "Other prices: mJ/s, and how many times less that is than of the twin."
        tables.append((title, head, rows))
    return tables


DECODER_NOTE = (
    "Decoders, for each token of the hypothesis that was kept: run over the whole of it once, "
    "<sos> among the tokens, with keys and values of the utterance. What further hypotheses of the "
    "beam, CTC and a language model cost is not in it."
)
DECODER_HEAD = ["experiment", "decoding", "set", "tokens", "firing rate", "sparsity %"]
DECODER_HEAD += ["of points %", "by MACs %", "SynOps", "MAC", "dense MAC", "compute µJ"]
DECODER_HEAD += ["with memory µJ"]


def decoder_rows(results: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Return a row under ``DECODER_HEAD`` for every counted decoder, by the main cost model.

    Args:
        results: the ``results.json`` of the experiments.
    """
    return [
        [result["experiment"], tag, name, *decoder_cells(figures["decoder"])]
        for result in results
        for tag, sets in result["decodes"].items()
        for name, figures in sets.items()
        if figures.get("decoder")
    ]


def decoder_cells(decoder: Mapping[str, Any]) -> list[str]:
    """Return the cells of a decoder from ``tokens`` on, under ``DECODER_HEAD``."""
    rate, each = decoder["sparsity"]["firing_rate"], decoder["per_token"]
    energy = next(iter(decoder["energy"].values()))
    return [
        f"{decoder['tokens']:,}",
        "–" if rate is None else f"{rate:.3f}",
        *(percent(decoder, key) for key in ("activations", "points", "points_by_macs")),
        *(big(each[key]) for key in ("synops", "macs", "dense_macs")),
        *(f"{1e6 * energy[column]:.4g}" for column in COLUMNS),
    ]


def _short(energy: Mapping[str, Any] | None, column: str) -> str:
    if energy is None:
        return "–"
    found = energy[column]
    return f"{1e3 * found['joules_per_second']:.3g} ({found['ratio']:.2f})"


def _row(
    result: Mapping[str, Any],
    tag: str,
    name: str,
    figures: Mapping[str, Any],
    energy: Mapping[str, Any],
) -> list[object]:
    rate, each = figures["sparsity"]["firing_rate"], figures["per_second"]
    row = [result["experiment"], tag, name, f"{result['parameters'] or 0:,}"]
    row.append("–" if rate is None else f"{rate:.3f}")
    row += [percent(figures, key) for key in ("activations", "points", "points_by_macs")]
    row += [big(each[key]) for key in ("synops", "macs", "dense_macs")]
    for column in COLUMNS:
        found = energy[column]
        row += [
            f"{1e3 * found['joules_per_second']:.4g}",
            f"{1e3 * found['twin_joules_per_second']:.4g}",
            *ratio_cells(found),
        ]
    return row


def ratio_cells(found: Mapping[str, Any]) -> list[str]:
    """Return the ratio of the twin's energy to ours, and its interval; a star: few utterances."""
    low, high = found["ratio_ci"]
    star = "" if found["ratio_ci_meaningful"] else " *"
    return [f"{found['ratio']:.2f}", f"{low:.2f} .. {high:.2f}{star}"]


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
        "Of front end and encoder, without CTC and decoder, for a second of audio. sparsity: zeros "
        "among all that neurons and activations emit; of points: mean over the FATReLU points, all "
        "alike, and weighted by the MACs that each feeds. compute: "
        "products alone, as papers print it; with memory: also everything element by element, and "
        "memory traffic. twin: the dense network of the same size (ReLU for spikes, nothing "
        "skipped); ratio: its energy over ours, 95 % by bootstrap over utterances or speakers of "
        "one training; \\* marks fewer than 20 utterances.",
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
