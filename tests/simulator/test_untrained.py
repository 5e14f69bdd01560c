"""Untrained encoders are as sparse as asked, point by point, and only their blocks are recorded."""

import pytest
import torch

from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import FATReLU, named_fatrelus
from espnet_spike.nn.neurons.frame_lif import FrameLIF, named_frame_lifs
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.simulator.untrained import (
    SHARES,
    make_encoder,
    read_backbone,
    record_untrained,
    set_neuron,
    set_point,
    thresholds_set,
)

SMALL = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "d_state": 4, "conv_channels": 4}


def test_a_threshold_zeroes_the_share_that_is_asked_for():
    x = torch.tensor([[-3.0, 0.5, 1.0, 2.0, -0.25, 4.0, 5.0, -6.0, 7.0, 8.0]])
    point = FATReLU(learn=False)
    set_point(point, x, 0.6)
    assert float(point.T) == 4.0 and int((point(x[None]) == 0).sum()) == 5 + 1
    both = FATReLU(learn=False, two_sided=True)
    set_point(both, x, 0.2)
    assert float(both.T) == 1.0 and int((both(x[None]) == 0).sum()) == 2
    # what is zero already stays: a threshold is never negative
    set_point(point, x, 0.1)
    assert float(point.T) == 0.0


def test_a_neuron_is_silent_as_often_as_asked():
    torch.manual_seed(0)
    neuron, x = FrameLIF(50), torch.randn(1, 40, 50)
    for share in (0.65, 0.72, 0.95):
        set_neuron(neuron, x, share)
        assert 1 - float(neuron(x).mean()) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("model", [model for model in SHARES if model != "dense"])
def test_every_point_gets_the_published_sparsity_with_those_before_it_set(model):
    torch.manual_seed(0)
    encoder = make_encoder(model, SMALL, 20).eval()
    noise = torch.randn(1, 96, 20), torch.tensor([96])
    share = SHARES[model]
    with torch.no_grad():
        with thresholds_set(encoder, share):
            encoder(*noise)
        encoder(*noise)
    points = named_fatrelus(encoder)
    zeros = {name: float(p.sparsity.fraction) for name, p in points.items()}
    zeros |= {name: 1 - float(n.mean_rate) for name, n in named_frame_lifs(encoder).items()}
    assert len(zeros) > 5 and sum(float(p.T) == 0 for p in points.values()) <= len(points) / 2
    for name, found in zeros.items():
        # a gated output has zeros of its own, from the gate and from its sign; so may others
        more = name in points and float(points[name].T) == 0
        # sums of spikes are whole numbers, between which there is no threshold
        assert found >= share - 0.02 and (more or found <= share + 0.05), name
    for norm in (m for m in encoder.modules() if isinstance(m, MaskedBatchNorm)):
        assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var))


def test_the_blocks_alone_are_recorded():
    recording = record_untrained("E", SMALL, 20, frames=11)
    assert recording.frames == 11 and {site.layer for site in recording.sites} == {1}
    assert recording.codings[0].startswith("dense") and recording.codings[-1] == "event_blocked"
    again = record_untrained("E", SMALL, 20, frames=11)
    for one, two in zip(recording.sites, again.sites, strict=True):
        for coding, form in one.forms.items():
            assert (form.events == two.forms[coding].events).all()


def test_the_backbone_is_the_published_one_or_that_of_a_configuration(tmp_path):
    assert read_backbone(None) == ({}, 80)
    published = SpeechMambaEncoder(80, num_blocks=1)
    assert published.encoders[0].mamba_in.sublayer.ssm.A_log.shape == (1024, 256)
    path = tmp_path / "x.yaml"
    path.write_text(
        "encoder: event_speech_mamba\nencoder_conf: {d_state: 8, fat_points: e}\n"
        "spike_meta: {input_size: 40}\n"
    )
    assert read_backbone(path) == ({"d_state": 8}, 40)
    path.write_text("encoder: conformer\n")
    with pytest.raises(UserError, match="conformer has no SpeechMamba backbone"):
        read_backbone(path)
