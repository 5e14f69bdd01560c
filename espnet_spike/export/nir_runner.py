"""Run a NIR graph on recorded values, as the NIR paper (Nature Communications 15, 2024) defines it.

Only what ``export.nir_graph`` writes: Input, Output, Linear, Affine, Threshold, LIF. Time is
discrete, forward Euler with a step of 1, and a node adds up what its edges bring.
"""

from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor

from espnet_spike.errors import UserError


def run_graph(graph: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what every node gives.

    Args:
        graph: a ``nir.NIRGraph`` without cycles.
        inputs: Input node -> its values, ``(time, items, features)``.

    Raises:
        UserError: the graph has a node that is not known here.
    """
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    values: dict[str, Tensor] = {}
    for name in TopologicalSorter(before).static_order():
        if name in inputs:
            values[name] = inputs[name]
        else:
            first, *others = (values[b] for b in before[name])
            values[name] = _run_node(graph.nodes[name], sum(others, first), name)
    return values


def _run_node(node: Any, x: Tensor, name: str) -> Tensor:
    """Return what a node makes of ``x`` ``(time, items, features)``."""

    def constant(field: str) -> Tensor:
        return torch.as_tensor(getattr(node, field)).to(x.dtype)

    match type(node).__name__:
        case "Output":
            return x
        case "Linear":
            return x @ constant("weight").t()
        case "Affine":
            return x @ constant("weight").t() + constant("bias")
        case "Threshold":
            return (x > constant("threshold")).to(x.dtype)
        case "LIF":
            v_reset, v_threshold = constant("v_reset"), constant("v_threshold")
            v_leak, r, tau = constant("v_leak"), constant("r"), constant("tau")
            v, spikes = v_reset.expand(x.shape[1:]), []
            for current in x:
                v = v + ((v_leak - v) + r * current) / tau
                z = v > v_threshold
                v = torch.where(z, v_reset, v)
                spikes.append(z.to(x.dtype))
            return torch.stack(spikes)
        case kind:
            raise UserError(f"{name}: a NIR node {kind} cannot be run here")
