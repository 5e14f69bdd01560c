"""The spiking cores of a trained encoder as NIR, the Neuromorphic Intermediate Representation.

NIR (Pedersen et al. 2024, Nature Communications 15:8122) has nodes for linear maps and neurons,
none for norms over channels, attention, gates or scans. So what goes into the file are cores: the
linear layers, batch norms and LIF neurons that hand their output straight to each other in the
running encoder, one graph each. What stays outside is in the manifest with its reason; every
parameter of the encoder is in one of the two.

* ``nir.Linear``, ``nir.Affine``: linear layers; a batch norm in evaluation is a diagonal one.
* ``nir.LIF``: tau v' = (v_leak - v) + r I, by the forward Euler step dt = 1. That is our neuron
  with v_leak = v_reset and r = 1, or r = tau where the input is not divided by tau. NIR fires
  above the threshold, ours on it too: the exported threshold is the next smaller double.

A step is a frame for neurons that run over frames, and one of the T time steps of a frame for
those that run inside it; potentials start at v_reset, at the start of an utterance or of the T
steps. NIR's integrate-and-fire neuron resets to a fixed potential and has a fixed threshold, so
IMLS, which subtracts a threshold that follows its input, is not among its nodes.

The file is proved by reading it again: an interpreter in numpy runs the nodes as read on the
inputs of each core in real utterances, in float64, where all spikes have to be equal.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_spike.attention import FoldedMap, SpikingAttention
from espnet_spike.errors import UserError
from espnet_spike.firing import Neuron
from espnet_spike.frame_lif import FrameLIF
from espnet_spike.imls import IMLS
from espnet_spike.lif import ILIF, LIF
from espnet_spike.mamba import CausalConv, SelectiveSSM
from espnet_spike.norms import MaskedBatchNorm

TOLERANCE = 1e-9
REASONS: dict[type, str] = {
    IMLS: "integrate-and-fire with soft reset; NIR's IF resets to a fixed potential",
    ILIF: "emits counts with soft reset; NIR's neurons emit 0 or 1 and reset to a fixed potential",
    LIF: "soft reset; NIR's LIF resets to a fixed potential",
    FrameLIF: "soft reset; NIR's LIF resets to a fixed potential",
    MaskedBatchNorm: "over the bins of a map, not the channels of a frame",
    nn.Linear: "does not take the channels of a whole frame, or did not run as a layer once",
    nn.Conv2d: "its kernel spans frames, which NIR's nodes see one at a time",
    nn.Conv1d: "its kernel spans frames, which NIR's nodes see one at a time",
    CausalConv: "its kernel spans frames, which NIR's nodes see one at a time",
    SelectiveSSM: "NIR has no selective scan",
    FoldedMap: "NIR has no product of two activations",
    SpikingAttention: "NIR has no product of two activations",
    nn.Module: "NIR has no such node",
}


def import_nir() -> ModuleType:
    """Return the module ``nir``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import nir
    except ImportError:
        raise UserError("NIR is not installed", "pip install 'espnet_spike[nir]'") from None
    return nir


@dataclass
class Node:
    """A module that becomes a node of a core.

    Attributes:
        name: dotted name of the module.
        module: a linear layer, batch norm or LIF neuron.
        source: name of the node whose output it reads; None for an input of the core.
        size: channels of its output.
    """

    name: str
    module: nn.Module
    source: str | None
    size: int

    @property
    def spikes(self) -> bool:
        """Whether it is a neuron."""
        return isinstance(self.module, Neuron)


@dataclass
class Call:
    """What a module got and gave in one pass."""

    module: nn.Module
    input: Tensor
    output: Tensor
    times: int = 1


@dataclass
class Check:
    """How the file compares with the encoder.

    Attributes:
        utterances: how many were run.
        spikes: of the encoder's exported neurons.
        differing: how many of their decisions are not the same.
        difference: largest relative difference of a real-valued output.
    """

    utterances: int = 0
    spikes: int = 0
    differing: int = 0
    difference: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the file computes what the encoder does."""
        return self.utterances > 0 and not self.differing and self.difference <= TOLERANCE


@dataclass
class Export:
    """The cores of an encoder and what is not in them.

    Attributes:
        cores: name -> its nodes, sources first.
        outside: what stays outside, as the manifest lists it.
        time_steps: of the encoder's neurons, 1 where they run over frames.
    """

    cores: dict[str, list[Node]]
    outside: list[dict[str, Any]]
    time_steps: int = 1
    check: Check = field(default_factory=Check)


@contextmanager
def calls(encoder: nn.Module) -> Iterator[dict[str, Call]]:
    """Collect what the modules of an encoder get and give within the context, by name."""
    seen: dict[str, Call] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, out: object) -> None:
            if not isinstance(out, Tensor) or not isinstance(args[0], Tensor):
                return
            if name in seen:
                seen[name].times += 1
            else:
                seen[name] = Call(module, args[0], out)

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear | MaskedBatchNorm | Neuron)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def sequence(x: Tensor, time_steps: int) -> Tensor:
    """Return ``(1 or time_steps, N, ..., C)`` as steps, lanes and channels ``(S, lanes, C)``.

    Frames are the steps; with time steps these are, and frames are lanes.
    """
    flat = x.flatten(2)
    return flat if time_steps > 1 else flat.transpose(0, 1)


def is_node(call: Call, time_steps: int) -> bool:
    """Return whether NIR can express a module as it was called."""
    module, x = call.module, call.input
    if call.times > 1 or x.dim() < 3 or x.shape[0] != time_steps:
        return False
    if isinstance(module, FrameLIF | LIF):
        runs_over = LIF if time_steps > 1 else FrameLIF
        return isinstance(module, runs_over) and module.reset == "hard"
    return x.dim() == 3 and isinstance(module, nn.Linear | MaskedBatchNorm)


def same_values(x: Tensor, y: Tensor) -> bool:
    """Return whether two tensors are the same memory in the same order."""
    if x.data_ptr() != y.data_ptr() or x.numel() != y.numel() or x.shape[:2] != y.shape[:2]:
        return False
    alike = x.shape == y.shape and x.stride() == y.stride()
    return alike or (x.is_contiguous() and y.is_contiguous())


def find_cores(encoder: nn.Module, seen: Mapping[str, Call], time_steps: int) -> Export:
    """Return the cores of an encoder, from one pass.

    Args:
        encoder: the encoder.
        seen: what its modules got and gave.
        time_steps: of its neurons.
    """
    chosen = {name: call for name, call in seen.items() if is_node(call, time_steps)}
    cores: dict[str, list[Node]] = {}
    core_of: dict[str, str] = {}
    for name, call in chosen.items():  # in the order of the pass: sources come first
        source = next((n for n in core_of if same_values(chosen[n].output, call.input)), None)
        core = core_of[name] = name if source is None else core_of[source]
        size = sequence(call.output, time_steps).shape[-1]
        cores.setdefault(core, []).append(Node(name, call.module, source, size))
    return Export(cores, outside_of(encoder, chosen), time_steps)


def outside_of(encoder: nn.Module, inside: Iterable[str]) -> list[dict[str, Any]]:
    """Return every module with parameters of its own, and every neuron, that is in no core."""
    inside = set(inside)
    outside = []
    for name, module in encoder.named_modules():
        own = [f"{name}.{p}".strip(".") for p, _ in module.named_parameters(recurse=False)]
        if name in inside or not (own or isinstance(module, Neuron)):
            continue
        reason = next(REASONS[cls] for cls in type(module).__mro__ if cls in REASONS)
        outside.append(
            {"module": name, "type": type(module).__name__, "reason": reason, "parameters": own}
        )
    return outside


def to_nir(node: Node) -> Any:
    """Return the NIR node of a module."""
    nir = import_nir()
    module = node.module
    if isinstance(module, Neuron):

        def full(value: float) -> np.ndarray:
            return np.full(node.size, value, dtype=np.float64)

        return nir.LIF(
            tau=full(module.tau),
            r=full(1.0 if module.decay_input else module.tau),
            v_leak=full(module.v_reset),
            v_threshold=full(np.nextafter(module.v_th, -np.inf)),
            v_reset=full(module.v_reset),
        )
    if isinstance(module, MaskedBatchNorm):
        scale, shift = (x.detach().double().numpy() for x in module.affine())
        return nir.Affine(weight=np.diag(scale), bias=shift)
    weight = module.weight.detach().numpy()
    if module.bias is None:
        return nir.Linear(weight=weight)
    return nir.Affine(weight=weight, bias=module.bias.detach().numpy())


def core_graph(nodes: list[Node]) -> Any:
    """Return a core as a NIR graph: an input, its nodes, an output for neurons and last nodes."""
    nir = import_nir()
    made = {node.name: to_nir(node) for node in nodes}
    first = made[nodes[0].name]
    graph = {"input": nir.Input(input_type={"input": first.input_type["input"]}), **made}
    edges = [(node.source or "input", node.name) for node in nodes]
    for node in exposed(nodes):
        out = f"output.{node.name}"
        graph[out] = nir.Output(output_type={"output": np.array([node.size])})
        edges.append((node.name, out))
    return nir.NIRGraph(nodes=graph, edges=edges)


def exposed(nodes: list[Node]) -> list[Node]:
    """Return the nodes whose output a core shows: neurons, and what no other node reads."""
    read = {node.source for node in nodes}
    return [node for node in nodes if node.spikes or node.name not in read]


def run_graph(graph: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Run a core as read from a file, in numpy.

    Args:
        graph: a NIR graph of Linear, Affine and LIF nodes with one input.
        x: steps, lanes and channels ``(S, lanes, C)``.

    Returns:
        output node -> ``(S, lanes, C')``.

    Raises:
        ValueError: a node of another kind.
    """
    sources = {target: source for source, target in graph.edges}
    values = {name: x for name in graph.inputs}
    waiting = [name for name in graph.nodes if name not in values]
    while waiting:
        name = next(name for name in waiting if sources[name] in values)
        waiting.remove(name)
        values[name] = run_node(graph.nodes[name], values[sources[name]])
    return {name: values[name] for name in graph.outputs}


def run_node(node: Any, x: np.ndarray) -> np.ndarray:
    """Return what a NIR node makes of ``(S, lanes, C)``."""
    kind = type(node).__name__
    if kind == "Output":
        return x
    if kind in ("Linear", "Affine"):
        y = x @ np.asarray(node.weight, dtype=np.float64).T
        return y + node.bias if kind == "Affine" else y
    if kind != "LIF":
        raise ValueError(f"no rule for a node {kind}")
    v = np.broadcast_to(node.v_reset, x.shape[1:]).astype(np.float64)
    spikes = np.empty_like(x)
    for step, current in enumerate(x):
        v = v + (node.v_leak - v + node.r * current) / node.tau
        fired = v > node.v_threshold
        v = np.where(fired, node.v_reset, v)
        spikes[step] = fired
    return spikes


def check_core(
    check: Check, graph: Any, nodes: list[Node], seen: Mapping[str, Call], T: int
) -> None:
    """Compare a core as read with the encoder's own pass."""

    def array(x: Tensor) -> np.ndarray:
        return sequence(x, T).double().numpy()

    got = run_graph(graph, array(seen[nodes[0].name].input))
    for node in exposed(nodes):
        ours, theirs = got[f"output.{node.name}"], array(seen[node.name].output)
        if node.spikes:
            check.spikes += int(theirs.sum())
            check.differing += int((ours != theirs).sum())
        else:
            largest = max(float(np.abs(theirs).max()), 1e-30)
            check.difference = max(check.difference, float(np.abs(ours - theirs).max()) / largest)


@torch.no_grad()
def export(encoder: nn.Module, inputs: Iterable[tuple[Tensor, Tensor]], out: Path) -> Export:
    """Write the cores of an encoder to a NIR file and compare what is read again.

    Args:
        encoder: in evaluation; a copy in float64 runs.
        inputs: of the encoder, one utterance each: ``(1, F, D)`` and its length.
        out: the file. It stays where the comparison fails, for a look.

    Raises:
        UserError: there is no core or no utterance, or the file does not compute what the encoder
            does.
    """
    import copy

    nir = import_nir()
    double = copy.deepcopy(encoder).double()
    time_steps = getattr(encoder, "time_steps", 1)
    found = graphs = None
    for speech, lengths in inputs:
        with calls(double) as seen:
            double(speech.double(), lengths)
        if found is None:
            found = find_cores(encoder, seen, time_steps)
            if not found.cores:
                raise UserError("the encoder has nothing that NIR can express")
            # weights as they are, in fp32; batch norms from float64
            for nodes in found.cores.values():
                for node in nodes:
                    if isinstance(node.module, MaskedBatchNorm):
                        node.module = seen[node.name].module
                    else:
                        node.module = encoder.get_submodule(node.name)
            cores = {name: core_graph(nodes) for name, nodes in found.cores.items()}
            nir.write(out, nir.NIRGraph(nodes=cores, edges=[], type_check=False))
            graphs = nir.read(out, type_check=False).nodes
        found.check.utterances += 1
        for name, nodes in found.cores.items():
            check_core(found.check, graphs[name], nodes, seen, time_steps)
    if found is None:
        raise UserError("no utterance is long enough for the encoder")
    return found


def manifest(encoder: nn.Module, found: Export) -> dict[str, Any]:
    """Return what is in the file and what is not, in plain values."""
    sizes = {name: p.numel() for name, p in encoder.named_parameters()}
    cores = {}
    for core, nodes in found.cores.items():
        cores[core] = [
            {
                "node": node.name,
                "type": type(node.module).__name__,
                "nir": type(to_nir(node)).__name__,
                "reads": node.source or "input",
                "parameters": [
                    f"{node.name}.{p}" for p, _ in node.module.named_parameters(recurse=False)
                ],
            }
            for node in nodes
        ]
    inside = sum(sizes[p] for nodes in cores.values() for node in nodes for p in node["parameters"])
    return {
        "dt": 1.0,
        "step": "a time step of a frame" if found.time_steps > 1 else "a frame",
        "parameters": sum(sizes.values()),
        "parameters_inside": inside,
        "cores": cores,
        "outside": found.outside,
        "check": {
            "utterances": found.check.utterances,
            "spikes": found.check.spikes,
            "differing_spikes": found.check.differing,
            "largest_difference": found.check.difference,
        },
    }


def export_experiment(
    asr_exp: Path, checkpoint: str | None, data_dir: Path, out: Path, utterances: int
) -> dict[str, Any]:
    """Export the encoder of a trained model and return the manifest, written to ``OUT.json``.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        checkpoint: file name of the model there; None for the best.
        data_dir: features of the utterances to compare on.
        out: the NIR file.
        utterances: how many.

    Raises:
        UserError: see `export`; also where NIR is not installed.
    """
    import_nir()
    import espnet_spike.task
    from espnet_spike.decoding import model_file
    from espnet_spike.kaldi_dir import write_lines
    from espnet_spike.reparameterize import encoder_inputs

    path = model_file(asr_exp, checkpoint)
    model, _ = espnet_spike.task.SpikeASRTask.build_model_from_file(
        str(asr_exp / "config.yaml"), str(path), "cpu"
    )
    model.eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    found = export(model.encoder, encoder_inputs(model, data_dir, utterances), out)
    content = {"experiment": asr_exp.name, "checkpoint": path.name, "file": out.name}
    content |= manifest(model.encoder, found)
    write_lines(out.with_name(f"{out.name}.json"), [json.dumps(content, indent=1)])
    if not found.check.holds:
        raise UserError(
            f"{out}: the file computes something else than the encoder: {content['check']}",
            "please report this",
        )
    return content
