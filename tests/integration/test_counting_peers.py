"""Counts against the counter of spikingjelly, on the binary spikes that integer counts stand for.

spikingjelly looks at values: an operand of 0 and 1 alone is spikes, anything else is real. So it
gets the encoders in binary execution, where every spike is a 0 or 1.
"""

from collections import defaultdict
from contextlib import contextmanager

import pytest
import torch
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

from espnet_spike.counting.costs import PRODUCTS
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import SpikingSpeechMambaEncoder
from espnet_spike.nn.layers.heads import split_heads
from espnet_spike.nn.layers.spiking_attention import SpikingAttention
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from tests.counting.test_counter import MAMBA, MODES, SMALL, count, speech


def synops(run):
    """spikingjelly's synaptic operations while ``run`` runs, of each layer with what is inside."""
    counter = SynOpCounter()
    # under inference_mode the dispatcher would show it composite operations, which it has no rule
    # for
    with torch.no_grad(), DispatchCounterMode([counter]):
        run()
    found = {scope: sum(by_op.values()) for scope, by_op in counter.get_counts().items()}
    # scopes are Global and ModelClass.path.of.the.layer
    layers = {s.partition(".")[2]: n for s, n in found.items() if n and s != "Global"}
    return layers | {"": found["Global"]}


def accumulates(counter):
    """Our accumulates likewise; the scan has no operation that spikingjelly could see."""
    found = defaultdict(float)
    for (layer, kind), cost in counter.costs.items():
        if kind in PRODUCTS and kind != "scan" and cost.acs:
            parts = layer.split(".")
            for depth in range(len(parts) + 1):
                found[".".join(parts[:depth])] += cost.acs
    return dict(found)


@contextmanager
def projections():
    """Collect what the attentions make of their input within the context, (Q, K, V) a block."""
    seen, attend = [], SpikingAttention.attend

    def watched(attn, query, key, value, mask, lengths):
        seen.append((query, key, value))
        return attend(attn, query, key, value, mask, lengths)

    SpikingAttention.attend = watched
    try:
        yield seen
    finally:
        SpikingAttention.attend = attend


def unrolled(query, key, value, heads):
    """Attention as products of 0/1 spikes alone, slot by slot, and of the map with V's spikes."""

    def slots(train):
        if isinstance(train, SpikeTrain):
            return [split_heads(train.slot(t), heads) for t in range(1, train.levels + 1)]
        return [split_heads((train != 0).to(train.dtype), heads)]

    scores = 0.5 + sum(q @ k.transpose(-1, -2) for q in slots(query) for k in slots(key))
    return sum(scores @ v for v in slots(value))


NEURONS = {"imls": {}, "ilif": {}, "lif": {"neuron_conf": {"v_th": 0.3, "tau": 1.5}}}


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("qk_mode", MODES)
def test_synops_are_those_of_spikingjelly(qk_mode, neuron):
    torch.manual_seed(0)
    conf = {"T": 3, "attention_form": "quadratic", "conv_module": True, "conv_module_kernel": 3}
    conf |= SMALL | NEURONS[neuron]
    model = IMLSpikeformerEncoder(20, qk_mode=qk_mode, neuron=neuron, **conf).eval()
    model.reparameterize()
    integer = accumulates(count(model, *speech()))
    if neuron != "lif":
        model.set_spike_mode("binary")
    binary = accumulates(count(model, *speech()))
    with projections() as seen:
        theirs = synops(lambda: model(*speech()))
    if qk_mode in ("repconv", "ssa"):
        # Q spikes as well, but reaches the map times its unit and the map's scale. spikingjelly
        # takes that for real values, and lets each spike of K be added for every frame of Q. Where
        # both operands are 0/1 it counts what we count, pairs of spikes that meet: nothing is
        # added where Q is silent. So it gets Q slot by slot, too.
        assert integer != theirs
        for block, operands in enumerate(seen):
            layer = f"encoders.{block}.attn"
            children = [s for s in theirs if s.rpartition(".")[0] == layer]
            own = theirs[layer] - sum(theirs[child] for child in children)
            exact = synops(lambda operands=operands: unrolled(*operands, heads=2))[""]
            for outer in ("", f"encoders.{block}", layer):
                theirs[outer] += exact - own
    theirs |= {"encoders": sum(theirs[f"encoders.{block}"] for block in range(2))}
    theirs |= {"embed.convs": theirs["embed.convs.1"]}  # lists of modules are no scopes there
    assert integer == binary == theirs


def test_synops_of_spiking_speech_mamba_are_those_of_spikingjelly():
    torch.manual_seed(0)
    model = SpikingSpeechMambaEncoder(20, v_th=0.3, attn_v_th=0.1, **MAMBA).eval()
    # long enough for counts above 1 in K^T V: 0 and 1 alone are spikes to spikingjelly
    theirs = synops(lambda: model(*speech(161)))
    ours = accumulates(count(model, *speech(161)))
    for layer, found in theirs.items():
        assert ours[layer] == found, layer
    assert theirs[""] == ours[""] and theirs["encoders.0.attn.sublayer"] > 0
