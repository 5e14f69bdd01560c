"""An encoder in integers: each layer by float arithmetic on the rounded weights, and the whole."""

import numpy as np
import pytest
import torch

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.simulator.integer import network
from espnet_spike.simulator.integer.network import in_integers, measure

SMALL = {
    **{"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1, "T": 4},
    **{"conv_channels": 4, "neuron_norm": True, "conv_module": True, "conv_module_kernel": 3},
}


def make(**conf):
    """An untrained encoder, whose weights and norms are no default, and two utterances."""
    torch.manual_seed(1)
    encoder = IMLSpikeformerEncoder(12, **(SMALL | conf)).eval()
    for name, p in encoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    for name, buffer in encoder.named_buffers():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.2, 0.5)
    utterances = [(torch.randn(1, n, 12), torch.tensor([n])) for n in (43, 31)]
    return encoder, utterances


def encode(encoder, utterance):
    with torch.no_grad():
        return encoder(*utterance)[0].double()


@pytest.mark.parametrize(
    ("conf", "limit"),
    [
        ({}, 0.15),
        ({"neuron_norm": False, "pos_enc": "none"}, 0.15),
        ({"inner_norm": True, "qkv_bias": True, "decay_norm": False}, 0.3),
        ({"imls_stat": "fixed", "conv_module": False, "hdm": False}, 0.3),
        ({"neuron": "ilif"}, 0.3),
    ],
    ids=str,
)
def test_the_whole_is_near_the_float_network(conf, limit):
    """A count that flips early changes all that follows: exact it cannot be."""
    encoder, utterances = make(**conf)
    want = encode(encoder, utterances[0])
    with in_integers(encoder, measure(encoder, utterances)):
        got = encode(encoder, utterances[0])
    assert got.shape == want.shape
    error = float((got - want).norm() / want.norm())
    assert 1e-4 < error < limit
    assert torch.equal(encode(encoder, utterances[0]), want)  # and it is as it was
    # the last norm has steps of 2^-10
    assert torch.equal((got * 1024).round(), got * 1024)


def pieces(encoder, utterances):
    made = network._Network(encoder, measure(encoder, utterances), network.Registers())
    names = {module: name for name, module in encoder.named_modules()}
    return made, {(names[m], name): f for m, name, f in made.replacements()}


def train(channels, frames=5, levels=4, bins=None):
    g = torch.Generator().manual_seed(3)
    shape = (1, frames, channels) if bins is None else (1, frames, bins, channels)
    counts = torch.randint(0, levels + 1, shape, generator=g).double()
    frame = torch.rand(1, frames, *[1] * (len(shape) - 2), generator=g).double() + 0.5
    channel = torch.rand(channels, generator=g).double() + 0.5
    return SpikeTrain(counts, frame, channel, levels)


def rounded(w):
    """Weights as int8 with a scale for each output, in float."""
    flat = w.reshape(len(w), -1)
    scale = (flat.abs().amax(1) / 127).reshape(-1, *[1] * (w.dim() - 1))
    return (w / scale).round() * scale


def test_a_layer_is_its_rounded_weights_with_the_norm_behind_it():
    encoder, utterances = make()
    made, functions = pieces(encoder, utterances)
    linear, neuron = encoder.encoders[0].ffn.linear_in, encoder.encoders[0].ffn.neuron_hidden
    scale, offset = (x.detach().double() for x in neuron.norm.affine())
    w = linear.weight.detach().double() * scale[:, None]
    b = linear.bias.detach().double() * scale + offset
    xs = train(16)
    step = made.before("encoders.0.ffn.neuron_hidden")
    xs = SpikeTrain(xs.counts, xs.frame * 0.05, xs.channel, 4)  # within the grid
    want = xs.frame * (xs.counts @ rounded(w * xs.channel).T) + b
    got = functions["encoders.0.ffn.linear_in", "forward"](xs)
    assert float(want.abs().max()) < 32000 * step
    assert float((got - want).abs().max()) < 1.1 * step


def test_convolutions_are_their_rounded_weights():
    encoder, utterances = make()
    made, functions = pieces(encoder, utterances)
    conv, neuron = encoder.embed.convs[1], encoder.embed.neurons[1]
    scale, offset = (x.detach().double() for x in neuron.norm.affine())
    w = conv.weight.detach().double() * scale[:, None, None, None]
    b = conv.bias.detach().double() * scale + offset
    xs = train(4, frames=9, bins=5)
    xs = SpikeTrain(xs.counts, xs.frame * 0.05, xs.channel, 4)
    step = made.before("embed.neurons.1")
    values = (xs.frame * xs.counts).permute(0, 3, 1, 2)
    right = rounded(w * xs.channel[:, None, None])
    want = torch.nn.functional.conv2d(values, right, b, stride=2).permute(0, 2, 3, 1)
    got = functions["embed.convs.1", "forward"](xs)
    assert got.shape == want.shape and float(want.abs().max()) < 32000 * step
    assert float((got - want).abs().max()) < 2.1 * step  # three taps and a bias are rounded

    depthwise = encoder.encoders[0].conv.depthwise
    scale, offset = (x.detach().double() for x in encoder.encoders[0].conv.norm.affine())
    inside = made.before("encoders.0.conv.neuron_depthwise")
    step = made.before("encoders.0.conv.neuron_out")
    xs = train(16)
    m = (xs.frame * 300).round()
    xs = SpikeTrain(xs.counts, m * inside, xs.channel, 4)
    w = rounded(depthwise.weight.detach().double()[:, 0] * scale[:, None] * xs.channel[:, None])
    values = (xs.frame * xs.counts).mT
    want = torch.nn.functional.conv1d(values, w[:, None], offset, padding=1, groups=16).mT
    got = functions["encoders.0.conv.depthwise", "forward"](xs)
    assert float(want.abs().max()) < 32000 * step
    assert float((got - want).abs().max()) < 1.1 * step


def test_one_scale_for_all_channels_is_worse(monkeypatch):
    encoder, utterances = make(imls_stat="fixed")
    with torch.no_grad():  # a channel that is far above the others
        encoder.encoders[0].ffn.linear_in.weight[0] *= 30
    want = encode(encoder, utterances[0])
    ranges = measure(encoder, utterances)

    def error():
        with in_integers(encoder, ranges):
            return float((encode(encoder, utterances[0]) - want).norm() / want.norm())

    own = error()
    monkeypatch.setattr(
        network,
        "quantise_channels",
        lambda w, least=0: (
            np.round(w / (s := np.abs(w).max() / 127)).astype(np.int8),
            np.full(len(w), s),
        ),
    )
    assert own < 0.8 * error()


@pytest.mark.parametrize("factor", [0.0, 1e-7])
def test_a_channel_of_small_weights_leaves_the_others_their_steps(factor):
    """The first layer: a bias far above the weights takes nothing from the input."""
    encoder, utterances = make()
    with torch.no_grad():
        encoder.embed.convs[0].weight[0] *= factor
        encoder.embed.convs[0].bias[0] = 0.3
    want = encode(encoder, utterances[0])
    functions = pieces(encoder, utterances)[1]
    conv, neuron = encoder.embed.convs[0], encoder.embed.neurons[0]
    scale, offset = (x.detach().double() for x in neuron.norm.affine())
    w = conv.weight.detach().double() * scale[:, None, None, None]
    x = utterances[0][0].double()[..., None]
    got = functions["embed.convs.0", "forward"](x)
    b = conv.bias.detach().double() * scale + offset
    right = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), rounded(w) if factor else w, b, 2)
    right = right.permute(0, 2, 3, 1)
    assert float((got - right).norm() / right.norm()) < 0.01
    with in_integers(encoder, measure(encoder, utterances)):
        got = encode(encoder, utterances[0])
    assert float((got - want).norm() / want.norm()) < 0.15


def test_what_is_zero_throughout_has_a_grid_as_well():
    encoder, utterances = make()
    with torch.no_grad():
        for part in "qk":
            getattr(encoder.encoders[0].attn, f"linear_{part}").weight.zero_()
    want = encode(encoder, utterances[0])
    with in_integers(encoder, measure(encoder, utterances)):
        got = encode(encoder, utterances[0])
    assert float((got - want).norm() / want.norm()) < 0.15


def test_a_residual_sum_saturates(monkeypatch):
    encoder, utterances = make()
    sums, init = [], network._Network.__init__

    def narrow(self, *args):
        init(self, *args)
        self.stream *= 0.3
        sums.append(self.stream)

    monkeypatch.setattr(network._Network, "__init__", narrow)
    ranges = measure(encoder, utterances)
    sums.clear()
    encoder.after_norm.register_forward_pre_hook(lambda _, args: sums.append(args[0]))
    encoder.encoders[0].norm_ffn.register_forward_pre_hook(lambda _, args: sums.append(args[0]))
    with in_integers(encoder, ranges):
        encode(encoder, utterances[0])
    step, *found = sums
    for x in found:
        steps = x / step
        assert torch.allclose(steps, steps.round(), atol=1e-6)
        assert (float(steps.min()), float(steps.max())) == pytest.approx((-32768, 32767), abs=1e-6)


def test_ranges_are_the_largest_values():
    encoder, utterances = make()
    found = measure(encoder, utterances)
    assert found.inputs["embed.convs.0"] == max(float(x.abs().max()) for x, _ in utterances)
    seen = []
    for name in ("linear_q", "linear_k"):
        getattr(encoder.encoders[0].attn, name).register_forward_hook(
            lambda _, args, out: seen.append(out[0].unflatten(-1, (2, -1)).transpose(0, 1).double())
        )
    for utterance in utterances:
        encode(encoder, utterance)
    maps = [q @ k.mT for q, k in zip(seen[::2], seen[1::2], strict=True)]
    largest = max(float(scores.abs().max()) for scores in maps)
    assert found.scores["encoders.0.attn"] == pytest.approx(largest)
    with pytest.raises(UserError, match="long enough"):
        measure(encoder, [])


def test_what_has_no_integer_form_is_named():
    twin, _ = make(neuron="relu")
    for encoder, what in (
        (twin, "embed.neurons.0.neuron: ReLU|embed.neurons.0: ReLU"),
        (make(qk_mode="ssa")[0], "qk_mode"),
        (make(norm="bn")[0], "norm_attn: norm MaskedBatchNorm"),
        (make(imls_stat="utt")[0], "IMLS"),
        (SpeechMambaEncoder(12, output_size=8, num_blocks=1), "SpeechMambaEncoder"),
    ):
        with pytest.raises(UserError, match=f"({what}).* cannot run in integers"):
            network.check(encoder)


def test_every_utterance_meets_the_same_machine():
    """What an utterance becomes has nothing to do with those beside it, nor with how loud it is."""
    encoder, utterances = make()
    ranges = measure(encoder, utterances)
    registers = network.Registers(ranges.sums)
    loud = 40 * utterances[1][0], utterances[1][1]
    with in_integers(encoder, ranges, registers):
        first = encode(encoder, utterances[0])
        assert registers.saturating() == {}  # it was calibrated on
        encode(encoder, loud)
        assert torch.equal(encode(encoder, utterances[0]), first)
    assert registers.saturating()["embed.convs.0"][0] > 0.1
    assert registers.limits == ranges.sums and set(ranges.sums) == set(registers.largest)


def test_sums_that_no_calibration_knew_saturate(monkeypatch):
    encoder, utterances = make()
    ranges = measure(encoder, utterances)
    name = "encoders.0.ffn.linear_out"
    narrow = network.replace(ranges, sums={**ranges.sums, name: ranges.sums[name] // 8})
    registers = network.Registers(narrow.sums)
    with in_integers(encoder, narrow, registers):
        encode(encoder, utterances[0])
    assert registers.accumulators[name].beyond > 0
    assert {key for key, tally in registers.accumulators.items() if tally.beyond} == {name}


def test_a_threshold_that_does_not_fit_is_an_error():
    encoder, utterances = make(imls_stat="fixed")
    ranges = measure(encoder, utterances)
    with torch.no_grad():
        for p in encoder.encoders[0].ffn.neuron_in.parameters():
            p.fill_(-12.0)
    with pytest.raises(UserError, match=r"ffn.neuron_in: its threshold's factors of .* 16 bits"):
        with in_integers(encoder, ranges):
            pass
