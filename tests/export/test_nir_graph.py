"""NIR graphs of spiking encoders: the same spikes, and nothing lost without being named."""

import builtins
import json

import nir
import pytest
import torch
import yaml

from espnet_spike.bin import export_nir
from espnet_spike.encoders.speech_mamba import SpikingSpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.export.nir_graph import Check, build, calls
from espnet_spike.utils.install import how_to_install
from tests.counting.test_counter import MAMBA, MODES, SMALL, speech
from tests.helpers import tiny_model
from tests.helpers.nir_files import exported, spikeformer


@pytest.mark.parametrize("neuron", ["lif", "imls", "ilif"])
@pytest.mark.parametrize("qk_mode", MODES)
def test_spikes_are_those_of_the_encoder(qk_mode, neuron, tmp_path):
    conf = {"norm": "bn", "conv_module": True, "conv_module_kernel": 3}
    export, check = exported(spikeformer(qk_mode=qk_mode, neuron=neuron, **conf), tmp_path)
    assert check.spikes and check.different == 0 and check.current < 1e-12
    assert "encoders.0.ffn.linear_out" in export.synapses
    # the level that IMLS follows splits the chain
    hidden = "encoders.0.ffn.neuron_hidden" + (".neuron" if neuron == "lif" else ".slot1")
    assert (("encoders.0.ffn.linear_in", hidden) in export.edges) == (neuron != "imls")


@pytest.mark.parametrize("stat", ["token", "utt", "max", "ema", "fixed"])
def test_thresholds_of_imls(stat, tmp_path):
    conf = {"imls_stat": stat, "rounding": "even", "inner_norm": True, "qkv_bias": True}
    export, check = exported(spikeformer(**conf), tmp_path)
    assert check.spikes and check.different == 0 and check.current < 1e-12
    # a level that follows the input splits the chain, a constant one does not
    joined = ("encoders.0.ffn.linear_in", "encoders.0.ffn.neuron_hidden.slot1") in export.edges
    assert joined == (stat in ("ema", "fixed"))


def test_spiking_speech_mamba(tmp_path):
    torch.manual_seed(0)
    encoder = SpikingSpeechMambaEncoder(20, v_th=0.3, attn_v_th=0.1, **MAMBA)
    export, check = exported(encoder, tmp_path)
    assert check.spikes and check.different == 0 and check.current < 1e-12
    # the gate's half of in_proj drives its neurons, the other half leaves to the convolution
    for mamba in ("encoders.0.mamba_in.sublayer", "encoders.0.mamba_out.sublayer"):
        assert (f"{mamba}.in_proj[16:32]", f"{mamba}.f6.neuron") in export.edges
        assert f"{mamba}.in_proj[0:16].current" in export.nodes
    attn = "encoders.0.attn.sublayer"
    assert (f"{attn}.linear_q", f"{attn}.neuron_q.neuron") in export.edges


@pytest.mark.parametrize("per_channel", [False, True])
def test_spiking_speech_mamba_of_integer_neurons(per_channel, tmp_path):
    torch.manual_seed(0)
    conf = MAMBA | {"neuron": "ilif", "T": 3, "per_channel": per_channel}
    encoder = SpikingSpeechMambaEncoder(20, v_th=0.3, attn_v_th=0.1, **conf)
    export, check = exported(encoder, tmp_path)
    assert check.spikes and check.different == 0 and check.current < 1e-12
    neuron = "encoders.0.attn.sublayer.neuron_q.neuron"
    slots = {name for name in export.nodes if name.startswith(f"{neuron}.slot")}
    assert slots == {f"{neuron}.slot{t}" for t in (1, 2, 3)}


def test_what_nir_cannot_hold_stays_outside(tmp_path):
    conf = {"neuron": "lif", "neuron_conf": {"reset": "soft"}}
    export, check = exported(spikeformer(**conf), tmp_path)
    assert not export.cores and not export.nodes and check.activations == 0
    export, _ = exported(spikeformer(neuron="ternary"), tmp_path)
    assert not export.cores


def test_a_changed_weight_is_seen():
    encoder = spikeformer(neuron="ilif").double().eval()
    x, lengths = speech()
    with torch.no_grad(), calls(encoder) as found:
        encoder(x.double(), lengths)
    export = build(nir, found)
    node = export.nodes["encoders.0.ffn.linear_in"]
    node.weight = node.weight + 0.5
    check = Check()
    check.add(nir.NIRGraph(export.nodes, export.edges), export)
    assert check.different > 0 and check.current > 1e-3


def experiment(tmp_path, encoder, conf):
    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    exp = tmp_path / "asr_x"
    exp.mkdir()
    (tmp_path / "tokens.txt").write_text("\n".join(tiny_model.TOKENS) + "\n")
    config = tiny_model.CONFIG | {"encoder": encoder, "encoder_conf": conf}
    words = ["--output_dir", str(exp), "--token_list", str(tmp_path / "tokens.txt")]
    words += ["--token_type", "char", "--input_size", str(tiny_model.DIMENSION)]
    args = parse_espnet(SpikeASRTask, config, words)
    torch.save(SpikeASRTask.build_model(args).state_dict(), exp / "valid.cer_ctc.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    texts = tiny_model.make_texts(3, seed=4)
    return exp, tiny_model.write_features(tmp_path / "dump", texts, seed=4)


def test_the_command(tmp_path, capsys, monkeypatch):
    exp, data = experiment(tmp_path, "iml_spikeformer", SMALL)
    out = tmp_path / "nir" / "x.nir"
    words = ["--asr_exp", str(exp), "--data_dir", str(data), "--out", str(out)]
    export_nir.main(words)
    manifest = json.loads(out.with_name("x.nir.json").read_text())
    assert manifest["check"]["utterances"] == 3 and manifest["check"]["different"] == 0
    printed = capsys.readouterr().out
    assert f"{manifest['check']['spikes']} spikes: 0 differ" in printed
    assert "left out: CTC, decoder transformer" in printed
    assert manifest["left_out"] == ["CTC", "decoder transformer"]
    nodes = nir.read(out).nodes
    assert {node for held in manifest["parameters"].values() for node in held} <= set(nodes)
    assert 0.5 < manifest["share"] < 1
    assert {row["kind"] for row in manifest["outside"]["operations"]} >= {"attention", "norm"}
    out.unlink()
    different = Check.add
    monkeypatch.setattr(Check, "add", lambda *a: (different(*a), setattr(a[0], "different", 1)))
    with pytest.raises(UserError, match="other spikes"):
        export_nir.main(words)
    assert not out.exists() and not list(out.parent.glob(".*"))
    taken = builtins.__import__

    def without_nir(name, *args, **kwargs):
        if name == "nir":
            raise ImportError("No module named 'nir'")
        return taken(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nir)
    with pytest.raises(UserError, match="the package nir is missing") as error:
        export_nir.main(words)
    assert error.value.hint == how_to_install("nir")


def test_an_encoder_without_spikes_is_refused(tmp_path):
    exp, data = experiment(tmp_path, "iml_spikeformer", SMALL | {"neuron": "relu"})
    words = ["--asr_exp", str(exp), "--data_dir", str(data), "--out", str(tmp_path / "x.nir")]
    with pytest.raises(UserError, match="no spiking neurons"):
        export_nir.main(words)
    assert not (tmp_path / "x.nir").exists()
