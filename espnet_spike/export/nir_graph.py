"""Export the spiking cores of a trained encoder as a NIR graph, with a manifest of the rest.

NIR (neuromorphic intermediate representation) has neurons and weights, but no norm, attention,
gate or scan. So the file holds each layer of neurons with the linear layers that read its spikes;
where the current of such a layer drives the next neurons, the two are joined. Everything else is
an Input or an Output of the graph, and the manifest says what it is and why it stayed outside.
What is joined with what is seen in a run on a real utterance, by the tensors handed on.

======================  ==========================================================================
here                    in the graph
======================  ==========================================================================
LIF (frames or slots)   LIF, time step 1; a batch norm before it is in ``r`` and ``v_leak``:
                        tau dv/dt = (v_leak - v) + r x with r = scale, v_leak = v_reset + shift
IMLS, I-LIF of T        T Threshold nodes side by side, slot t = 1..T of the thermometer code:
                        1 where x / m >= (t - 1/2) alpha, with the level m of the frame, which is
                        no constant and divides the input outside
linear layer            Linear or Affine; columns times alpha where it reads IMLS. With a level,
                        m and then the bias are applied outside
======================  ==========================================================================

NIR fires above a threshold, our neurons at it as well: thresholds are the next number below, in
float64, as the whole file is. NIR's integrate-and-fire neuron resets to a constant and so cannot
stand for the subtracting one that the slots of IMLS are equal to (``nn.neurons.imls``).
"""

import itertools
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_spike.counting.costs import Costs
from espnet_spike.counting.counter import Counter
from espnet_spike.encoders.monitor import captured
from espnet_spike.errors import UserError
from espnet_spike.experiment import left_out, recorded_name
from espnet_spike.export.nir_runner import run_graph
from espnet_spike.nn.neurons.base import Neuron
from espnet_spike.nn.neurons.response import (
    LeakyResponse,
    OtherResponse,
    Response,
    StaircaseResponse,
)
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.tasks.loading import encoder_inputs, load_model
from espnet_spike.utils.files import fitting_name, replacing, write_json
from espnet_spike.utils.install import how_to_install
from espnet_spike.utils.provenance import environment

CURRENT_TOLERANCE = 1e-9

WHY = {
    "scan": "a recurrence whose coefficients follow the input",
    "attention": "a product of two activations; NIR multiplies by weights only",
    "softmax": "a norm over keys",
    "decay_mask": "a factor for each pair of frames",
    "conv": "runs over frames: NIR neurons have a fixed shape, utterances any length",
    "depthwise_conv": "runs over frames: NIR neurons have a fixed shape, utterances any length",
    "norm": "NIR has no norm; a batch norm is in the graph where a LIF neuron follows it",
    "gate": "a product of two activations",
    "linear": "reads no spikes of a neuron in the graph",
    "neuron": "NIR has no such neuron",
    "activation": "real-valued, no neuron",
    "embedding": "a table",
    "rescale": "the level of each frame, which IMLS neurons divide their input by",
    "elementwise": "sums of branches, levels of frames, functions of real values",
}
"""Kind of operator (``counting.counter``) -> why it is not in the graph; the first match wins."""


def import_nir() -> ModuleType:
    """Return the package ``nir``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise UserError(f"the package nir is missing ({error})", how_to_install("nir")) from None
    return nir


@dataclass
class Call:
    """A forward pass of a module: its name, and what went in and came out."""

    name: str
    module: Any
    x: Tensor
    mask: Tensor | None
    y: Tensor


def calls(encoder: nn.Module) -> AbstractContextManager[dict[str, Call]]:
    """Collect the calls of neurons, linear layers and batch norms within the context, by name.

    The tensors are kept, so that each storage belongs to one of them only.
    """
    kinds = Neuron | nn.Linear | MaskedBatchNorm
    return captured(
        {name: module for name, module in encoder.named_modules() if isinstance(module, kinds)},
        lambda name, module, args, y: Call(
            name, module, args[0], args[1] if len(args) > 1 else None, y
        ),
    )


def same_values(a: Tensor, b: Tensor) -> bool:
    """Return whether ``a`` is ``b``, whole, perhaps with its last axes joined."""
    return (
        a.untyped_storage()._cdata == b.untyped_storage()._cdata
        and a.numel() == b.numel()
        and a.shape[:2] == b.shape[:2]
        and a.is_contiguous()
        and b.is_contiguous()
    )


def columns_of(x: Tensor, y: Tensor) -> tuple[int, int] | None:
    """Return which columns of ``y`` ``(B, N, C)`` the tensor ``x`` is a view of, if it is one."""
    if x.untyped_storage()._cdata != y.untyped_storage()._cdata or not y.is_contiguous():
        return None
    strides = [(i, j) for i, j, n in zip(x.stride(), y.stride(), x.shape, strict=False) if n > 1]
    start = int(x.storage_offset() - y.storage_offset())
    stop = start + x.shape[-1]
    if x.shape[:-1] != y.shape[:-1] or any(i != j for i, j in strides):
        return None
    return (start, stop) if 0 <= start < stop <= y.shape[-1] else None


def why_not(neuron: Neuron) -> str | None:
    """Return why NIR has no node for a neuron; None if it has one."""
    response = neuron.response()
    return response.why if isinstance(response, OtherResponse) else None


@dataclass
class Core:
    """A layer of neurons in the graph.

    Attributes:
        call: of the neuron.
        norm: batch norm in the neuron's nodes, if any.
        spiking: names of its nodes.
        source: node that drives it.
    """

    call: Call
    norm: Call | None = None
    spiking: list[str] = field(default_factory=list)
    source: str = ""

    @property
    def input(self) -> Tensor:
        """What drives the neuron, before the norm."""
        return self.call.x if self.norm is None else self.norm.x

    @property
    def response(self) -> Response:
        """What the neurons do with their input."""
        return self.call.module.response()

    @property
    def has_level(self) -> bool:
        """Whether the neuron's unit differs from frame to frame."""
        return self.call.module.follows_input


@dataclass
class Synapses:
    """A linear layer in the graph.

    Attributes:
        call: of the layer.
        core: the neurons whose spikes it reads.
        nodes: columns of its output -> node.
    """

    call: Call
    core: Core
    nodes: dict[tuple[int, int], str] = field(default_factory=dict)


@dataclass
class Export:
    """A graph in the making, and what is in it.

    Attributes:
        nodes, edges: of the graph.
        cores, synapses: by the names of the neurons and linear layers.
        parameters: name -> nodes that hold it.
        inputs: Input node -> what it takes.
    """

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    cores: dict[str, Core] = field(default_factory=dict)
    synapses: dict[str, Synapses] = field(default_factory=dict)
    parameters: dict[str, list[str]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    def note(self, module: str, names: tuple[str, ...], nodes: list[str]) -> None:
        """Note that parameters of a module are held by nodes."""
        for name in names:
            self.parameters.setdefault(f"{module}.{name}", []).extend(nodes)


def array(x: Tensor) -> np.ndarray:
    """Return a tensor as NIR wants it."""
    return x.detach().double().numpy().copy()


def below(x: np.ndarray) -> np.ndarray:
    """Return the next smaller numbers: above them is at or above ``x``."""
    return np.nextafter(x, -np.inf)


def build(nir: ModuleType, found: Mapping[str, Call]) -> Export:
    """Return the graph of an encoder whose calls were collected."""
    export = Export()
    norms = [call for call in found.values() if isinstance(call.module, MaskedBatchNorm)]
    for call in found.values():
        if isinstance(call.module, Neuron) and why_not(call.module) is None:
            core = export.cores[call.name] = Core(call)
            if isinstance(call.module.response(), LeakyResponse):
                core.norm = next((n for n in norms if same_values(call.x, n.y)), None)
    for call in found.values():
        reads = [core for core in export.cores.values() if same_values(call.x, core.call.y)]
        if isinstance(call.module, nn.Linear) and reads:
            export.synapses[call.name] = Synapses(call, reads[0])
            _add_linear(nir, export, export.synapses[call.name])
    for core in export.cores.values():
        _add_neuron(nir, export, core)
    for layer in export.synapses.values():
        export.edges += [(s, node) for node in layer.nodes.values() for s in layer.core.spiking]
    _add_outputs(nir, export)
    return export


def _add_linear(nir: ModuleType, export: Export, layer: Synapses) -> None:
    """Add a linear layer: a node, or one for each group of columns that drives other neurons."""
    linear, response = layer.call.module, layer.core.response
    weight, bias = linear.weight, None if layer.core.has_level else linear.bias
    if isinstance(response, StaircaseResponse):
        unit = response.unit
        weight = weight * unit.repeat(weight.shape[1] // len(unit))
    taken = [columns_of(core.input, layer.call.y) for core in export.cores.values()]
    ends = sorted({0, len(weight), *(end for columns in taken if columns for end in columns)})
    for start, stop in itertools.pairwise(ends):
        name = layer.call.name if len(ends) == 2 else f"{layer.call.name}[{start}:{stop}]"
        if bias is None:
            export.nodes[name] = nir.Linear(array(weight[start:stop]))
        else:
            export.nodes[name] = nir.Affine(array(weight[start:stop]), array(bias[start:stop]))
        layer.nodes[start, stop] = name
    held = ("weight",) if bias is None else ("weight", "bias")
    export.note(layer.call.name, held, [*layer.nodes.values()])
    if isinstance(response, StaircaseResponse):
        export.note(layer.core.call.name, response.parameters, [*layer.nodes.values()])


def _add_neuron(nir: ModuleType, export: Export, core: Core) -> None:
    """Add a layer of neurons and the edge that drives it."""
    features = core.call.x.shape[2:].numel()
    if isinstance(core.response, LeakyResponse):
        _add_leaky(nir, export, core, core.response, features)
    elif isinstance(core.response, StaircaseResponse):
        _add_staircase(nir, export, core, core.response, features)
    core.source = _joined(export, core) or _add_input(nir, export, core, features)
    export.edges += [(core.source, node) for node in core.spiking]


def _add_leaky(
    nir: ModuleType, export: Export, core: Core, response: LeakyResponse, features: int
) -> None:
    name, channels = core.call.name, core.call.x.shape[-1]
    ones = torch.ones(channels, dtype=torch.float64)
    scale, shift = (ones, 0 * ones) if core.norm is None else core.norm.module.affine()
    if core.norm is not None:
        export.note(core.norm.name, ("weight", "bias", "running_mean", "running_var"), [name])
    repeats = features // channels
    export.nodes[name] = nir.LIF(
        tau=np.full(features, float(response.tau)),
        r=array(response.gain * scale.repeat(repeats)),
        v_leak=array(response.v_reset + response.gain * shift.repeat(repeats)),
        v_threshold=below(np.full(features, float(response.v_th))),
        v_reset=np.full(features, float(response.v_reset)),
    )
    core.spiking = [name]


def _add_staircase(
    nir: ModuleType, export: Export, core: Core, response: StaircaseResponse, features: int
) -> None:
    repeats = features // len(response.scale)
    for t in range(1, response.levels + 1):
        threshold = array((t - 0.5) * response.scale.repeat(repeats))
        # rounding half to even, an odd count is reached above its threshold only
        inclusive = response.rounding == "half_up" or t % 2 == 0
        node = f"{core.call.name}.slot{t}"
        export.nodes[node] = nir.Threshold(below(threshold) if inclusive else threshold)
        core.spiking.append(node)
    export.note(core.call.name, response.parameters, core.spiking)


def _joined(export: Export, core: Core) -> str | None:
    """Return the node whose current, complete in the graph, drives a neuron."""
    if core.has_level:
        return None
    for layer in export.synapses.values():
        columns = columns_of(core.input, layer.call.y)
        if columns is not None and not layer.core.has_level:
            return layer.nodes[columns]
    return None


def _add_input(nir: ModuleType, export: Export, core: Core, features: int) -> str:
    name = f"{core.call.name}.input"
    export.nodes[name] = nir.Input({"input": np.array([features])})
    what = f"what drives {core.call.name}"
    if core.norm is not None:
        what += f", before {core.norm.name}"
    if core.has_level and isinstance(core.response, StaircaseResponse):
        what += f", over the level of the frame ({core.response.statistic})"
    export.inputs[name] = what
    return name


def _add_outputs(nir: ModuleType, export: Export) -> None:
    """Add an Output for the spikes of each neuron and each current that drives nothing."""
    for name, core in export.cores.items():
        features = np.array([core.call.x.shape[2:].numel()])
        export.nodes[f"{name}.spikes"] = nir.Output({"output": features})
        export.edges += [(node, f"{name}.spikes") for node in core.spiking]
    driving = {core.source for core in export.cores.values()}
    for layer in export.synapses.values():
        for (start, stop), node in layer.nodes.items():
            if node not in driving:
                export.nodes[f"{node}.current"] = nir.Output({"output": np.array([stop - start])})
                export.edges.append((node, f"{node}.current"))


def outside(encoder: nn.Module, export: Export, costs: Costs) -> dict[str, list[dict[str, Any]]]:
    """Return what is not in the graph: parameters, and operations as the counter saw them.

    Args:
        encoder: the encoder.
        export: its graph.
        costs: of an utterance.
    """
    kinds: dict[str, list[str]] = {}
    for layer, kind in costs:
        kinds.setdefault(layer, []).append(kind)
    for found in kinds.values():
        found.sort(key=[*WHY].index)
    inside = {(name, "neuron") for name in export.cores}
    inside |= {(name, "linear") for name in export.synapses}
    inside |= {(core.norm.name, "norm") for core in export.cores.values() if core.norm is not None}
    neurons = {n: m for n, m in encoder.named_modules() if isinstance(m, Neuron)}
    operations = [
        {"layer": layer, "kind": kind, "why": why_not(neurons[layer]) if kind == "neuron" else text}
        for layer, found in kinds.items()
        for kind in found
        if (layer, kind) not in inside
        for text in [WHY[kind]]
    ]
    parameters = []
    for name in parameter_names(encoder):
        if name in export.parameters:
            continue
        owner = name.rpartition(".")[0]
        if owner in export.synapses:
            why = "a bias, added after the level of the frame"
        elif owner in neurons:
            why = why_not(neurons[owner])
        else:
            why = WHY[kinds[owner][0]] if owner in kinds else ""
            while not why and owner:
                # what a module's parent does with its parameters
                owner = owner.rpartition(".")[0]
                why = WHY[kinds[owner][0]] if owner in kinds else ""
        parameters.append({"name": name, "why": why or "not used in evaluation"})
    return {"parameters": parameters, "operations": operations}


def parameter_names(encoder: nn.Module) -> list[str]:
    """Return the names of all parameters and of what else is learnt, running statistics."""
    return [name for name, x in encoder.state_dict().items() if x.is_floating_point()]


@dataclass
class Check:
    """How the file's graph compares with the encoder in float64.

    Attributes:
        utterances: that were encoded.
        activations: of neurons, compared one by one.
        spikes: that they emit.
        different: activations whose number of spikes differs.
        current: largest difference of a current, relative to the largest in its layer.
    """

    utterances: int = 0
    activations: int = 0
    spikes: int = 0
    different: int = 0
    current: float = 0.0

    def add(self, graph: Any, export: Export) -> None:
        """Compare a graph with the calls of an utterance."""
        self.utterances += 1
        inputs = {
            core.source: _in_time(core, core.input / _level(core, core.input))
            for core in export.cores.values()
            if core.source in export.inputs
        }
        values = run_graph(graph, inputs)
        for name, core in export.cores.items():
            ours = _in_time(core, _counts(core))
            self.activations += ours.numel()
            self.spikes += int(ours.sum())
            self.different += int((values[f"{name}.spikes"] != ours).sum())
        for layer in export.synapses.values():
            current = layer.call.y
            if layer.core.has_level:
                bias = layer.call.module.bias
                current = current if bias is None else current - bias
                current = current / _level(layer.core, current)
            current = _in_time(layer.core, current)
            largest = current.abs().max().clamp(min=1e-30)
            for (start, stop), node in layer.nodes.items():
                difference = (values[node] - current[..., start:stop]).abs().max() / largest
                self.current = max(self.current, float(difference))


def _in_time(core: Core, x: Tensor) -> Tensor:
    """Return ``(time, items, features)`` for what a neuron takes as ``(B, N, ..., C)``."""
    x = x.flatten(2)
    if core.call.module.runs_over_frames:
        return x.transpose(0, 1)
    return x.unflatten(0, (core.call.module.time_steps, -1)).flatten(1, 2)


def _level(core: Core, like: Tensor) -> Tensor:
    """Return the level of each frame, to divide values shaped as ``like`` by."""
    if not core.has_level:
        return like.new_ones(())
    level = core.call.module.frame_level(core.call.x, core.call.mask)
    return level.view(level.shape + (1,) * (like.dim() - 2))


def _counts(core: Core) -> Tensor:
    return core.call.module.spike_counts((core.call.x, core.call.mask), core.call.y)[0]


@torch.no_grad()
def export_nir(
    asr_exp: Path, checkpoint: str | None, data: Path, out: Path, utterances: int
) -> tuple[dict[str, Any], Path]:
    """Write the NIR graph of a trained encoder and its manifest, and compare it with the encoder.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        checkpoint: file name of the model there; None for the best.
        data: feature directory whose first utterances are compared.
        out: file to write; the manifest goes beside it, under its name with ``.json`` added.
        utterances: how many are compared.

    Returns:
        The manifest, and its file.

    Raises:
        UserError: no ``nir``, no spiking neurons, no utterance that is long enough, or the file
            gives other spikes than the encoder; nothing is written then.
    """
    nir = import_nir()
    trained = load_model(asr_exp, checkpoint)
    model, args = trained.model, trained.options
    inputs = list(encoder_inputs(model, data, utterances))
    if not inputs:
        raise UserError(f"{data}: no utterance is long enough for the encoder")
    encoder = model.encoder.double()
    with Counter(encoder) as counter:
        encoder(inputs[0][0].double(), inputs[0][1])
    with calls(encoder) as found:
        encoder(inputs[0][0].double(), inputs[0][1])
    export = build(nir, found)
    if not export.cores:
        raise UserError(f"encoder: {args.encoder} has no spiking neurons that NIR could hold")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        nir.write(temporary, nir.NIRGraph(export.nodes, export.edges))
        graph, check = nir.read(temporary), Check()
        for speech, lengths in inputs:
            with calls(encoder) as found:
                encoder(speech.double(), lengths)
            _renew(export, found)
            check.add(graph, export)
        if check.different or check.current > CURRENT_TOLERANCE:
            raise UserError(
                f"the graph gives other spikes than the encoder: {json.dumps(vars(check))}",
                "nothing was written; please report this",
            )
    first = next(iter(export.cores.values())).call.module
    numbers = {name: x.numel() for name, x in encoder.named_parameters()}
    manifest = {
        "file": out.name,
        "nir": nir.version,
        "experiment": asr_exp.name,
        "checkpoint": recorded_name(asr_exp, trained.checkpoint),
        "encoder": args.encoder,
        "time_step": "a frame" if first.runs_over_frames else "a slot of a frame",
        "initial_potential": "v_reset",
        "share": sum(n for name, n in numbers.items() if name in export.parameters)
        / sum(numbers.values()),
        "inputs": export.inputs,
        "parameters": export.parameters,
        "outside": outside(encoder, export, counter.costs),
        "left_out": left_out(vars(args)),
        "check": vars(check),
        "environment": environment(),
    }
    beside = out.with_name(fitting_name(out.name, ".json"))
    write_json(beside, manifest, ensure_ascii=False)
    return manifest, beside


def _renew(export: Export, found: Mapping[str, Call]) -> None:
    """Put the calls of another utterance in the place of those that the graph was built from."""
    for core in export.cores.values():
        core.call = found[core.call.name]
        core.norm = core.norm and found[core.norm.name]
    for layer in export.synapses.values():
        layer.call = found[layer.call.name]
