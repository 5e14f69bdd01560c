"""IML-Spikeformer as kernel calls: events are spikes, and what has no kernel is refused."""

import numpy as np
import pytest
import torch

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.simulator import operations as ops
from espnet_spike.simulator.lower_spikeformer import lower
from espnet_spike.simulator.record import record_encoder
from espnet_spike.simulator.tape import Tape
from tests.helpers.simulated import IML, record


def test_events_are_the_neurons_spikes():
    encoder, utterances, recording = record("iml")
    sites = {site.name: site for site in recording.sites}
    counts = dict.fromkeys(named_neurons(encoder), 0.0)
    with torch.no_grad():
        for speech, lengths in utterances:
            encoder(speech, lengths)
            for name, neuron in named_neurons(encoder).items():
                counts[name] += float(neuron.firing.count_sum)
    assert len(counts) == 7
    for name, count in counts.items():
        assert sites[name].forms["spike"].events[:, 1].sum() == count, name
    # a layer behind a neuron reads what it emits
    spikes = sites["encoders.0.ffn.neuron_hidden"].forms["spike"].events[:, 1]
    read = sites["encoders.0.ffn.linear_out"].forms["spike"].events[:, 0]
    assert np.array_equal(spikes, read)


@pytest.mark.parametrize("name", ["iml_normed", "iml_normed_fixed", "twin_normed"])
def test_a_batch_norm_is_part_of_the_layer_before_it(name):
    """What the sites of a layer give, dense or from events, is what the norm behind it gave."""
    encoder, utterances, recording = record(name)
    tape = Tape(encoder)
    tape.record(utterances)
    sites = {site.name: site for site in recording.sites}
    block, unit = "encoders.0.", "encoders.0.attn.context.unit"
    for site, norm in (
        ("embed.convs.0", "embed.neurons.0.norm"),
        ("embed.convs.1", "embed.neurons.1.norm"),
        (f"{block}attn.linear_v", f"{block}attn.neuron_v.norm"),
        (unit, f"{block}attn.neuron_out.norm"),
        (f"{block}conv.pointwise_in", f"{block}conv.neuron_depthwise.norm"),
        (f"{block}conv.depthwise", f"{block}conv.norm"),
        (f"{block}ffn.linear_in", f"{block}ffn.neuron_hidden.norm"),
    ):
        forms, want = sites[site].forms, tape.output(norm)
        for coding in recording.codings:
            for frame in 0, 11, len(want) - 1:
                sample = forms[coding].make(frame)
                got = sample.reference
                if got is None:
                    assert coding.startswith("spike") and "convs" in site
                    continue
                requantize = sites.get(f"{site}.requantize")
                if requantize and requantize.forms[coding].kernel == "requantize_units":
                    # the frame's unit comes after the sum, and the bias after that
                    got = got + folded_bias(encoder, site, norm)
                assert got.reshape(-1) == pytest.approx(want[frame].reshape(-1), abs=2e-4), site


def folded_bias(encoder, linear, norm):
    """The bias of a linear layer behind the batch norm that follows it."""
    scale, offset = (x.detach().double().numpy() for x in encoder.get_submodule(norm).affine())
    bias = encoder.get_submodule(linear).bias
    return offset if bias is None else scale * bias.detach().double().numpy() + offset


def test_a_spike_of_the_depthwise_convolution_is_read_at_every_tap_once():
    encoder, _, recording = record("iml_normed")
    sites = {site.name: site for site in recording.sites}
    emitted = sites["encoders.0.conv.neuron_depthwise.neuron"].forms["spike"].events
    read = sites["encoders.0.conv.depthwise"].forms["spike"].events[:, 0]
    taps = encoder.encoders[0].conv.depthwise.kernel_size[0]
    outside = 0  # taps of the first and last frames that lie before or behind the utterance
    for first, count in zip(*lengths_of(recording), strict=True):
        spikes = emitted[first : first + count, 1]
        for n in range(count):
            missing = max(taps // 2 - n, 0) + max(n + taps // 2 - count + 1, 0)
            outside += int(spikes[n]) * missing
    assert read.sum() == taps * emitted[:, 1].sum() - outside and outside > 0
    # the unit of a frame multiplies its events once, not once a tap
    unit = sites["encoders.0.conv.depthwise.unit"]
    assert set(unit.forms) == set(ops.codings("event"))
    assert unit.forms["event"].events[:, 0].tolist() == emitted[:, 0].tolist()


def lengths_of(recording):
    """First frame and number of frames of the two utterances that ``record`` makes."""
    counts = [((n - 1) // 2 - 1) // 2 for n in (45, 31)]
    assert sum(counts) == recording.frames
    return [0, counts[0]], counts


def test_a_twin_has_no_spikes_to_code():
    encoder, utterances, _ = record("twin")
    tape = Tape(encoder.eval())
    tape.record(utterances)
    sites, codings = lower(tape)
    assert codings == ops.codings("dense", "event")
    forms = [site.forms[coding] for site in sites for coding in codings if coding in site.forms]
    assert forms and not any("spike" in form.kernel for form in forms)


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"qk_mode": "ssa"}, "qk_mode"),
        ({"imls_stat": "utt"}, "imls_stat utt"),
        ({"neuron": "lif"}, "LIF"),
        ({"neuron": "ternary", "T": 3}, "TernaryMomentum"),
        ({"norm": "bn"}, "MaskedBatchNorm"),
        ({"causal": True}, "causal"),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(conf, said):
    utterances = [(torch.randn(1, 40, 20), torch.tensor([40]))]
    with pytest.raises(UserError, match=said):
        record_encoder(IMLSpikeformerEncoder(20, **IML | conf), utterances)
