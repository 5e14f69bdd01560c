"""The part of a report on hardware cycles, from the ``simulate`` of each ``results.json``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espnet_spike.results import formatting
from espnet_spike.results.hardware_findings import (
    LOOPS,
    METRICS,
    Gain,
    Group,
    Simulations,
    best,
    gain,
    groups,
    naive_gain,
    parts_of,
    saved,
    simulations,
    sparsity_of,
    whole,
)
from espnet_spike.utils.files import plural

HOT_SPOTS = 3
ABSENT = "–"
KINDS = {"dense": "dense", "event": "events", "spike": "binary spikes"}
MEMORY_OF = {"weights": 0, "activations": 0, "state": 0, "fetches": 0}  # figure -> digits
MEMORY = ("weights", "activations", "state", "instruction words")
LOOP_NAMES = {"": "plain loops", "_unrolled": "unrolled", "_blocked": "blocked"}
CODINGS = {k + loop: f"{kind}, {LOOP_NAMES[loop]}" for k, kind in KINDS.items() for loop in LOOPS}
MODELS = {
    "dense": "SpeechMamba, dense",
    "naive": "SpeechMamba, naively sparse",
    "E": "E-SpeechMamba, event-driven",
    "E, optimized": "E-SpeechMamba, optimized",
    "S": "S-SpeechMamba, spiking",
}
PARTS = {  # in the order of the network, with the names that tables have
    "norm": "norm",
    "in_proj": "in_proj",
    "conv1d": "conv",
    "x_proj": "x_proj",
    "dt_proj": "dt_proj",
    "scan": "scan",
    "gate": "gate",
    "out_proj": "out_proj",
    "neuron": "neuron, threshold",
    "qkv": "attention, Q K V",
    "attention": "attention, map",
    "attention output": "attention, output",
    "convolution module": "convolution module",
    "feed-forward": "feed-forward",
    "residual": "residual",
    "front end": "front end",
}


@dataclass(frozen=True)
class Table:
    """A table for Markdown or HTML.

    Attributes:
        title: of its section.
        head: names of the columns.
        rows: cells.
        left: how many columns are text; the others are numbers.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    left: int


def model_label(name: str) -> str:
    """Return what a table calls a model whose name in ``results.json`` is short."""
    return MODELS.get(name, name)


def simulation_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section on hardware cycles; nothing if no experiment has been simulated."""
    found = simulations(results)
    if not found:
        return []
    first, *others = hardware_tables(found)
    lines = ["## Hardware cycles", "", *markdown(first), "", notes(found), ""]
    for table in others:
        lines += [f"### {table.title}", "", *markdown(table), ""]
    return lines


def markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown."""
    return formatting.table(table.head, table.rows, table.left)


def hardware_tables(found: Simulations) -> list[Table]:
    """Return all tables that the simulations allow."""
    tables = [overview(found), gains_table(found), parts_table(found), layers_table(found)]
    return [table for table in tables if table.rows]


def overview(found: Simulations) -> Table:
    """Return a row for every experiment, core and coding."""
    rows = []
    for (experiment, core), figures in found.items():
        codings = figures["codings"]
        bases = ["dense" + loop for loop in reversed(LOOPS)]
        for coding, counts in codings.items():
            rows.append(
                [
                    *(experiment, model_label(figures["model"]), core, CODINGS[coding]),
                    *(f"{counts[metric]:.0f}" for metric in METRICS[:3]),
                    *(f"{counts['latency_ms']:.2f}", f"{counts['energy_uj']:.1f}"),
                    *(_saved(counts, codings.get(base)) for base in bases),
                ]
            )
    head = ["experiment", "model", "core", "coding", "cycles", "instructions", "loads + stores"]
    head += ["latency, ms", "energy, µJ", "cycles saved, %, against dense plain"]
    return Table(
        "Hardware cycles", [*head, "against dense unrolled", "against dense blocked"], rows, 4
    )


def _saved(
    figures: Mapping[str, float], base: Mapping[str, float] | None, metric: str = "cycles"
) -> str:
    return ABSENT if base is None or not base[metric] else _percent(saved(figures, base, metric))


def _percent(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # no -0.0


def notes(found: Simulations) -> str:
    """Return how the figures were made."""

    def each(what: Callable[[Mapping[str, Any]], str]) -> str:
        """Return all that simulations say of something, each once."""
        return "; ".join(dict.fromkeys(map(what, found.values())))

    worst = max(f["fit"]["held_out_max"] for f in found.values())
    error = max(f["fit"]["float_error_max"] for f in found.values())
    clocks = each(lambda f: f"{f['hardware']['clock_mhz']:g} MHz")
    operands = each(
        lambda f: (
            f"{plural(f['utterances'], 'utterance')} ({plural(f['frames'], 'frame')}) of "
            f"`{f['data']}`"
        )
    )
    loose = {kernel: None for f in found.values() for kernel in f["fit"].get("not_fitted", [])}
    chosen = {CODINGS[best(f, kind)]: None for f in found.values() for kind in ("dense", "event")}
    # what simulations of before this was recorded left out is not known
    absent = {part: None for f in found.values() for part in f.get("left_out", [])}
    return (
        "For a frame of the encoder's output, by the core's own counters. "
        + (f"Front end and encoder, without {', '.join(absent)}. " if absent else "")
        + f"{each(lambda f: ', '.join(f['versions']))}; "
        f"flags {each(lambda f: '`' + ' '.join(f['flags']) + '`')}. "
        "int8 weights, int16 activations, int32 "
        f"accumulators; latency at {clocks}; energy is an estimate by "
        f"{each(lambda f: f['energy'])}. Replay-extrapolated: calls on real operands of "
        f"{operands} ran on the core, every output was bit for bit the model's and within "
        f"{100 * error:.1f} % (root mean square) of the float layer; costs are affine in events, "
        f"on calls left out of the fit within {100 * worst:.2f} %"
        + (f", beyond 2 % and so not fitted: {', '.join(loose)}" if loose else "")
        + ". Memory answers in one cycle "
        "unless the core has wait states, which is an ideal. Blocked loops have several outputs in "
        "registers; the tables below are in the loops of each kind that took the fewest cycles: "
        f"{'; '.join(chosen)}."
    )


def gains_table(found: Simulations) -> Table:
    """Return what event-driven models save against the dense and the naively sparse model."""
    rows = []
    for group in groups(found):
        for experiment, figures in group.members.items():
            if best(figures, "event").startswith("dense"):
                continue
            against = [gain(group, figures)]
            if figures["model"] != "naive" and (naive := naive_gain(group, figures)) is not None:
                against.append(naive)
            rows += [_gain_row(group, experiment, each) for each in against]
    head = ["experiment", "model", "core", "scan states", "against", "sparsity, %"]
    head += ["cycles saved, %", "instructions", "loads + stores", "latency"]
    return Table("What events save in the blocks", head, rows, 5)


def _gain_row(group: Group, experiment: str, found: Gain) -> list[str]:
    figures = found.figures
    return [
        *(experiment, model_label(figures["model"]), group.core, _states(group)),
        *(found.against, f"{100 * sparsity_of(figures):.1f}"),
        *(_percent(found.saved[metric]) for metric in METRICS),
    ]


def _states(group: Group) -> str:
    return ABSENT if group.states is None else str(group.states)


def parts_table(found: Simulations) -> Table:
    """Return cycles, instructions, memory accesses and latency by sub-module, hot spots in bold."""
    rows = []
    for group in groups(found):
        for experiment, figures in group.members.items():
            rows += _part_rows(group, experiment, figures)
    head = ["experiment", "model", "core", "scan states", "sub-module", "cycles", "share, %"]
    head += ["instructions", "loads + stores", "latency, ms"]
    head += ["against dense: cycles saved, %", "instructions", "loads + stores"]
    head += ["against naive: cycles saved, %", "instructions", "loads + stores"]
    return Table("Where the cycles go", head, rows, 5)


def _part_rows(group: Group, experiment: str, figures: Mapping[str, Any]) -> Iterator[list[str]]:
    coding = best(figures, "event")
    parts, total = parts_of(figures, coding), whole(figures, coding)
    bases = []
    for base, kind in (group.dense(figures), "dense"), (group.model("naive"), "event"):
        bases.append({} if base is None else _with_sum(base, best(base, kind)))
    hot = sorted(parts, key=lambda name: -parts[name]["cycles"])[:HOT_SPOTS]
    names = sorted(parts, key=lambda name: [*PARTS, name].index(name))
    figures_of: dict[str, Mapping[str, float]] = {name: parts[name] for name in names}
    for name, counts in (figures_of | {"sum": total}).items():
        label = PARTS.get(name) or name
        row = [experiment, model_label(figures["model"]), group.core, _states(group)]
        row.append(f"**{label}**" if name in hot else label)
        row += [f"{counts['cycles']:.0f}", f"{100 * counts['cycles'] / total['cycles']:.1f}"]
        row += [f"{counts[metric]:.0f}" for metric in METRICS[1:3]]
        row.append(f"{counts['latency_ms']:.4f}")
        for base in bases:
            row += [_saved(counts, base.get(name), metric) for metric in METRICS[:3]]
        yield row


def _with_sum(figures: Mapping[str, Any], coding: str) -> dict[str, Mapping[str, float]]:
    return parts_of(figures, coding) | {"sum": whole(figures, coding)}


def layers_table(found: Simulations) -> Table:
    """Return cycles, accesses, latency and energy by block.

    Block 0 is the front end and what follows the blocks.
    """
    rows = []
    for (experiment, core), figures in found.items():
        codings = best(figures, "dense"), best(figures, "event")
        for layer, forms in sorted(figures["layers"].items(), key=lambda item: int(item[0])):
            dense, event = (forms[coding] for coding in codings)
            rows.append([experiment, core, layer, *_layer_cells(dense, event)])
        whole_network = (figures["codings"][coding] for coding in codings)
        rows.append([experiment, core, "sum", *_layer_cells(*whole_network)])
    head = ["experiment", "core", "layer", "dense", "event-driven", "saved, %"]
    head += [f"event-driven: accesses of {MEMORY[0]}", *MEMORY[1:]]
    head += ["latency of an utterance, ms", "energy of an utterance, µJ"]
    return Table("Cycles, memory and latency by layer", head, rows, 2)


def _layer_cells(dense: Mapping[str, float], event: Mapping[str, float]) -> list[str]:
    """Return cycles of both codings; of events, accesses by kind, and an utterance's figures.

    Simulations of before these were counted have none.
    """
    cells = [f"{dense['cycles']:.0f}", f"{event['cycles']:.0f}", _percent(saved(event, dense))]
    for name, digits in {**MEMORY_OF, "utterance_latency_ms": 1, "utterance_energy_uj": 0}.items():
        cells.append(f"{event[name]:.{digits}f}" if name in event else ABSENT)
    return cells
