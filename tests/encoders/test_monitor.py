"""Modules are watched within a context; their spikes are those that the neurons count."""

import numpy as np
import pytest
import torch
from torch import nn

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.monitor import captured, spike_counts, watching
from espnet_spike.results.recording import choose_utterance
from espnet_spike.results.utterance import record
from tests.export.test_reparameterize import MODEL, experiment


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"neuron": "ternary", "T": 3},
        {"neuron": "ilif"},
        {"neuron": "lif"},
        {"imls_stat": "utt"},
        {"imls_stat": "ema"},
    ],
)
def test_counts_of_the_picture_are_those_of_the_neurons(tmp_path, conf):
    from espnet_spike.encoders.monitor import layer_spikes
    from espnet_spike.nn.neurons.base import named_neurons
    from tests.export.test_reparameterize import load

    exp, data = experiment(tmp_path, **conf)
    utt, feats = next(iter(FeatureDir.read(data).feats.items()))
    encoder = load(exp).encoder
    from espnet_spike.data.ark import ArkReader

    with ArkReader() as reader, torch.no_grad(), layer_spikes(encoder) as layers:
        speech = torch.from_numpy(reader.read(utt, feats).copy())[None]
        encoder(speech, torch.tensor([speech.shape[1]]))
    neurons = named_neurons(encoder)
    assert set(layers) == set(neurons)
    for name, (counts, levels) in layers.items():
        assert np.array_equal(counts, counts.round())
        assert 0 <= counts.min() and counts.max() <= levels
        rate = counts.sum() / (counts.size * levels)
        assert rate == pytest.approx(neurons[name].firing.rate.item(), rel=1e-5)


def test_binary_execution_draws_the_same(tmp_path):
    from espnet_spike.encoders.spike_options import SpikeOptions

    exp, folder = experiment(tmp_path)
    data = FeatureDir.read(folder)
    utt = choose_utterance(data.durations)
    one, two = (
        record(exp / MODEL, data, utt, [3, 4], SpikeOptions(spike_mode=mode))
        for mode in ("integer", "binary")
    )
    assert one.words is not None and one.frames == len(one.layers[-1].counts)
    assert set(one.log_gammas) == {"encoders.0.attn.decay", "encoders.1.attn.decay"}
    same = [np.mean(a.counts == b.counts) for a, b in zip(one.layers, two.layers, strict=True)]
    assert min(same) > 0.99


@pytest.mark.parametrize("name", ["SpikingSpeechMambaEncoder", "EventSpeechMambaEncoder"])
def test_the_layers_of_speech_mamba(name):
    from espnet_spike.encoders import speech_mamba
    from espnet_spike.encoders.monitor import layer_spikes
    from espnet_spike.nn.layers.fatrelu import sparsities
    from espnet_spike.nn.neurons.base import firing_rates

    torch.manual_seed(0)
    small = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "dropout_rate": 0.0}
    small |= {"d_state": 4, "conv_channels": 8}
    encoder = getattr(speech_mamba, name)(20, **small).eval()
    speech = torch.randn(1, 60, 20)
    with torch.no_grad(), layer_spikes(encoder) as layers:
        xs, _, _ = encoder(speech, torch.tensor([60]))
    expected = firing_rates(encoder) or {k: 1 - v for k, v in sparsities(encoder).items()}
    assert set(layers) == set(expected)
    for key, (counts, _) in layers.items():
        assert counts.ndim == 2 and len(counts) >= xs.shape[1]
        assert counts.mean() == pytest.approx(expected[key].item(), abs=1e-6)


def test_values_behind_fatrelu_are_events():
    from espnet_spike.nn.layers.fatrelu import FATReLU

    layer = FATReLU(T=1.0)
    x = torch.randn(1, 5, 4)
    counts, levels = spike_counts(layer, (x,), layer(x))
    assert levels == 1 and torch.equal(counts, (x[0] > 1.0).float())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_what_modules_take_and_return_is_captured_in_the_order_of_their_calls():
    net, x = network(), torch.randn(5, 3)
    expected = net(x)
    modules = {"last": net[2], "first": net[0]}
    with captured(modules, lambda name, module, args, out: (name, module, args, out)) as found:
        assert not found
        for _ in range(2):
            net(torch.zeros(1, 3))
            assert torch.equal(net(x), expected)  # what is kept does not take its place
    assert [*found] == ["first", "last"]
    name, module, args, out = found["last"]
    assert (name, module) == ("last", net[2])
    assert torch.equal(out, expected) and torch.equal(args[0], net[1](found["first"][3]))
    net(torch.zeros(1, 3))
    assert torch.equal(found["last"][3], expected)  # of the latest call within the context


def test_every_call_is_seen_and_nothing_stays_behind():
    net, seen = network(), []
    with watching(dict(net.named_children()), lambda name, *_: seen.append(name)):
        net(torch.zeros(1, 3))
        net(torch.zeros(1, 3))
    assert seen == ["0", "1", "2"] * 2
    with pytest.raises(RuntimeError), watching({"0": net[0]}, lambda *_: None):
        net(torch.zeros(1, 4))
    assert not any(module._forward_hooks for module in net.modules())
