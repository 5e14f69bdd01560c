"""Encoders written as NIR graphs and read back."""

import nir
import torch

from espnet_spike.counting.counter import Counter
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.export.nir_graph import Check, build, calls, outside, parameter_names
from espnet_spike.nn.norms import MaskedBatchNorm
from tests.counting.test_counter import SMALL, speech


def exported(encoder, tmp_path):
    """Return what became of an encoder with norms as after training, read back from a file."""
    encoder = encoder.double().eval()
    x, lengths = speech()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, MaskedBatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)
                module.weight.normal_()  # of either sign
                module.bias.normal_(0, 0.3)
        with Counter(encoder) as counter:
            encoder(x.double(), lengths)
        with calls(encoder) as found:
            encoder(x.double(), lengths)
        export = build(nir, found)
        nir.write(tmp_path / "graph.nir", nir.NIRGraph(export.nodes, export.edges))
        check = Check()
        check.add(nir.read(tmp_path / "graph.nir"), export)
    # what the neurons themselves say that they fired
    firing = [encoder.get_submodule(name).firing for name in export.cores]
    assert check.spikes == sum(float(found.count_sum) for found in firing)
    assert bool(check.spikes) == bool(export.cores)
    left = outside(encoder, export, counter.costs)
    names = [row["name"] for row in left["parameters"]]
    assert sorted([*names, *export.parameters]) == sorted(parameter_names(encoder))
    assert all(row["why"] for rows in left.values() for row in rows)
    inside = {(name, "neuron") for name in export.cores}
    inside |= {(name, "linear") for name in export.synapses}
    inside |= {(core.norm.name, "norm") for core in export.cores.values() if core.norm}
    operations = {(row["layer"], row["kind"]) for row in left["operations"]}
    assert inside | operations == set(counter.costs) and not inside & operations
    return export, check


def spikeformer(**conf):
    torch.manual_seed(0)
    return IMLSpikeformerEncoder(20, **(SMALL | {"T": 3} | conf))
