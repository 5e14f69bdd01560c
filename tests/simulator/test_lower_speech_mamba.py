"""SpeechMamba as kernel calls: events are what passes, and what has no kernel is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder, SpikingSpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.simulator import lower_speech_mamba as lowering
from espnet_spike.simulator import simulate as command
from espnet_spike.simulator.record import record_encoder
from tests.helpers.simulated import MAMBA, record


def test_events_are_what_fatrelu_lets_through():
    encoder, utterances, recording = record("two_sided")
    sites = {site.name: site for site in recording.sites}
    kept = dict.fromkeys(named_fatrelus(encoder), 0.0)
    with torch.no_grad():
        for speech, lengths in utterances:
            encoder(speech, lengths)
            for name, layer in named_fatrelus(encoder).items():
                kept[name] += float(layer.sparsity.numel - layer.sparsity.zeros)
    for name, count in kept.items():
        # quantisation may move a value over the threshold
        assert sites[name].forms["event"].events.sum() == pytest.approx(count, rel=0.01, abs=3)


def test_the_sites_of_the_published_layer_stand_in_its_order():
    sites = record("dense")[2].sites
    inside = [(site.name.split(".")[2], site.part) for site in sites if site.layer == 1]
    order = list(dict.fromkeys(inside))
    mamba = "norm in_proj conv1d neuron x_proj dt_proj scan gate out_proj residual".split()
    attention = ["norm", "qkv", "attention", "attention output", "residual"]
    assert order == [
        *(("mamba_in", part) for part in mamba),
        *(("attn", part) for part in attention),
        *(("mamba_out", part) for part in mamba),
    ]
    # both convolutions at the end read the same map, and their sum makes the front end's output
    front = [site.name for site in sites if site.part == "front end"]
    assert front.index("embed.convs.2") < front.index("embed.skip.conv")
    assert front.index("embed.skip.conv") < front.index("embed.skip.add") < front.index("embed.out")


def test_spikes_reach_the_weights_of_both_spiking_blocks():
    for name in "spiking", "spiking_ours":
        recording = record(name)[2]
        read = {
            site.name.rpartition(".")[2]
            for site in recording.sites
            if site.layer and site.inputs and "spike" in site.forms["event"].kernel
        }
        assert read == {*(f"linear_{x}" for x in ("q", "k", "v", "out")), "x_proj"} | {
            "in_proj",
            "out_proj",
        }


def test_a_dense_encoder_has_no_events_to_save():
    recording = record("dense")[2]
    assert recording.codings == ("dense", "dense_unrolled", "dense_blocked")
    assert command.weight_layers(recording.sites, [], recording.frames) == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lowering.silu, nn.functional.silu),
        (lowering.leaky_relu, nn.functional.leaky_relu),
        (lowering.softplus, nn.functional.softplus),
    ],
)
def test_activations_are_those_of_torch(ours, theirs):
    x = np.linspace(-30, 30, 601)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (lambda: SpeechMambaEncoder(20, **MAMBA | {"block": "conmamba"}), "ConMambaBlock"),
        (lambda: SpeechMambaEncoder(20, attention_window=[4, 4], **MAMBA), "attention_window"),
        (lambda: SpikingSpeechMambaEncoder(20, tau=3.0, **MAMBA), "no power of two"),
        (lambda: SpikingSpeechMambaEncoder(20, neuron="relu", **MAMBA), "another than lif"),
        (lambda: SpikingSpeechMambaEncoder(20, neuron="ilif", **MAMBA), "another than lif"),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(encoder, said):
    with pytest.raises(UserError, match=said):
        record_encoder(encoder(), [(torch.randn(1, 40, 20), torch.tensor([40]))])
