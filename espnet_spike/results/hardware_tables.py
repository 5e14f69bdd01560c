"""The part of ``RESULTS.md`` on hardware cycles, from the ``simulate`` of each ``results.json``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Simulations = dict[tuple[str, str], Mapping[str, Any]]
HOT_SPOTS = 3
METRICS = ("cycles", "instructions", "memory", "latency_ms")
CODINGS = {
    "dense": "dense, plain loops",
    "dense_unrolled": "dense, unrolled",
    "event": "events, plain loops",
    "event_unrolled": "events, unrolled",
    "spike": "binary spikes, plain loops",
    "spike_unrolled": "binary spikes, unrolled",
}


def saved(figures: Mapping[str, float], base: Mapping[str, float], metric: str = "cycles") -> float:
    """Return 100 (1 - metric / metric of the baseline)."""
    return 100 * (1 - figures[metric] / base[metric])


def simulations(results: Sequence[Mapping[str, Any]]) -> Simulations:
    """Return (experiment, core) -> its simulation."""
    return {
        (result["experiment"], core): figures
        for result in results
        for core, figures in result.get("simulate", {}).items()
    }


def simulation_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section on hardware cycles; nothing if no experiment has been simulated."""
    found = simulations(results)
    if not found:
        return []
    lines = ["## Hardware cycles", "", *overview(found), "", *_notes(found), ""]
    lines += ["### Where the cycles go", "", *parts_table(found), ""]
    return [*lines, "### Cycles by layer", "", *layers_table(found), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int) -> list[str]:
    from espnet_spike.results.formatting import table

    return table(head, rows, left)


def overview(found: Simulations) -> list[str]:
    """Return a row for every experiment, core and coding."""
    rows = []
    for (experiment, core), figures in found.items():
        codings = figures["codings"]
        for coding, counts in codings.items():
            rows.append(
                [
                    *(experiment, figures["model"], core, CODINGS[coding]),
                    *(f"{counts[metric]:.0f}" for metric in METRICS[:3]),
                    *(f"{counts['latency_ms']:.2f}", f"{counts['energy_uj']:.1f}"),
                    *(f"{saved(counts, codings[base]):.1f}" for base in list(CODINGS)[:2]),
                ]
            )
    head = ["experiment", "model", "core", "coding", "cycles", "instructions", "loads + stores"]
    head += [
        "latency, ms",
        "energy, µJ",
        "cycles saved, %, against dense plain",
        "against dense unrolled",
    ]
    return _table(head, rows, 4)


def _notes(found: Simulations) -> list[str]:
    def each(what: Callable[[Mapping[str, Any]], str]) -> str:
        """Return all that simulations say of something, each once."""
        return "; ".join(dict.fromkeys(map(what, found.values())))

    worst = max(f["fit"]["held_out_max"] for f in found.values())
    error = max(f["fit"]["float_error_max"] for f in found.values())
    clocks = each(lambda f: f"{f['hardware']['clock_mhz']:g} MHz")
    operands = each(
        lambda f: f"{f['utterances']} utterances ({f['frames']} frames) of `{f['data']}`"
    )
    return [
        "For a frame of the encoder's output, by the core's own counters. "
        f"{each(lambda f: ', '.join(f['versions']))}; "
        f"flags {each(lambda f: '`' + ' '.join(f['flags']) + '`')}. "
        "int8 weights, int16 activations, int32 "
        f"accumulators; latency at {clocks}; energy is an estimate by "
        f"{each(lambda f: f['energy'])}. Replay-extrapolated: calls on real operands of "
        f"{operands} ran on the core, every output was bit for bit the model's and within "
        f"{100 * error:.1f} % (root mean square) of the float layer; costs are affine in events, "
        f"on calls left out of the fit within {100 * worst:.2f} %. Memory answers in one cycle "
        "unless the core has wait states, which is an ideal."
    ]


def parts_table(found: Simulations) -> list[str]:
    """Return cycles by sub-module, dense and event-driven, hot spots in bold."""
    rows = []
    for (experiment, core), figures in found.items():
        best = "event_unrolled" if "event_unrolled" in figures["codings"] else "dense_unrolled"
        total = figures["codings"][best]["cycles"]
        parts = {name: forms for name, forms in figures["parts"].items() if best in forms}
        hot = sorted(parts, key=lambda name: -parts[name][best]["cycles"])[:HOT_SPOTS]
        for name, forms in parts.items():
            share = 100 * forms[best]["cycles"] / total
            dense = forms.get("dense_unrolled")
            rows.append(
                [
                    *(experiment, core, f"**{name}**" if name in hot else name),
                    f"{dense['cycles']:.0f}" if dense else "–",
                    *(f"{forms[best][metric]:.0f}" for metric in ("cycles", "memory")),
                    f"{share:.1f}",
                    f"{saved(forms[best], dense):.1f}" if dense else "–",
                ]
            )
    head = ["experiment", "core", "sub-module", "dense", "event-driven", "loads + stores"]
    return _table([*head, "share, %", "saved, %"], rows, 3)


def layers_table(found: Simulations) -> list[str]:
    """Return cycles by block; 0 is the front end and what follows the blocks."""
    rows = []
    for (experiment, core), figures in found.items():
        best = "event_unrolled" if "event_unrolled" in figures["codings"] else "dense_unrolled"
        for layer, forms in sorted(figures["layers"].items(), key=lambda item: int(item[0])):
            dense, event = forms["dense_unrolled"], forms[best]
            gain = saved(event, dense)
            counts = f"{dense['cycles']:.0f}", f"{event['cycles']:.0f}"
            rows.append([experiment, core, layer, *counts, f"{gain:.1f}"])
    head = ["experiment", "core", "layer", "dense", "event-driven", "saved, %"]
    return _table(head, rows, 2)
