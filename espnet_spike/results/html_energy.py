"""The part of the report on operations and energy, from what stage 12 counted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from espnet_spike.results.energy_tables import (
    AGAIN,
    BASELINES,
    DECODER_HEAD,
    DECODER_NOTE,
    baselines,
    columns_of,
    decoder_cells,
    joules_per_second,
    twin_name,
)
from espnet_spike.results.figures import energy_by_layer
from espnet_spike.results.formatting import without_blanks
from espnet_spike.results.html import Html, definitions, el, figure, missing, table
from espnet_spike.utils.files import plural

COUNTED = ("front_end", "encoder")
PICO, MICRO, MEGA = 1e-12, 1e-6, 1e6


def layer_energy(count: Mapping[str, Any], model: str) -> dict[str, tuple[float, float]]:
    """Return layer -> energy of its products and of the same ones with nothing skipped, uJ/s.

    Args:
        count: a ``count.json``.
        model: name of one of its cost models.
    """
    if layers := count["energy"][model].get("layers"):
        return {layer: (ours / MICRO, dense / MICRO) for layer, (ours, dense) in layers.items()}
    prices = count["energy"][model]["model"]["operations"]
    found: dict[str, tuple[float, float]] = {}
    for row in count["layers"]:
        if row["part"] not in COUNTED or not row["dense_macs"]:
            continue
        ours = row["macs"] * prices["mac"] + row["acs"] * prices["ac"]
        dense = row["dense_macs"] * prices["mac"]
        before = found.get(row["layer"], (0.0, 0.0))
        scale = PICO / MICRO / count["audio_seconds"]
        found[row["layer"]] = (before[0] + scale * ours, before[1] + scale * dense)
    return found


def energy_parts(counts: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    """Return the section.

    Args:
        counts: set -> its ``count.json``.
    """
    name, first = next(iter(counts.items()))
    model = next(iter(first["energy"]))
    caption = (
        f"Energy of the products (weights, attention, scan) of each layer, set {name}, cost model "
        f"{model}. Diamonds: the same products as multiply-accumulates with nothing skipped."
    )
    parts = [
        energy_table(counts),
        el(
            "p",
            "Front end and encoder, for a second of audio, without CTC and decoder. Ratio: energy "
            "over ours; 95 % by bootstrap; * fewer than 20 utterances. Of one training. Trained "
            f"twin: {twin_name(first)}. Dense twin: {first['energy'][model]['twin']}, the "
            "literature's comparison. T + 1 levels: ours as integers, each that is not zero "
            "multiplied once.",
            class_="note",
        ),
        figure(energy_by_layer(layer_energy(first, model)), caption),
        el("h3", f"Operations by kind, set {name}"),
        operation_table(first),
        el(
            "p",
            f"Millions for a second of audio. {_execution(first)} An integer count of m spikes "
            "costs m accumulates.",
            class_="note",
        ),
    ]
    decoders = {name: count["decoder"] for name, count in counts.items() if count.get("decoder")}
    if decoders:
        rows = [
            [name, *decoder_cells(decoder, counts[name]["energy"])]
            for name, decoder in decoders.items()
        ]
        parts += [
            el("h3", "Decoder"),
            table(*without_blanks(DECODER_HEAD[2:], rows), label="decoder"),
            el("p", DECODER_NOTE, class_="note"),
        ]
    uncovered = sorted({key for count in counts.values() for key in count["uncovered"]})
    if uncovered:
        parts.append(missing(f"Not counted, no rule: {', '.join(uncovered)}."))
    lost = sorted({key for count in counts.values() for key in count["spikes_made_real"]})
    if lost:
        parts.append(missing(f"Spikes taken for real values after: {', '.join(lost)}."))
    return [*parts, el("h3", "Cost models"), *map(cost_model, first["energy"].values())]


def energy_table(counts: Mapping[str, Mapping[str, Any]]) -> Html:
    """Return a row for each set, cost model and column."""
    rows = []
    for name, count in counts.items():
        for model, energy in count["energy"].items():
            for label, found in columns_of(energy):
                ours = joules_per_second(found)
                row: list[object] = [name, model, label]
                row.append(AGAIN if ours is None else f"{ours / MICRO:.3g}")
                for millijoules, ratio, interval in baselines(found):
                    there = re.fullmatch(r"[\d.e+-]+", millijoules)
                    micro = f"{1e3 * float(millijoules):.3g}" if there else millijoules
                    row += [micro, ratio, interval]
                rows.append(row)
    head = ["set", "cost model", "energy of", "ours, µJ/s"]
    for title in BASELINES.values():
        head += [f"{title}, µJ/s", "ratio", "95 %"]
    return table(*without_blanks(head, rows), left=3, label="energy")


def operation_table(count: Mapping[str, Any]) -> Html:
    """Return a row for each kind of operator of front end and encoder."""
    columns = {
        "dense_macs": "dense MAC",
        "macs": "MAC",
        "acs": "accumulates (SynOps)",
        "multiplies": "element-wise multiplies",
        "updates": "neuron updates",
        "bytes_read": "bytes read",
        "bytes_written": "bytes written",
    }
    sums: dict[str, dict[str, float]] = {}
    for part in COUNTED:
        for kind, figures in count["operators"].get(part, {}).items():
            into = sums.setdefault(kind, dict.fromkeys(columns, 0.0))
            for column in columns:
                into[column] += figures[column]
    scale = 1 / (MEGA * count["audio_seconds"])
    rows = [
        [kind.replace("_", " "), *(_cell(scale * figures[column]) for column in columns)]
        for kind, figures in sums.items()
    ]
    total = {column: sum(figures[column] for figures in sums.values()) for column in columns}
    rows.append(["all", *(_cell(scale * value) for value in total.values())])
    return table(["operator", *columns.values()], rows, label="operations")


def _execution(count: Mapping[str, Any]) -> str:
    chosen = [f"{key} {value}" for key, value in count["execution"].items() if value is not None]
    merged = "merged" if count["fold_qk"] else "apart"
    return f"Run {', '.join(chosen) or 'as trained'}, W_Q and W_K {merged}."


def _cell(value: float) -> str:
    return "–" if not value else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def cost_model(energy: Mapping[str, Any]) -> Html:
    """Return a cost model with all that has to be known of it."""
    model: Mapping[str, Any] = energy["model"]
    operations = model.get("prices", model["operations"])
    prices = ", ".join(f"{name} {price:g}" for name, price in operations.items())
    warnings: Sequence[str] = model["warnings"]
    pairs = [
        ("technology", f"{model['technology']}, {model['precision']}"),
        ("source", model["source"]),
        ("prices, pJ", prices),
        ("rules", ", ".join(f"{key} {value}" for key, value in model.get("rules", {}).items())),
        ("note", "; ".join(warnings)),
    ]
    summary = el("summary", f"{model['name']}: {model['title']}")
    return el("details", summary, definitions(pairs), open="")


def count_provenance(count: Mapping[str, Any]) -> list[tuple[object, object]]:
    """Return how the operations were counted, for the list at the page's end."""
    environment = count["environment"]
    seconds = f"{plural(count['utterances'], 'utterance')}, {count['audio_seconds']:.1f} s of audio"
    versions = f"torch {environment['torch']}, git {environment['git']}"
    return [
        ("operations counted", f"{count['checkpoint']} on {seconds}, {count['finished']}"),
        ("counted with", versions),
        ("decoder was run on", count["decoder_input"] or "no decoder"),
    ]
