"""Cycles of a trained encoder: record, replay, fit, extrapolate, write down."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import check_same_features
from espnet_spike.experiment import left_out, name_within, read_config
from espnet_spike.results.experiments import RESULTS, results_to_complete
from espnet_spike.simulator import toolchain
from espnet_spike.simulator.energy import DEFAULT, energy_uj, read_prices
from espnet_spike.simulator.hardware import Hardware
from espnet_spike.simulator.machine import Machine, sum_counters
from espnet_spike.simulator.operations import Site, codings
from espnet_spike.simulator.record import Recording, lowering_of, record_encoder
from espnet_spike.simulator.replay import (
    METRICS,
    Cost,
    Key,
    Log,
    Total,
    check_float_errors,
    extrapolate,
    fit_costs,
    float_errors,
    plan,
    simulate,
    sum_totals,
)
from espnet_spike.utils.files import present, replacing_bytes, write_json
from espnet_spike.utils.provenance import environment

FOLDER = "simulate"
LARGEST_ERROR = 0.02  # of a cost on calls left out of its fit; beyond, the kernel is not fitted
_logger = logging.getLogger(__name__)


def check_experiment(asr_exp: Path, data_dir: Path) -> None:
    """Check that there are features, and a model of a kind that can be simulated; build nothing.

    Raises:
        UserError: there are none, or its encoder has no lowering.
    """
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.loading import open_model

    FeatureDir.read(data_dir)
    with open_model(asr_exp) as opened:
        name = read_config(opened.path)["encoder"]
    classes = {c.name: c for c in SpikeASRTask.class_choices_list}["encoder"]
    encoder = classes.get_class(name)
    assert encoder is not None  # a trained model has one
    lowering_of(encoder)


def record_experiment(asr_exp: Path, data_dir: Path, utterances: int) -> tuple[Recording, str]:
    """Record the encoder of a trained model; return the recording and the checkpoint's name.

    Raises:
        UserError: the encoder cannot be simulated, there is no model, or its features are of
            another definition.
    """
    from espnet_spike.tasks.loading import encoder_inputs, load_model, open_model

    with open_model(asr_exp) as opened:
        check_same_features(opened.path, [data_dir])
        trained = load_model(opened)
    inputs = encoder_inputs(trained.model, data_dir, utterances)
    return record_encoder(trained.model.encoder, inputs), name_within(asr_exp, trained.checkpoint)


def simulate_recording(
    recording: Recording,
    hardware: Hardware,
    log: Path,
    jobs: int | None = None,
    few: bool = False,
    compiler: str = "zig",
    drawn: bool = False,
) -> dict[str, Any]:
    """Return the figures of a recorded encoder on one core.

    Args:
        recording: of the encoder.
        hardware: the core.
        log: where simulated calls are kept: a run that was interrupted goes on from it.
        jobs: simulators at once; None for one a core.
        few: simulate less than half of the calls: enough for the fit, little to try it on.
        compiler: of the firmware, ``zig`` or ``gcc``.
        drawn: the network has drawn parameters and reads noise: there is nothing that its integer
            kernels have to stand for, only costs by size and number of events.

    Raises:
        UserError: a tool is missing, a kernel's output is wrong, or it is too far from the float
            layer.
    """
    machine = Machine(hardware, compiler)
    keys = machine.core.record["key"], machine.firmware.record["key"]
    waits = hardware.data_wait_states, hardware.instruction_wait_states
    sizes = {"fit": 5, "held_out": 1, "fixed": 1} if few else {}
    planned = plan(recording.sites, recording.codings, **sizes)
    errors = float_errors(recording.sites, recording.codings)
    if not drawn:
        check_float_errors(errors)
    counters = simulate(machine, planned, Log(log, toolchain.digest(*keys, *waits)), jobs)
    costs = fit_costs(planned, counters, errors)
    totals = extrapolate(recording.sites, recording.codings, costs)
    blocks = [total for total in totals if total.site.layer > 0]
    return {
        "how": "replay-extrapolated",
        "energy": f"{DEFAULT} ({read_prices().source})",
        "machine": machine.record,
        "utterances": recording.utterances,
        "frames": recording.frames,
        "simulated": {"calls": len(planned), "cycles": sum_counters(counters).cycles},
        "codings": _per_frame(sum_totals(totals, lambda t: (t.coding,)), recording, hardware),
        "parts": _per_frame(
            sum_totals(totals, lambda t: (t.site.part, t.coding)), recording, hardware
        ),
        "layers": _per_frame(
            sum_totals(totals, lambda t: (str(t.site.layer), t.coding)), recording, hardware
        ),
        "blocks": _per_frame(
            sum_totals(blocks, lambda t: (t.site.part, t.coding)), recording, hardware
        ),
        "d_state": scan_states(recording.sites),
        "weight_layers": weight_layers(recording.sites, totals, recording.frames),
        "fit": _fit_figures(costs),
        "costs": [_cost_figures(key, cost) for key, cost in costs.items()],
    }


def scan_states(sites: Sequence[Site]) -> int | None:
    """Return how many states a channel of the selective scan has; None without a scan."""
    found = (
        form.shape[1] for site in sites for form in site.forms.values() if "scan" in form.kernel
    )
    return next(found, None)


def _per_frame(
    sums: dict[tuple, dict[str, float]], recording: Recording, hardware: Hardware
) -> dict[str, Any]:
    """Nest sums by their keys, as figures of a frame."""
    nested: dict[str, Any] = {}
    for key, total in sums.items():
        place = nested
        for name in key[:-1]:
            place = place.setdefault(name, {})
        figures = {name: round(total[name] / recording.frames, 1) for name in METRICS}
        figures["memory"] = round((total["loads"] + total["stores"]) / recording.frames, 1)
        figures["activations"] = round(figures["memory"] - figures["weights"] - figures["state"], 1)
        seconds = hardware.seconds(total["cycles"] / recording.frames)
        energy, frames = energy_uj(figures, read_prices()), recording.frames / recording.utterances
        figures |= {
            "latency_ms": round(seconds * 1e3, 4),
            "energy_uj": round(energy, 3),
            # of all frames of an utterance: from its first event to the last output
            "utterance_latency_ms": round(seconds * 1e3 * frames, 2),
            "utterance_energy_uj": round(energy * frames, 1),
        }
        place[key[-1]] = figures
    return nested


def weight_layers(sites: Sequence[Site], totals: Sequence[Total], frames: int) -> list[dict]:
    """Return event sparsity and cycles a frame of every layer that reads events."""
    cycles = {(id(t.site), t.coding): float(t.counts[0]) for t in totals}
    found = []
    for site in sites:
        event = site.forms.get("event")
        if not site.inputs or event is None or event.events.shape[1] == 0:
            continue
        numbers = event.events[:, 0] / site.inputs
        layer = {"name": site.name, "layer": site.layer, "inputs": site.inputs}
        layer["sparsity"] = round(1 - float(numbers.mean()), 4)
        for coding in codings("dense", "event"):
            if (id(site), coding) in cycles:
                layer[coding] = round(cycles[id(site), coding] / frames, 1)
        found.append(layer)
    return found


def _fit_figures(costs: dict[Key, Cost]) -> dict[str, Any]:
    errors = [error for cost in costs.values() for error in cost.held_out]
    floats = [cost.float_error for cost in costs.values() if cost.float_error is not None]
    return {
        "kernels": len(costs),
        "held_out_calls": len(errors),
        "held_out_max": round(max(errors, default=0.0), 6),
        "held_out_mean": round(float(np.mean(errors)) if errors else 0.0, 6),
        "not_fitted": sorted({key[0] for key, cost in costs.items() if _fitted(cost) is False}),
        "float_error_max": round(max(floats, default=0.0), 5),
    }


def _fitted(cost: Cost) -> bool | None:
    """Tell whether a fit holds on calls left out of it; None where none was."""
    return max(cost.held_out) <= LARGEST_ERROR if cost.held_out else None


def _cost_figures(key: Key, cost: Cost) -> dict[str, Any]:
    return {
        "kernel": key[0],
        "shape": list(key[1]),
        "cycles": [round(float(c), 3) for c in cost.coefficients[:, 0] * cost.units],
        "calls": cost.calls,
        "held_out_max": round(max(cost.held_out, default=0.0), 6),
        "fitted": _fitted(cost),
        "float_error": None if cost.float_error is None else round(cost.float_error, 5),
    }


def simulate_experiment(
    asr_exp: Path,
    data_dir: Path,
    hardware: dict[str, Hardware],
    utterances: int = 20,
    jobs: int | None = None,
    compiler: str = "zig",
) -> dict[str, dict[str, Any]]:
    """Simulate a trained encoder on one or more cores.

    Writes ``asr_exp/simulate/NAME.json`` and ``NAME.png`` for every core, ``events.npz`` with the
    events of every frame, and a summary into ``asr_exp/results.json``.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        data_dir: features of utterances to record.
        hardware: cores by name.
        utterances: how many to record.
        jobs: simulators at once; None for one a core.
        compiler: of the firmware, ``zig`` or ``gcc``.

    Returns:
        the figures by name of the core.

    Raises:
        UserError: see ``record_experiment`` and ``simulate_recording``.
    """
    folder = asr_exp / FOLDER
    recording, checkpoint = record_experiment(asr_exp, data_dir, utterances)
    folder.mkdir(parents=True, exist_ok=True)
    write_events(folder / "events.npz", recording)
    found = {}
    for name, core in hardware.items():
        _logger.info("simulate %s on %s", asr_exp.name, name)
        log = folder / "calls.jsonl"
        figures = simulate_recording(recording, core, log, jobs, compiler=compiler)
        figures |= {"model": model_name(asr_exp), "checkpoint": checkpoint, "data": data_dir.name}
        figures |= {"left_out": left_out(read_config(asr_exp)), "environment": environment()}
        found[name] = figures
        write_json(folder / f"{name}.json", figures, ensure_ascii=False)
        plot(folder / f"{name}.png", figures)
    results = results_to_complete(asr_exp)
    kept = {name: summary(figures) for name, figures in found.items()}
    results["simulate"] = results.get("simulate", {}) | kept
    write_json(asr_exp / RESULTS, results, ensure_ascii=False)
    return found


def model_name(asr_exp: Path) -> str:
    """Return what the tables call a model: Ahmed et al.'s (2026) names, or the encoder's."""
    config = read_config(asr_exp)
    conf = config.get("encoder_conf") or {}
    if present(asr_exp / "naive.json"):
        return "naive"
    if config["encoder"] == "event_speech_mamba":
        points = conf.get("fat_points", "e")
        more = points == "optimized" or (isinstance(points, list) and "F9" in points)
        return "E, optimized" if more else "E"
    names = {"speech_mamba": "dense", "spiking_speech_mamba": "S"}
    name = names.get(config["encoder"], str(config["encoder"]))
    return f"{name} (ReLU twin)" if conf.get("neuron") == "relu" else name


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """Return what ``results.json`` keeps of a simulation."""
    layers = figures["weight_layers"]
    names = "model how energy data utterances frames codings parts layers fit simulated".split()
    names += ["blocks", "d_state", "left_out"]
    inside = [layer["sparsity"] for layer in layers if layer["layer"]]
    cycles = [next(layer[c] for c in codings("dense") if c in layer) for layer in layers]
    sparsity = [layer["sparsity"] for layer in layers]
    machine = figures["machine"]
    return {name: figures[name] for name in names} | {
        "sparsity": _mean(sparsity),
        "blocks_sparsity": _mean(inside),
        "sparsity_by_cycles": _mean(sparsity, weights=cycles),
        "hardware": machine["hardware"],
        "versions": [
            f"Ibex {machine['core']['rtl']}",
            machine["core"]["verilator"],
            machine["firmware"]["compiler"],
        ],
        "flags": machine["firmware"]["flags"],
    }


def _mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    return round(float(np.average(values, weights=weights)), 4) if values else 0.0


def write_events(path: Path, recording: Recording) -> None:
    """Write the events of every frame of every site, compressed."""
    arrays = {}
    for site in recording.sites:
        form = site.forms.get("event")
        if form is not None and form.events.shape[1]:
            arrays[site.name] = form.events.astype(np.uint32)
    with replacing_bytes(path) as file:
        np.savez_compressed(file, **arrays)


def plot(path: Path, figures: dict[str, Any]) -> None:
    """Draw the event sparsity of weight layers against their gain in cycles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 100], color="0.7", linewidth=1, label="gain equal to sparsity")
    for loop, label, mark in (
        ("", "plain", "o"),
        ("_unrolled", "unrolled", "x"),
        ("_blocked", "blocked", "s"),
    ):
        pairs = [
            (layer["sparsity"], 100 * (1 - layer[f"event{loop}"] / layer[f"dense{loop}"]))
            for layer in figures["weight_layers"]
            if f"event{loop}" in layer
        ]
        if pairs:
            label = f"{label} loops"
            axes.plot(*zip(*pairs, strict=True), mark, label=label, fillstyle="none")
    axes.set(xlabel="event sparsity of the input", ylabel="cycles saved against dense (%)")
    axes.legend()
    with replacing_bytes(path) as file:
        figure.savefig(file, dpi=120, format="png")
