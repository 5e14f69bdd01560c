import pytest
import torch

from espnet_spike.errors import UserError
from espnet_spike.simulator.record import record_encoder
from tests.helpers.simulated import ENCODERS, record


def test_a_recording_tells_how_much_was_recorded():
    encoder, utterances, recording = record("dense")
    frames = sum(int(encoder.output_lengths(lengths)) for _, lengths in utterances)
    assert (recording.utterances, recording.frames) == (2, frames)
    blocks = [site for site in recording.sites if site.layer]
    assert {len(form.events) for site in blocks for form in site.forms.values()} == {frames}
    assert not any(module._forward_hooks for module in encoder.modules())


def test_an_encoder_without_a_lowering_is_refused_by_name():
    with pytest.raises(UserError, match="Linear cannot be simulated"):
        record_encoder(torch.nn.Linear(20, 20), [])


def test_there_has_to_be_an_utterance():
    with pytest.raises(UserError, match="no utterance is long enough"):
        record_encoder(ENCODERS["dense"](), [])
