"""What was counted, under the names of NeuroBench (Yik et al. 2025, Nature Communications 16:1545).

Its definitions, for the figures of one set; a sample is an utterance:

========================  =====================================================================
footprint                 bytes of all parameters and buffers
connection_sparsity       zeros among the weights of linear, convolutional and recurrent layers
activation_sparsity       zeros among what neurons and activations put out
synaptic_operations       of layers with weights, a sample. Dense: all; Effective_ACs: inputs that
                          are spikes; Effective_MACs: real inputs that are not zero
membrane_updates          updates of neurons, a sample
model_execution_rate      how often the model runs in a second of audio, Hz
========================  =====================================================================

Where ours differ, ``notes`` says so in the file itself.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from espnet_spike.counting.costs import total
from espnet_spike.nn.accounting import Cost

NEUROBENCH = "neurobench.json"
CONNECTIONS = ("linear", "conv", "depthwise_conv")
BEYOND = ("attention", "scan")
NOTES = [
    "a spike count of m is m accumulates, what NeuroBench counts for its m binary spikes over m "
    "time steps; each layer is spikes or real values by what made its input, not by its values",
    "NeuroBench leaves out weights that are zero, here they count: with a connection_sparsity of 0 "
    "the two are equal",
    "attention and scan have no layer with weights; NeuroBench does not see them, they are "
    "in beyond_neurobench",
    "Dense counts the padding of a convolution as torch does, NeuroBench leaves it out",
    "membrane_updates are all updates, NeuroBench's those that change the potential",
]


def footprint(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(x.numel() * x.element_size() for x in tensors)


def connection_sparsity(model: nn.Module) -> float | None:
    """Return the share of weights that are zero, to 4 digits; None without such layers.

    Weights of Linear and Conv1d to Conv3d, weights and biases of RNNs and their cells.
    """
    zeros = size = 0
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            weights = [module.weight]
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            weights = list(module.parameters(recurse=False))
        else:
            continue
        zeros += sum(int((weight == 0).sum()) for weight in weights)
        size += sum(weight.numel() for weight in weights)
    return round(zeros / size, 4) if size else None


def static_metrics(model: nn.Module) -> dict[str, Any]:
    """Return the metrics that need no data."""
    return {
        "footprint": footprint(model),
        "parameter_count": sum(p.numel() for p in model.parameters()),
        "connection_sparsity": connection_sparsity(model),
    }


def workload_metrics(costs: Mapping[tuple[str, str], Cost], samples: int) -> dict[str, Any]:
    """Return the metrics of what was counted.

    Args:
        costs: sums over a set.
        samples: utterances in it.
    """

    def sums(kinds: Iterable[str]) -> Cost:
        return total(cost for (_, kind), cost in costs.items() if kind in kinds)

    def operations(kind_sums: Cost) -> dict[str, float]:
        return {
            "Effective_MACs": kind_sums.macs / samples,
            "Effective_ACs": kind_sums.acs / samples,
            "Dense": kind_sums.dense_macs / samples,
        }

    emitted = sums(("neuron", "activation"))
    return {
        "activation_sparsity": 1 - emitted.nonzeros / emitted.inputs if emitted.inputs else 0.0,
        "synaptic_operations": operations(sums(CONNECTIONS)),
        "membrane_updates": sums(("neuron",)).updates / samples,
        "beyond_neurobench": {kind: operations(sums((kind,))) for kind in BEYOND},
    }


def execution_rate(frames: int, seconds: float, factor: int, steps: int) -> float:
    """Return how often an encoder runs in a second of audio, Hz.

    Args:
        frames: of features.
        seconds: of audio that they are.
        factor: frames of features to a frame of the encoder.
        steps: (virtual) time steps of its neurons, 1 without.
    """
    return round(frames / seconds / factor * steps, 2)
