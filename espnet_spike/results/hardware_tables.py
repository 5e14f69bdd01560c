"""The part of ``RESULTS.md`` on hardware cycles, from the ``simulate`` of each ``results.json``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Simulations = dict[tuple[str, str], Mapping[str, Any]]
HOT_SPOTS = 3
METRICS = ("cycles", "instructions", "memory", "latency_ms")
# improvement over the base model in %, Table II of paper B (arXiv 2606.01135)
PAPER = {
    "E": (32.32, 14.30, 17.57, 29.78),
    "S": (19.58, 14.0, 7.63, 17.9),
    "E, optimized": (46.13, 26.9, 28.50, 37.5),
}
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
    if paper := paper_table(found):
        lines += ["### Improvement beside paper B, Table II", "", *paper, ""]
    if claims := findings(found):
        lines += ["### Findings of paper B", "", *claims, ""]
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


def _base(found: Simulations, core: str, model: str) -> Mapping[str, Any] | None:
    same = [f for (_, c), f in found.items() if c == core and f["model"] == model]
    return same[0] if same else None


def paper_table(found: Simulations) -> list[str]:
    """Return the improvements of the event-driven models beside those that paper B prints.

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
    return _table([*head, "memory accesses", "latency", "the paper's four"], rows, 5)


def findings(found: Simulations) -> list[str]:
    """Return what our figures say to the three findings of paper B, a line each."""
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
