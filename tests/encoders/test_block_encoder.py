"""What all encoders share: intermediate CTC and its conditioning, sizes."""

import math

import pytest
import torch
from espnet2.asr.ctc import CTC

from espnet_spike.encoders.block_encoder import BlockEncoder, positional_encoding
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
)

SMALL = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 3}
MAMBA = {"d_state": 4, "conv_channels": 8}
ENCODERS = {
    "imls": (IMLSpikeformerEncoder, {"conv_channels": 8}),
    "lif": (IMLSpikeformerEncoder, {"conv_channels": 8, "neuron": "lif", "T": 2}),
    "dense": (SpeechMambaEncoder, MAMBA),
    "event": (EventSpeechMambaEncoder, MAMBA | {"fat_threshold": 0.1}),
    "spiking": (SpikingSpeechMambaEncoder, MAMBA),
}
LENGTHS = torch.tensor([41, 30])


def make(name, **options):
    torch.manual_seed(0)
    cls, own = ENCODERS[name]
    return cls(20, **SMALL, **own, **options).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 41, 20, generator=generator, dtype=torch.double), LENGTHS


class FrontEndAlone(BlockEncoder):
    """The least that an encoder says; nothing of intermediate CTC."""

    def __init__(self):
        super().__init__()
        self.embed = lambda xs_pad, ilens: (xs_pad[:, ::2], (ilens + 1) // 2)
        self.pos_enc = positional_encoding("none", 20, 0.0)
        self.encoders = torch.nn.ModuleList([torch.nn.ReLU()])
        self.after_norm = torch.nn.Identity()
        self._output_size = 20

    def block_inputs(self, x, olens):
        return ()


def test_an_encoder_may_leave_intermediate_ctc_out():
    x, ilens = batch()
    xs, olens, _ = FrontEndAlone()(x, ilens)
    assert torch.equal(xs, x[:, ::2].relu()) and olens.tolist() == [21, 15]
    assert FrontEndAlone.twin({}) is None


@pytest.mark.parametrize("name", ENCODERS)
def test_intermediate_ctc_only_reads(name):
    encoder = make(name, interctc_layer_idx=[1, 2]).eval()
    (xs, middle), olens, _ = encoder(*batch())
    assert [number for number, _ in middle] == [1, 2]
    assert xs.shape == (2, olens.max(), encoder.output_size())
    assert all(out.shape == xs.shape for _, out in middle)
    assert torch.equal(olens, encoder.output_lengths(LENGTHS))
    assert torch.equal(xs, make(name).eval()(*batch())[0])


@pytest.mark.parametrize("name", ENCODERS)
def test_intermediate_ctc_conditioning_feeds_the_posteriors_back(name):
    encoder = make(name, interctc_layer_idx=[1], interctc_use_conditioning=True).eval()
    plain, _, _ = make(name).eval()(*batch())
    ctc = CTC(7, 16).double()
    encoder.conditioning_layer = torch.nn.Linear(7, 16).double()
    with torch.no_grad():
        encoder.conditioning_layer.weight.zero_()
        encoder.conditioning_layer.bias.zero_()
    (xs, _), _, _ = encoder(*batch(), ctc=ctc)
    assert torch.equal(xs, plain)
    torch.nn.init.normal_(encoder.conditioning_layer.weight)
    (xs, _), _, _ = encoder(*batch(), ctc=ctc)
    assert not torch.allclose(xs, plain)
    xs.square().sum().backward()
    assert encoder.conditioning_layer.weight.grad.any()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("block", [0, 3])
def test_intermediate_ctc_of_no_inner_block_is_refused(name, block):
    with pytest.raises(ValueError, match=rf"interctc_layer_idx: {block} is not within 1\.\.2"):
        make(name, interctc_layer_idx=[block])


def test_positions_are_sines_of_geometric_wavelengths_or_nothing():
    x = torch.zeros(1, 5, 8)
    encoded = positional_encoding("abs", 8, 0.0)(x)[0]
    for frame in range(5):
        for pair in range(4):
            angle = frame / 10000 ** (2 * pair / 8)
            want = [math.sin(angle), math.cos(angle)]
            assert encoded[frame, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(want, abs=1e-6)
    assert torch.equal(positional_encoding("none", 8, 0.5).eval()(x + 1), x + 1)
    ones = torch.ones(1, 5, 8)
    torch.testing.assert_close(positional_encoding("abs", 8, 0.0)(ones)[0], encoded + 8**0.5)
    torch.testing.assert_close(positional_encoding("abs_unscaled", 8, 0.0)(ones)[0], encoded + 1)
    with pytest.raises(ValueError, match="pos_enc: 'sin' is unknown"):
        positional_encoding("sin", 8, 0.0)
