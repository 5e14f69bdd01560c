"""Neurons, encoders and decoders of another package get what ours get, unnamed here."""

import json
import logging

import nir
import pytest
import torch
import yaml
from torch import nn

from espnet_spike.bin import count, export_nir
from espnet_spike.counting.costs import PRODUCTS, total
from espnet_spike.counting.counter import Counter
from espnet_spike.counting.sweep import Setting
from espnet_spike.counting.twin import Twin
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.monitor import layer_spikes
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.export.nir_graph import Check, build, calls, why_not
from espnet_spike.inference.beam_search import BeamSearch
from espnet_spike.inference.decode import read_settings
from espnet_spike.nn.neurons.base import Activation, Neuron, firing_rates, named_neurons
from espnet_spike.nn.neurons.factory import NEURONS, NeuronFactory, register_neuron
from espnet_spike.nn.neurons.lif import LIF
from espnet_spike.simulator.record import record_encoder
from espnet_spike.tasks.config_check import check_training_config
from espnet_spike.tasks.loading import load_model
from espnet_spike.tasks.registry import decoder_origins, encoder_origins, register_all
from tests.helpers import tiny_model
from tests.helpers.plugins import installed_plugins, kept_choices

SMALL = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 2, "T": 3}
SMALL |= {"conv_channels": 4}
MODES = ("bilinear", "asym", "repconv", "ssa", "sdsa")


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    with installed_plugins(monkeypatch):
        register_all()
        yield


def speech(frames=41, dim=20):
    x = 2 * torch.randn(1, frames, dim, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([frames])


def spikeformer(**conf):
    torch.manual_seed(0)
    return IMLSpikeformerEncoder(20, **{"neuron": "outside_burst"} | SMALL | conf).eval()


def outside_encoder(**conf):
    from outside_package.spiking import SpikingEncoder

    torch.manual_seed(0)
    return SpikingEncoder(20, **conf).eval()


def counted(encoder):
    x, lengths = speech()
    with torch.inference_mode(), Counter(encoder) as counter:
        y = encoder(x, lengths)[0]
    assert not counter.uncovered and not counter.lost
    return counter.costs, y


def products(costs):
    return total(cost for (_, kind), cost in costs.items() if kind in PRODUCTS)


# --- a neuron in our encoder


@pytest.mark.parametrize("neuron", ["outside_burst", "outside_plain"])
@pytest.mark.parametrize("qk_mode", MODES)
def test_a_neuron_is_counted(qk_mode, neuron):
    encoder = spikeformer(qk_mode=qk_mode, neuron=neuron)
    costs, _ = counted(encoder)
    assert {key for key in costs if key[1] == "neuron"} == {
        (name, "neuron") for name in named_neurons(encoder)
    }
    neurons = total(cost for (_, kind), cost in costs.items() if kind == "neuron")
    assert neurons.spikes == sum(float(n.firing.count_sum) for n in named_neurons(encoder).values())
    assert 0 < neurons.spikes < neurons.slots and products(costs).acs > 0
    assert neurons.additions == neurons.updates > 0  # as its update_cost says
    assert costs["encoders.0.attn.linear_out", "linear"].macs == 0


@pytest.mark.parametrize("qk_mode", MODES)
def test_a_neuron_runs_on_binary_spikes(qk_mode):
    encoder = spikeformer(qk_mode=qk_mode).double()
    encoder.reparameterize()
    x, lengths = speech()
    results = []
    for mode in ("integer", "binary"):
        SpikeOptions(spike_mode=mode).apply(encoder)
        with torch.inference_mode(), Counter(encoder) as counter:
            results.append((encoder(x.double(), lengths)[0], products(counter.costs)))
        assert not counter.uncovered and not counter.lost
    (integer, costs), (binary, binary_costs) = results
    assert torch.allclose(integer, binary)
    assert (costs.acs, costs.macs) == (binary_costs.acs, binary_costs.macs)


def test_a_neuron_is_watched():
    encoder = spikeformer()
    with torch.no_grad(), layer_spikes(encoder) as seen:
        encoder(*speech())
    assert seen.keys() == named_neurons(encoder).keys() == firing_rates(encoder).keys()
    for name, (counts, levels) in seen.items():
        assert levels == 3 and counts.sum() == named_neurons(encoder)[name].firing.count_sum


def test_thresholds_of_a_neuron_are_swept():
    encoder = spikeformer()
    before = counted(encoder)
    with Setting(scale=1.5).applied(encoder):
        costs, y = counted(encoder)
        assert not torch.equal(y, before[1])
        assert products(costs).acs < products(before[0]).acs  # larger inputs, fewer spikes
    after = counted(encoder)
    assert torch.equal(after[1], before[1]) and after[0] == before[0]


def test_a_neuron_is_exported():
    encoder = spikeformer().double()
    x, lengths = speech()
    with torch.no_grad(), calls(encoder) as found:
        encoder(x.double(), lengths)
    export = build(nir, found)
    assert set(export.cores) == set(named_neurons(encoder))
    check = Check()
    check.add(nir.NIRGraph(export.nodes, export.edges), export)
    assert check.spikes > 0 and check.different == 0 and check.current < 1e-9


def test_a_neuron_is_simulated():
    recording = record_encoder(spikeformer(), [speech(41), speech(33)])
    sites = {site.name: site for site in recording.sites}
    assert set(named_neurons(spikeformer())) <= set(sites)
    assert recording.codings[-1].startswith("spike")


def test_what_a_neuron_does_not_offer_is_refused_by_its_name():
    encoder = spikeformer(neuron="outside_plain")
    with pytest.raises(UserError, match=r"spike_mode: Plain \(embed.neurons.0\) does not emit"):
        SpikeOptions(spike_mode="binary").apply(encoder)
    with pytest.raises(UserError, match="no thresholds"), Setting(scale=2.0).applied(encoder):
        pass
    with pytest.raises(UserError, match="no levels"), Setting(T=2).applied(encoder):
        pass
    with pytest.raises(UserError, match=r"embed.neurons.0: Plain cannot be simulated"):
        record_encoder(encoder, [speech()])
    assert (
        why_not(named_neurons(encoder)["embed.neurons.0"]) == "Plain does not say how it responds"
    )


def test_a_neuron_is_trained_and_its_options_are_checked():
    encoder = spikeformer(neuron_conf={"size": 0.25}).train()
    encoder(*speech())[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    with pytest.raises(ValueError, match=r"neuron_conf: 'sise' .*did you mean 'size'"):
        spikeformer(neuron_conf={"sise": 1})
    with pytest.raises(ValueError, match="did you mean 'outside_burst'"):
        NeuronFactory("outside_brust")


# --- an encoder of its own


def test_an_encoder_says_its_twin():
    encoder = outside_encoder()
    twin = Twin("outside_spiking", {"hidden": 24}, 20).costs(41)
    costs, _ = counted(encoder)
    assert products(costs).dense_macs == products(twin).dense_macs == products(twin).macs
    assert products(twin).acs == 0 < products(costs).acs
    assert Twin("outside_mean", {}, 20).costs(41) is None
    assert encoder_origins()["outside_spiking"] == "outside-package"


def test_an_encoder_runs_on_binary_spikes_or_is_refused():
    encoder = outside_encoder().double()
    x, lengths = speech()
    integer = encoder(x.double(), lengths)[0]
    SpikeOptions(spike_mode="binary").apply(encoder)
    assert torch.allclose(encoder(x.double(), lengths)[0], integer)
    with pytest.raises(UserError, match="Plain"):
        SpikeOptions(spike_mode="binary").apply(outside_encoder(neuron="outside_plain"))
    with pytest.raises(UserError, match="T: SpikingEncoder has no levels"):
        SpikeOptions(T=2).apply(encoder)
    with pytest.raises(UserError, match="SpikingEncoder cannot be simulated"):
        record_encoder(outside_encoder(), [speech()])


def experiment(tmp_path, encoder, conf, **more):
    """Return an untrained model's folder and its data."""
    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    exp = tmp_path / "asr_x"
    exp.mkdir()
    (tmp_path / "tokens.txt").write_text("\n".join(tiny_model.TOKENS) + "\n")
    config = tiny_model.CONFIG | {"encoder": encoder, "encoder_conf": conf}
    config |= {"decoder": None, "decoder_conf": {}, "model_conf": {"ctc_weight": 1.0}} | more
    words = ["--output_dir", str(exp), "--token_list", str(tmp_path / "tokens.txt")]
    words += ["--token_type", "char", "--input_size", str(tiny_model.DIMENSION)]
    args = parse_espnet(SpikeASRTask, config, words)
    torch.manual_seed(0)
    torch.save(SpikeASRTask.build_model(args).state_dict(), exp / "valid.cer_ctc.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    texts = tiny_model.make_texts(3, seed=4)
    return exp, tiny_model.write_features(tmp_path / "dump", texts, seed=4, seconds=1.0)


@pytest.mark.parametrize(
    ("encoder", "conf"),
    [
        ("outside_spiking", {"hidden": 24}),
        ("outside_mean", {}),
        ("iml_spikeformer", SMALL | {"neuron": "outside_burst"}),
    ],
)
def test_the_commands_take_them(tmp_path, encoder, conf):
    exp, data = experiment(tmp_path, encoder, conf)
    spikes = encoder != "outside_mean"
    count.main(["--asr_exp", str(exp), "--out", str(tmp_path / "out"), f"test={data}"])
    found = json.loads((tmp_path / "out" / "test" / "count.json").read_text())
    assert not found["uncovered"] and not found["spikes_made_real"]
    assert (found["sparsity"]["firing_rate"] is not None) == spikes
    energy = found["energy"][next(iter(found["energy"]))]
    assert energy["twin"] == ("dense encoder" if spikes else "itself, nothing skipped")
    out = tmp_path / "x.nir"
    words = ["--asr_exp", str(exp), "--data_dir", str(data), "--out", str(out)]
    if not spikes:
        with pytest.raises(UserError, match="outside_mean has no spiking neurons"):
            export_nir.main(words)
        return
    export_nir.main(words)
    manifest = json.loads(out.with_name("x.nir.json").read_text())
    assert manifest["check"]["different"] == 0 < manifest["check"]["spikes"]


def test_a_decoder_is_trained_decoded_with_and_counted(tmp_path):
    assert decoder_origins()["outside_sum"] == "outside-package"
    more = {"decoder": "outside_sum", "decoder_conf": {"scale": 0.5}}
    more |= {"model_conf": {"ctc_weight": 0.3}}
    exp, data = experiment(tmp_path, "outside_mean", {}, **more)
    model = load_model(exp).model
    x, lengths = speech(dim=tiny_model.DIMENSION)
    loss, stats, _ = model(x, lengths, torch.tensor([[3, 4]]), torch.tensor([2]))
    loss.backward()
    assert model.decoder.embed.weight.grad.any() and stats["acc"] is not None
    files = {"asr_train_config": exp / "config.yaml"}
    files |= {"asr_model_file": exp / "valid.cer_ctc.ave.pth"}
    settings = read_settings(None, "--beam_size 2 --ctc_weight 0.0 --maxlenratio -3")
    search = BeamSearch({key: str(path) for key, path in files.items()}, settings)
    ((_, tokens, score),) = search([x[0].numpy()])
    assert len(tokens) <= 3 and score < 0
    count.main(["--asr_exp", str(exp), "--out", str(tmp_path / "out"), f"test={data}"])
    found = json.loads((tmp_path / "out" / "test" / "count.json").read_text())
    assert not found["uncovered"] and found["decoder_input"] == "best path of CTC"


def test_a_configuration_that_names_them_is_checked(tmp_path):
    from espnet_spike.tasks.asr import SpikeASRTask

    path = tmp_path / "train.yaml"
    config = {"encoder": "iml_spikeformer", "encoder_conf": SMALL | {"neuron": "outside_burst"}}
    config |= {"model_conf": {"ctc_weight": 1.0}}
    check_training_config(SpikeASRTask, config, path, vocab_size=10)
    config["encoder_conf"] = SMALL | {"neuron": "outside_brust"}
    with pytest.raises(UserError, match="did you mean 'outside_burst'"):
        check_training_config(SpikeASRTask, config, path, vocab_size=10)


# --- names


def test_what_cannot_be_used_says_so_when_it_is_asked_for(caplog):
    with caplog.at_level(logging.WARNING):
        assert NeuronFactory("lif").cls is LIF  # a clash leaves what was there first
    warned = "\n".join(record.message for record in caplog.records)
    for name in ("lost_neuron", "silent_neuron", "lif"):
        assert f"neuron plugin broken-package:{name}" in warned
    with pytest.raises(UserError, match="'broken-package' cannot be used: ModuleNotFoundError"):
        NeuronFactory("lost_neuron")
    with pytest.raises(UserError, match=r"Silent has no spike_counts, update_cost"):
        NeuronFactory("silent_neuron")


class Leaves(Activation):
    """What neither spikes nor has time steps."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x, mask=None):
        return x


def test_a_neuron_can_be_registered_by_hand():
    with kept_choices():
        register_neuron("leaves", Leaves)
        register_neuron("leaves", Leaves)  # the same again is no clash
        assert isinstance(NeuronFactory("leaves", 3)(2), Leaves)
        with pytest.raises(UserError, match=r"'leaves' is taken by .*Leaves"):
            register_neuron("leaves", LIF)
    assert "leaves" not in NEURONS


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("lif", Leaves, r"taken by espnet_spike.*LIF"),
        ("Mine", Leaves, "not lower case"),
        ("mine", nn.ReLU, "not a subclass of Activation"),
        ("mine", Leaves(1), "not a subclass of Activation"),
        ("mine", Neuron, "has no spike_counts, update_cost"),
    ],
)
def test_refused(name, cls, message):
    before = dict(NEURONS)
    with pytest.raises(UserError, match=message):
        register_neuron(name, cls)
    assert before == NEURONS
