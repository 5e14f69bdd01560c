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
        ({"conv_module": True}, "conv_module"),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(conf, said):
    utterances = [(torch.randn(1, 40, 20), torch.tensor([40]))]
    with pytest.raises(UserError, match=said):
        record_encoder(IMLSpikeformerEncoder(20, **IML | conf), utterances)
