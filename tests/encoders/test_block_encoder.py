"""What all encoders share: intermediate CTC and its conditioning, sizes."""

import functools
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
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import FATReLU
from espnet_spike.nn.neurons.base import Neuron, named_neurons

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
    return cls(20, **(SMALL | own | options)).double()


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
    with pytest.raises(ValueError, match=r"interctc_layer_idx: \[1, 1\] has a block twice"):
        make(name, interctc_layer_idx=[1, 1])


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


@functools.cache
def exact_step(name):
    """Losses, gradients and neurons' inputs of a training step in fp32."""
    inputs = {}
    return *training_step(name, None, inputs), inputs


def training_step(name, dtype, inputs):
    """Return loss, gradients and counts; with a dtype, neurons get the inputs they had in fp32.

    What half precision rounds moves some spikes, and with them the gradient by far more than its
    rounding does: gradients can be compared where the spikes are the same, and what passes a
    FATReLU or the kink of a LeakyReLU.
    """
    torch.manual_seed(0)
    cls, own = ENCODERS[name]
    sizes = {"output_size": 64, "attention_heads": 2, "linear_units": 96, "num_blocks": 2}
    encoder = cls(20, **sizes, **own, dropout_rate=0.0, positional_dropout_rate=0.0).train()
    ctc = CTC(6, 64)

    def hold(neuron, args, of):
        if dtype is None:
            inputs[of] = args[0].detach().clone()
            return args
        x = args[0].float()
        return x + (inputs[of] - x).detach(), *args[1:]

    steps = (Neuron, FATReLU, torch.nn.LeakyReLU)
    for of, neuron in encoder.named_modules():
        if not isinstance(neuron, steps):
            continue
        neuron.register_forward_pre_hook(functools.partial(hold, of=of))
    x, lengths = torch.randn(2, 121, 20), torch.tensor([121, 90])
    text = torch.tensor([[1, 2, 3], [4, 5, 2]])
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        xs, olens, _ = encoder(x, lengths)
        loss = ctc(xs, olens, text, torch.tensor([3, 2]))
        loss = loss + sum(getattr(encoder, "auxiliary_losses", dict)().values())
    assert xs.dtype == loss.dtype == torch.float32
    loss.backward()
    counts = {n: neuron.firing.count_sum for n, neuron in named_neurons(encoder).items()}
    grads = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    return loss.item(), grads, counts


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)])
@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_of_mixed_precision_are_those_of_fp32(name, dtype, most):
    exact, wanted, spikes, inputs = exact_step(name)
    loss, grads, counts = training_step(name, dtype, inputs)
    assert math.isfinite(loss) and loss == pytest.approx(exact, rel=most)
    assert counts == spikes and (counts or name in ("dense", "event"))
    assert grads.keys() == wanted.keys()
    norm = torch.cat([g.flatten() for g in wanted.values()]).norm()
    # a bias that a batch norm or a softmax takes out again has no gradient but rounding
    kept = [n for n, g in wanted.items() if g.norm() > 1e-5 * norm]
    away = torch.cat([(grads[n] - wanted[n]).flatten() for n in kept]).norm()
    assert len(kept) > 0.6 * len(wanted) and away < most * norm, float(away / norm)


@pytest.mark.parametrize("name", ["imls", "dense", "event", "spiking"])
def test_compiled_equals_eager(name):
    """One graph, whatever the length: no loop over frames, no call of a kernel breaks it."""
    encoder = make_compilable(name).eval()
    x, lengths = batch()
    with torch.no_grad():
        wanted = encoder(x, lengths)[0]
        found = torch.compile(encoder, backend="eager", fullgraph=True)(x, lengths)[0]
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def make_compilable(name, **options):
    torch._dynamo.reset()
    least = {"num_blocks": 1, "dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    return make(name, **least, **options)


def test_dense_encoder_is_trained_compiled():
    steps = []
    for compiled in (False, True):
        encoder = make_compilable("dense", block="mamba_ffn").train()
        forward = torch.compile(encoder, backend="aot_eager") if compiled else encoder
        xs, olens, _ = forward(*batch())
        loss = CTC(7, 16).double()(xs, olens, torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2]))
        loss.backward()
        steps.append([loss.detach(), *(p.grad for p in encoder.parameters())])
    for found, wanted in zip(*steps, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("imls", {}, "IMLSpikeformerEncoder is not trained compiled, only SpeechMambaEncoder is"),
        ("event", {}, "EventSpeechMambaEncoder is not trained compiled"),
        ("spiking", {}, "SpikingSpeechMambaEncoder is not trained compiled"),
        ("dense", {"gradient_checkpointing": True}, "compiled with gradient_checkpointing"),
    ],
)
def test_what_cannot_be_trained_compiled_says_so(name, options, why):
    encoder = make_compilable(name, **options).train()
    with pytest.raises(UserError, match=f"torch.compile: .*{why}"):
        torch.compile(encoder, backend="eager")(*batch())
