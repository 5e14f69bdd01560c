"""NIR files of encoders: nothing is lost, and what is read again gives the same spikes."""

import builtins

import nir
import numpy as np
import pytest
import torch

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import SpikingSpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.lif import lif_step
from espnet_spike.nir_export import Check, export, import_nir, manifest, run_node
from tests.test_counting import MAMBA, SMALL, speech

LIFS = {"T": 3, "neuron": "lif", "neuron_conf": {"v_th": 0.4, "tau": 1.5}}
ENCODERS = {
    "imls": lambda: IMLSpikeformerEncoder(20, **SMALL),
    "relu": lambda: IMLSpikeformerEncoder(20, neuron="relu", **SMALL),
    "lif": lambda: IMLSpikeformerEncoder(20, **SMALL, **LIFS),
    "lif ssa": lambda: IMLSpikeformerEncoder(20, qk_mode="ssa", norm="bn", **SMALL, **LIFS),
    "soft lif": lambda: IMLSpikeformerEncoder(
        20, **SMALL, **(LIFS | {"neuron_conf": {"reset": "soft"}})
    ),
    "no decay_input": lambda: IMLSpikeformerEncoder(
        20, **SMALL, **(LIFS | {"neuron_conf": {"v_reset": -0.1, "decay_input": False}})
    ),
    "spiking mamba": lambda: SpikingSpeechMambaEncoder(20, v_th=0.3, attn_v_th=0.1, **MAMBA),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Each encoder, its export and the graphs in its file."""
    found = {}
    for name, make in ENCODERS.items():
        torch.manual_seed(0)
        encoder = make().eval()
        out = tmp_path_factory.mktemp("nir") / "e.nir"
        inputs = [speech(41, seed=1), speech(60, seed=2)]
        found[name] = encoder, export(encoder, inputs, out), nir.read(out, type_check=False).nodes
    return found


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_is_in_the_file_or_in_the_manifest(name, exported):
    encoder, found, graphs = exported[name]
    content = manifest(encoder, found)
    nodes = [node for core in content["cores"].values() for node in core]
    inside = [p for node in nodes for p in node["parameters"]]
    outside = [p for module in content["outside"] for p in module["parameters"]]
    assert sorted(inside + outside) == sorted(name for name, _ in encoder.named_parameters())
    assert all(module["reason"] for module in content["outside"])
    sizes = {name: p.numel() for name, p in encoder.named_parameters()}
    assert content["parameters_inside"] == sum(sizes[p] for p in inside) > 0
    # the file holds these nodes and their weights as they are
    modules = dict(encoder.named_modules())
    for core, listed in content["cores"].items():
        for node in listed:
            read, module = graphs[core].nodes[node["node"]], modules[node["node"]]
            assert type(read).__name__ == node["nir"]
            if isinstance(module, torch.nn.Linear):
                assert np.array_equal(read.weight, module.weight.detach().numpy())
    # neurons are in one of the two as well
    listed = {node["node"] for node in nodes} | {m["module"] for m in content["outside"]}
    assert listed >= {n for n, m in modules.items() if hasattr(m, "firing")}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_file_read_again_fires_as_the_encoder(name, exported):
    _, found, graphs = exported[name]
    assert found.check.holds and found.check.utterances == 2
    neurons = {n.name for nodes in found.cores.values() for n in nodes if n.spikes}
    assert (found.check.spikes > 0) == bool(neurons)
    assert bool(neurons) == (name in ("lif", "lif ssa", "no decay_input", "spiking mamba"))
    assert all(graph.edges for graph in graphs.values())


def test_layers_that_follow_each_other_are_one_core(exported):
    _, found, _ = exported["spiking mamba"]
    names = [[node.name for node in nodes] for nodes in found.cores.values()]
    attention = next(core for core in names if "encoders.0.attn.linear_q" in core)
    for part in "qkv":
        assert f"encoders.0.attn.neuron_{part}.lif" in attention
    sources = {n.name: n.source for nodes in found.cores.values() for n in nodes}
    assert sources["encoders.0.attn.linear_q"] == "encoders.0.attn.neuron_in.lif"
    assert sources["encoders.0.attn.neuron_q.lif"] == "encoders.0.attn.neuron_q.norm"
    assert sources["encoders.0.attn.linear_out"] == "encoders.0.attn.neuron_out"


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.3])
def test_lif_is_that_of_nir_on_the_threshold_too(decay_input, v_reset):
    """Potentials on a coarse grid meet the threshold exactly, where we fire and NIR does not."""
    x = np.random.default_rng(0).integers(0, 4, size=(50, 1, 8)) / 2.0
    conf = {"tau": 2.0, "v_th": 1.0, "v_reset": v_reset, "decay_input": decay_input}
    v, expected, met = torch.full((1, 8), v_reset, dtype=torch.float64), [], 0
    for current in torch.from_numpy(x):

        def fire(h):
            nonlocal met
            met += int((h == 0).sum())
            return (h >= 0).double()

        s, v = lif_step(v, current, fire, **conf)
        expected.append(s.numpy())
    full = np.ones(8)
    node = nir.LIF(
        tau=2 * full,
        r=full * (1 if decay_input else 2),
        v_leak=v_reset * full,
        v_threshold=np.nextafter(full, -np.inf),
        v_reset=v_reset * full,
    )
    assert np.array_equal(run_node(node, x), np.stack(expected))
    if v_reset == 0:
        assert met > 0


def test_a_difference_is_found(exported, tmp_path):
    check = Check(utterances=1, spikes=5, differing=1)
    assert not check.holds and not Check().holds
    assert not Check(utterances=1, difference=1e-6).holds
    with pytest.raises(ValueError, match="no rule"):
        run_node(nir.IF(r=np.ones(2), v_threshold=np.ones(2)), np.ones((1, 1, 2)))


def test_without_utterance_or_nir_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no utterance"):
        export(ENCODERS["lif"]().eval(), [], tmp_path / "e.nir")
    really = builtins.__import__

    def without_nir(name, *args, **kwargs):
        if name == "nir":
            raise ImportError(name)
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nir)
    with pytest.raises(UserError, match="NIR is not installed") as caught:
        import_nir()
    assert "espnet_spike[nir]" in caught.value.hint
