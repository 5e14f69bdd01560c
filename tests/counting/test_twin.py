"""The dense twin: found for each spiking encoder, and what it costs equals a real run."""

import pytest
import torch
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

from espnet_spike.counting.costs import PRODUCTS, total
from espnet_spike.counting.counter import Counter
from espnet_spike.counting.twin import Twin, find_twin
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
)

SMALL = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 2}


def products(costs):
    return total(cost for (_, kind), cost in costs.items() if kind in PRODUCTS)


def run(encoder, frames=31):
    x = torch.randn(1, frames, 20)
    with torch.inference_mode(), Counter(encoder.eval(), "encoder") as counter:
        encoder(x, torch.tensor([frames]))
    return dict(counter.costs)


@pytest.mark.parametrize("fold_qk", [False, True])
@pytest.mark.parametrize("qk_mode", ["bilinear", "asym", "repconv", "ssa", "sdsa"])
def test_twin_of_iml_spikeformer(qk_mode, fold_qk):
    conf = SMALL | {"qk_mode": qk_mode, "fold_qk": fold_qk}
    twin = Twin("iml_spikeformer", conf, 20).costs(31)
    relu = run(IMLSpikeformerEncoder(20, neuron="relu", **SMALL, qk_mode=qk_mode))
    assert twin.keys() == relu.keys()
    for key, cost in relu.items():
        assert twin[key].dense_macs == cost.dense_macs == twin[key].macs, key
        for column in ("multiplies", "additions", "special", "values_read", "values_written"):
            if (key[1], column) == ("gate", "multiplies"):  # zeros are skipped in a real run
                assert twin[key].multiplies >= cost.multiplies
            else:
                assert getattr(twin[key], column) == getattr(cost, column), (key, column)
    spiking = run(IMLSpikeformerEncoder(20, **SMALL, qk_mode=qk_mode))
    assert products(spiking).dense_macs == products(twin).dense_macs
    assert products(twin).acs == 0


@pytest.mark.parametrize("name", ["event_speech_mamba", "spiking_speech_mamba"])
def test_twin_of_speech_mamba(name):
    conf = {**SMALL, "d_state": 3, "num_blocks": 1, "conv_channels": 4, "conv_skip": True}
    own = {"fat_points": "e"} if name.startswith("event") else {"v_th": 0.5}
    cls = {"e": EventSpeechMambaEncoder, "s": SpikingSpeechMambaEncoder}[name[0]]
    assert find_twin(cls, conf | own) == (SpeechMambaEncoder, conf)
    twin = Twin(name, conf | own, 20).costs(31)
    dense = run(SpeechMambaEncoder(20, **conf))
    assert {k: c.dense_macs for k, c in twin.items()} == {k: c.dense_macs for k, c in dense.items()}


def test_spiking_speech_mamba_has_the_twins_linear_layers():
    conf = {**SMALL, "d_state": 3, "num_blocks": 1, "conv_channels": 4, "conv_skip": True}
    twin = Twin("spiking_speech_mamba", conf, 20).costs(31)
    spiking = run(SpikingSpeechMambaEncoder(20, **conf))
    for key in spiking:
        if key[1] == "linear":
            assert spiking[key].dense_macs == twin[key].dense_macs, key


def test_encoders_without_spikes_are_their_own_twins():
    assert find_twin(SpeechMambaEncoder, SMALL) is None
    assert find_twin(TransformerEncoder, SMALL) is None
    for name in ("transformer", "speech_mamba"):
        assert Twin(name, SMALL, 20).costs(31) is None


@pytest.mark.parametrize(
    ("neuron", "conf"),
    [
        ("imls", {"alpha_init": 0.3}),
        ("lif", {"v_th": 0.3, "reset": "soft"}),
        ("ilif", {"divide": True}),
    ],
)
def test_options_of_the_neuron_are_none_of_the_twins(neuron, conf):
    with_options = SMALL | {"neuron": neuron, "neuron_conf": conf}
    assert Twin("iml_spikeformer", with_options, 20).costs(31) == (
        Twin("iml_spikeformer", SMALL, 20).costs(31)
    )


def test_the_twin_of_a_class_derived_from_ours_is_of_that_class():
    class Derived(IMLSpikeformerEncoder):
        pass

    cls, options = find_twin(Derived, SMALL)
    assert cls is Derived and options["neuron"] == "relu"
