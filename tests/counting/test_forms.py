"""The forms of an encoder: which it has, and that each computes the same."""

import pytest
import torch

from espnet_spike.counting.forms import Form, forms_of, load_form
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder, SpikingSpeechMambaEncoder
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from tests.export.test_reparameterize import MODEL, experiment

SMALL = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 1}


def test_an_encoder_has_the_forms_of_its_neurons():
    both = [Form(mode, fold) for fold in (False, True) for mode in ("integer", "binary")]
    assert forms_of(IMLSpikeformerEncoder(20, **SMALL)) == both
    ternary = IMLSpikeformerEncoder(20, neuron="ternary", **SMALL)
    assert forms_of(ternary) == [Form("integer", False), Form("integer", True)]
    assert forms_of(SpikingSpeechMambaEncoder(20, **SMALL, d_state=3)) == both[:2]
    with pytest.raises(UserError, match="SpeechMambaEncoder does not spike"):
        forms_of(SpeechMambaEncoder(20, **SMALL, d_state=3))


def test_every_form_computes_the_same(tmp_path):
    exp, _ = experiment(tmp_path, "iml_spikeformer")
    x = torch.randn(1, 60, 24, generator=torch.Generator().manual_seed(0))
    outs = {}
    for mode in ("integer", "binary"):
        for fold in (False, True):
            model = load_form(exp, MODEL, SpikeOptions(T=3), Form(mode, fold))
            encoder = model.encoder.double()
            assert (encoder.encoders[0].attn.folded is not None) == fold
            neuron = encoder.encoders[0].attn.neuron_in
            assert (neuron.spike_mode, neuron.levels) == (mode, 3)
            with torch.inference_mode():
                outs[mode, fold] = encoder(x.double(), torch.tensor([60]))[0]
    first, *others = outs.values()
    assert all(torch.allclose(other, first, atol=1e-9) for other in others)
