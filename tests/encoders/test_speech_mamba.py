"""The SpeechMamba encoders: ESPnet's contract, invariances, configurations and their sizes."""

import pytest
import torch
from torch import nn

from espnet_spike.encoders.mamba_blocks import BLOCKS
from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
)
from espnet_spike.nn.layers.fatrelu import FATReLU, Pass, mean_sparsity, named_fatrelus, sparsities
from espnet_spike.nn.layers.mamba import CausalConv, RMSNorm
from espnet_spike.nn.neurons.base import firing_rates, named_neurons
from espnet_spike.nn.norms import MaskedBatchNorm
from tests.conftest import ROOT
from tests.helpers.norms import excited

SMALL = {
    **{"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2},
    **{"d_state": 3, "conv_kernel": 5, "conv_channels": 8},
}
ILENS = torch.tensor([61, 34, 3])


def make(cls=SpeechMambaEncoder, **conf):
    torch.manual_seed(0)
    return cls(20, **SMALL | conf).double().eval()


def batch(seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, 61, 20, generator=g, dtype=torch.float64)


def valid(olens, frames):
    return torch.arange(frames) < olens[:, None]


VARIANTS = [
    {"block": "mamba_mhsa_mamba"},
    {"block": "mhsa_mamba"},
    {"block": "conmamba"},
    {"block": "mamba_ffn"},
    {
        "conv_skip": True,
        "pos_enc": "none",
        "attention_window": [2, 1],
        "init_mode": "xavier_normal",
    },
    {"input_layer": "conmamba", "bidirectional": True},
    {"causal": True},
]


@pytest.mark.parametrize("conf", VARIANTS, ids=str)
@torch.no_grad()
def test_padding_does_not_matter(conf):
    encoder = make(**conf)
    xs = batch()
    out, olens, third = encoder(xs, ILENS)
    assert out.shape == (3, 16, 16)
    assert olens.tolist() == [16, 9, 1]
    assert third is None
    assert torch.equal(olens, encoder.output_lengths(ILENS))
    assert encoder.output_size() == 16
    noisy = xs.masked_fill(~valid(ILENS, 61)[..., None], 1e3)
    longer = torch.cat([noisy, torch.full((3, 30, 20), -7.0, dtype=torch.float64)], 1)
    for other in (noisy, longer):
        again, _, _ = encoder(other, ILENS)
        real = valid(olens, 16)
        torch.testing.assert_close(again[:, :16][real], out[real], rtol=1e-9, atol=1e-9)
    for row, (frames, n) in enumerate(zip(ILENS, olens, strict=True)):
        alone, _, _ = encoder(xs[row : row + 1, :frames], ILENS[row : row + 1])
        torch.testing.assert_close(alone[0], out[row, :n], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", list(BLOCKS))
def test_gradients_do_not_depend_on_padding(block):
    conf = {"fat_points": "optimized", "fat_threshold": 0.02}
    encoder = make(EventSpeechMambaEncoder, block=block, **conf)
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    noisy = batch().masked_fill(~valid(ILENS, 61)[..., None], 1e3)
    grads, losses = [], []
    for xs in (batch(), noisy):
        out, olens, _ = encoder(xs, ILENS)
        loss = (out * valid(olens, 16)[..., None]).square().sum()
        auxiliary = encoder.auxiliary_losses()
        losses.append({k: float(v.detach()) for k, v in auxiliary.items()})
        names = [n for n, _ in encoder.named_parameters()]
        total = loss + sum(auxiliary.values())
        grads.append(torch.autograd.grad(total, list(encoder.parameters()), materialize_grads=True))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for name, a, b in zip(names, *grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=name)
        # a bias of the keys shifts all scores of a query alike, which softmax does not see
        assert a.any() or "linear_k.bias" in name, name


@torch.no_grad()
def test_causal_sees_no_later_frame():
    encoder = make(causal=True)
    xs = batch()[:1]
    changed = xs.clone()
    changed[:, 33:] += 1
    a, _, _ = encoder(xs, ILENS[:1])
    b, _, _ = encoder(changed, ILENS[:1])
    # output frame n stands for the input frames up to 4 n
    torch.testing.assert_close(a[:, :9], b[:, :9], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a[:, 9], b[:, 9])
    full, _, _ = make()(xs, ILENS[:1])
    other, _, _ = make()(changed, ILENS[:1])
    assert not torch.allclose(full[:, 0], other[:, 0])


def event(points, **conf):
    return make(EventSpeechMambaEncoder, fat_points=points, **conf)


def test_without_thresholds_it_is_the_relu_model():
    # the same network, built from torch's own ReLU
    encoder, twin = event("e"), event("e")
    for parent in twin.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, FATReLU):
                setattr(parent, name, Pass(nn.ReLU()))
    assert not named_fatrelus(twin)
    outs, grads = [], []
    for network in (encoder, twin):
        out, _, _ = network(batch(), ILENS)
        outs.append(out)
        grads.append(torch.autograd.grad(out.square().sum(), list(network.parameters())))
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_optimized_without_its_own_thresholds_is_e():
    plain, optimized = event("e", fat_learn=False), event("optimized", fat_learn=False)
    optimized.load_state_dict(plain.state_dict(), strict=False)
    for name, layer in named_fatrelus(optimized).items():
        T = 0.0 if layer.two_sided else 0.2
        layer.set_T(T)
        if name in named_fatrelus(plain):
            named_fatrelus(plain)[name].set_T(0.2)
    a, olens, _ = plain(batch(), ILENS)
    b, _, _ = optimized(batch(), ILENS)
    real = valid(olens, 16)
    torch.testing.assert_close(a[real], b[real], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_two_sided_points_without_threshold_are_the_dense_model():
    points = [f"F{n}" for n in range(1, 12)]
    dense, marked = make(), event("optimized", fat_two_sided=points)
    marked.load_state_dict(dense.state_dict(), strict=False)
    a, _, _ = dense(batch(), ILENS)
    b, _, _ = marked(batch(), ILENS)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_sparsity_statistics():
    encoder = event("e", fat_learn=False)
    before = None
    for T in (0.0, 0.1, 0.5, 1e9):
        for layer in named_fatrelus(encoder).values():
            layer.set_T(T)
        encoder(batch(), ILENS)
        mean = mean_sparsity(encoder), mean_sparsity(encoder, mac_weighted=True)
        if before is not None:
            assert mean[0] >= before[0]
        before = mean
    assert mean == (1.0, 1.0)
    names = set(sparsities(encoder))
    assert {"embed.f1.1", "embed.f2", "encoders.1.attn.sublayer.f3"} <= names
    assert {f"encoders.0.mamba_{side}.sublayer.f7" for side in ("in", "out")} <= names
    assert not any("f9" in name or "f8" in name for name in names)
    assert any("ffn_in.f8" in n for n in sparsities(_run(event("e", block="conmamba"))))
    assert sparsities(_run(make())) == {}


def _run(encoder):
    encoder(batch(), ILENS)
    return encoder


READERS = {f"attn.sublayer.linear_{name}": "attn.sublayer.f3" for name in "qkv"}
READERS["attn.sublayer.linear_out"] = "attn.sublayer.f4"
for place in ("mamba_in.sublayer", "mamba_out.sublayer"):
    READERS |= {f"{place}.in_proj": f"{place}.f5", f"{place}.out_proj": f"{place}.f7"}
    READERS |= {f"{place}.ssm.x_proj": f"{place}.ssm.f9"}
    READERS |= {f"{place}.ssm.dt_proj": f"{place}.ssm.f10"}


@pytest.mark.parametrize("T", [0.0, 0.02, 1e9])
@torch.no_grad()
def test_working_event_by_event_is_working_densely(T):
    # every layer behind a point, done as a sum over the values that are not zero; float32
    encoder = event("optimized", fat_learn=False).float()
    for layer in named_fatrelus(encoder).values():
        layer.set_T(T)
    seen = {}
    block = encoder.encoders[1]
    for name in READERS:
        block.get_submodule(name).register_forward_hook(
            lambda layer, inputs, y, name=name: seen.update({name: (inputs[0], y)})
        )
    encoder(batch().float()[:1], ILENS[:1])
    for name, point in READERS.items():
        layer, (x, y) = block.get_submodule(name), seen[name]
        events = x.nonzero()
        # what the point says it lets through is what the layer has to do
        assert len(events) == x.numel() - block.get_submodule(point).sparsity.zeros
        total = torch.zeros_like(y)
        for b, frame, channel in events.tolist():
            total[b, frame] += x[b, frame, channel] * layer.weight[:, channel]
        if layer.bias is not None:
            total += layer.bias
        torch.testing.assert_close(total, y, rtol=1e-5, atol=1e-5)
        assert (len(events) == 0) == (T == 1e9), name


@torch.no_grad()
def test_macs_that_a_zero_saves():
    encoder = event("optimized", conv_skip=True)
    macs = {name: layer.macs for name, layer in named_fatrelus(encoder).items()}
    mamba = encoder.encoders[0].mamba_out.sublayer
    place = "encoders.0.mamba_out.sublayer"
    assert macs["encoders.0.attn.sublayer.f3"] == 3 * 16
    assert macs[f"{place}.f5"] == mamba.in_proj.out_features
    assert macs[f"{place}.f7"] == mamba.out_proj.out_features
    assert macs[f"{place}.ssm.f9"] == mamba.ssm.x_proj.out_features
    assert macs[f"{place}.ssm.f10"] == mamba.ssm.dt_proj.out_features
    assert macs["embed.f2"] == encoder.embed.out.out_features
    # a value of the first map is read by 25/4 positions of 8 channels on average, one of the
    # second by two 1x1 convolutions
    assert macs["embed.f1.0"] == 25 / 4 * 8 and macs["embed.f1.1"] == 2 * 8
    assert named_fatrelus(event("e", input_layer="conmamba"))["embed.f1.0"].macs == 9 / 4 * 8


def test_mixed_precision_training_step():
    torch.manual_seed(0)
    encoder = EventSpeechMambaEncoder(20, **SMALL, fat_threshold=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        out, _, _ = encoder(batch().float(), ILENS)
    assert out.dtype == torch.float32
    (out.square().mean() + sum(encoder.auxiliary_losses().values())).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"block": "conmambo"}, "did you mean 'conmamba'"),
        ({"input_layer": "conv2d"}, "input_layer: 'conv2d' is unknown"),
        ({"pos_enc": "rel"}, "pos_enc"),
        ({"attention_heads": 5}, "5 does not divide output_size 16"),
        (
            {"attention_window": [3, -1]},
            r"attention_window: \[3, -1\] is out of range; give a list",
        ),
        ({"attention_window": [3]}, r"\[3\] is out of range; give a list of 2$"),
        ({"conv_kernel": 4}, "conv_kernel: 4 is even"),
        ({"causal": True, "block": "conmamba"}, "looks ahead"),
        ({"conv_skip": True, "input_layer": "conmamba"}, "conv_skip"),
        ({"init_mode": "xavier"}, "did you mean 'xavier_normal'"),
    ],
)
def test_impossible_options(conf, message):
    with pytest.raises(ValueError, match=message):
        make(**conf)


def test_batch_without_frames():
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    with pytest.raises(TooShortUttError):
        make()(torch.zeros(1, 0, 20, dtype=torch.float64), torch.tensor([0]))


def spiking(**conf):
    return excited(make(SpikingSpeechMambaEncoder, tau=1.5, v_th=0.5, **conf))


SPIKING_VARIANTS = [
    {"learn_tau": True},
    {"block": "mhsa_mamba", "input_layer": "conmamba", "conv_channels": None},
]


@pytest.mark.parametrize(
    "conf",
    [*SPIKING_VARIANTS, {"conv_skip": True}, {"neuron": "relu"}, {"neuron": "ilif"}],
    ids=str,
)
@torch.no_grad()
def test_spiking_padding_does_not_matter(conf):
    encoder = spiking(**conf)
    encoder(batch(), ILENS)
    encoder.train()  # batch statistics are of the valid frames too
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    xs = batch()
    longer = torch.cat([xs, torch.full((3, 30, 20), -7.0, dtype=torch.float64)], 1)
    noisy = longer.masked_fill(~valid(ILENS, 91)[..., None], 1e3)
    for mode in (True, False):
        encoder.train(mode)
        out, olens, _ = encoder(xs, ILENS)
        rates = firing_rates(encoder)
        again, _, _ = encoder(noisy, ILENS)
        assert rates == firing_rates(encoder)
        real = valid(olens, 16)
        torch.testing.assert_close(again[:, :16][real], out[real], rtol=1e-9, atol=1e-9)
    for row, (frames, n) in enumerate(zip(ILENS, olens, strict=True)):
        alone, _, _ = encoder(xs[row : row + 1, :frames], ILENS[row : row + 1])
        torch.testing.assert_close(alone[0], out[row, :n], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("conf", SPIKING_VARIANTS, ids=str)
@torch.no_grad()
def test_weight_layers_of_the_spiking_blocks_read_binary_spikes(conf):
    encoder = spiking(**conf)
    seen = {}

    def look(name):
        return lambda layer, inputs: seen.update({name: inputs[0]})

    for name, layer in encoder.encoders.named_modules():
        if isinstance(layer, nn.Linear | CausalConv):
            layer.register_forward_pre_hook(look(name))
    encoder(batch(), ILENS)
    # real-valued by design: the convolution's input and the low-rank step sizes
    dense = {n for n, x in seen.items() if not ((x == 0) | (x == 1)).all()}
    assert {n.rpartition(".")[2] for n in dense} <= {"conv", "dt_proj"}
    # attention, and in_proj, x_proj and out_proj of two Mambas, or of one with two x_proj
    assert len(seen) - len(dense) == 2 * (4 + (2 + 2 if "block" in conf else 2 * 3))
    assert all(x.any() for x in seen.values())


@torch.no_grad()
def test_integer_neurons_hand_on_counts_through_a_gate_of_one_bit():
    encoder = excited(make(SpikingSpeechMambaEncoder, neuron="ilif", T=3, v_th=0.5))
    found = dict.fromkeys(named_neurons(encoder), 0)
    for name, neuron in named_neurons(encoder).items():
        neuron.register_forward_hook(lambda _, x, y, name=name: found.update({name: y.max()}))
    seen = []
    for name, layer in encoder.encoders.named_modules():
        if isinstance(layer, nn.Linear) and not name.endswith("dt_proj"):
            layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    encoder(batch(), ILENS)
    assert len(found) == 3 + 2 * (5 + 2 * 4)
    gates = {name for name, most in found.items() if most == 1}
    assert gates == {name for name in found if ".f6" in name} and max(found.values()) == 3
    assert all(set(x.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0} and x.any() for x in seen)
    with pytest.raises(ValueError, match="FrameILIF"):
        encoder.set_spike_mode("binary")


def test_integer_neurons_have_gradients_and_rate_losses_by_level():
    encoder = make(
        SpikingSpeechMambaEncoder, neuron="ilif", T=2, per_channel=True, r_min=0.2, r_max=0.21
    ).train()
    out, _, _ = encoder(batch(), ILENS)
    losses = encoder.auxiliary_losses()
    rates = torch.stack(list(firing_rates(encoder).values())).double()
    torch.testing.assert_close(losses["burst"].detach(), 0.5 * (rates - 0.21).clamp(min=0).mean())
    (out.square().sum() + sum(losses.values())).backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    thresholds = [n.t.grad.any() and n.u.grad.any() for n in named_neurons(encoder).values()]
    assert len(thresholds) == 3 + 2 * (5 + 2 * 4) and all(thresholds)


@torch.no_grad()
def test_the_form_with_relus_is_the_spiking_one_but_for_its_neurons():
    relu, lif = make(SpikingSpeechMambaEncoder, neuron="relu"), make(SpikingSpeechMambaEncoder)
    assert relu.state_dict().keys() == lif.state_dict().keys()
    assert named_neurons(lif) and not named_neurons(relu) and not relu.auxiliary_losses()
    seen = {}
    for name, layer in relu.encoders.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    relu(batch(), ILENS)
    read = {n: x for n, x in seen.items() if not n.endswith("dt_proj")}
    assert len(read) == 2 * (4 + 2 * 3)
    assert all(
        (x >= 0).all() and x.any() and not ((x == 0) | (x == 1)).all() for x in read.values()
    )


@torch.no_grad()
def test_the_layer_behind_the_skip_of_the_spiking_front_end_reads_spikes():
    encoder = spiking(conv_skip=True)
    seen = []
    encoder.embed.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(batch(), ILENS)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("conf", SPIKING_VARIANTS, ids=str)
def test_spiking_gradients_and_rate_losses(conf):
    encoder = spiking(r_min=0.2, r_max=0.21, **conf).train()
    out, _, _ = encoder(batch(), ILENS)
    losses = encoder.auxiliary_losses()
    assert set(losses) == {"quiet", "burst"}
    rates = torch.stack(list(firing_rates(encoder).values())).double()
    # front end; attention, then u, convolution, z and y of each Mamba
    assert len(rates) == (2 + 2 * (5 + 3 + 2) if "block" in conf else 3 + 2 * (5 + 2 * 4))
    torch.testing.assert_close(losses["quiet"].detach(), 0.5 * (0.2 - rates).clamp(min=0).mean())
    grads = torch.autograd.grad(
        out.square().sum() + sum(losses.values()), list(encoder.parameters())
    )
    for (name, _), grad in zip(encoder.named_parameters(), grads, strict=True):
        # a batch norm takes the bias before it away again
        lost = "linear_" in name and name.endswith(".bias")
        assert grad.isfinite().all() and (grad.any() or lost), name


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"block": "conmamba"}, "known: mamba_mhsa_mamba, mhsa_mamba"),
        ({"attention_window": [1, 1]}, "see ssa_decay"),
        ({"ssa_decay": [0, 3]}, r"ssa_decay: \[0, 3\] is out of range"),
        ({"ssa_decay": [1, float("nan")]}, r"ssa_decay: \[1, nan\] is out of range"),
        ({"r_min": 0.5, "r_max": 0.1}, "must rise"),
        ({"surrogate": "atn"}, "did you mean 'atan'"),
        ({"neuron": "lfi"}, "did you mean 'lif'"),
        ({"T": 4}, "one spike a frame at most, see neuron: ilif"),
        ({"neuron": "ilif", "T": 0}, "T: 0 is out of range"),
    ],
)
def test_impossible_spiking_options(conf, message):
    with pytest.raises(ValueError, match=message):
        make(SpikingSpeechMambaEncoder, **conf)


def test_one_spike_a_frame_is_what_lif_has():
    make(SpikingSpeechMambaEncoder, neuron="lif", T=1)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def published():
    kinds = (SpeechMambaEncoder, EventSpeechMambaEncoder, SpikingSpeechMambaEncoder)
    with torch.device("meta"):
        return [cls(80) for cls in kinds], SpeechMambaEncoder(80, conv_skip=True)


def test_part_by_part_the_defaults_are_as_large_as_the_official_recipe(published):
    (dense, event, _), with_skip = published
    block = dense.encoders[0]
    assert len(dense.encoders) == 7
    assert block.attn.sublayer.heads == 4
    assert parameters(block.mamba_in) == parameters(block.mamba_out) == 2_432_512
    assert parameters(block.attn.sublayer) == 1_050_624
    assert parameters(block.attn) == 1_050_624 + 512
    assert parameters(block) == 5_916_160
    assert parameters(dense.encoders) + parameters(dense.after_norm) == 41_414_144
    assert dense.pos_enc.xscale == 1.0
    assert dense.after_norm.eps == 1e-6 and isinstance(dense.after_norm, nn.LayerNorm)
    assert parameters(dense.embed.out) == 655_872
    assert parameters(dense.embed) - parameters(dense.embed.out) == 118_528
    assert parameters(with_skip) - parameters(dense) == 6_720
    assert parameters(event) == parameters(dense)


def test_batch_norms_of_the_spiking_form_are_what_the_published_sizes_differ_by(published):
    (dense, _, spiking), _ = published
    norms = [m for m in spiking.modules() if isinstance(m, MaskedBatchNorm)]
    assert parameters(spiking) - parameters(dense) == 129_024 == sum(map(parameters, norms))
    block = spiking.encoders[0]
    assert parameters(block) - parameters(dense.encoders[0]) == 2 * 7_168 + 4_096


def test_points_of_the_published_block():
    e, optimized = event("e", num_blocks=1), event("optimized", num_blocks=1)
    mamba = [f"encoders.0.mamba_{side}.sublayer" for side in ("in", "out")]
    front = {"embed.f1.0", "embed.f1.1", "embed.f2"}
    attn = {"encoders.0.attn.sublayer.f3", "encoders.0.attn.sublayer.f4"}
    want = front | attn | {f"{m}.f{n}" for m in mamba for n in (5, 6, 7)}
    assert set(e.describe()["points"]) == want
    more = {f"{m}.ssm.f{n}" for m in mamba for n in ("9", "10", "11_b", "11_c")}
    assert set(optimized.describe()["points"]) == want | more


def test_other_blocks_keep_the_defaults_that_they_were_trained_with():
    with torch.device("meta"):
        encoder = SpeechMambaEncoder(80, block="mhsa_mamba")
    assert (len(encoder.encoders), encoder.output_size()) == (12, 256)
    assert isinstance(encoder.after_norm, RMSNorm) and encoder.pos_enc.xscale == 16.0
    assert encoder.embed.layers == ((3, 2, 64), (3, 2, 32))
    mamba = encoder.encoders[0].mamba
    assert mamba.ssm.A_log.shape == (512, 16) and mamba.ssm_reverse is not None


# what these computed when mhsa_mamba was the default, with options of today's FSDD configuration
STORED = {
    "output_size": 8,
    "attention_heads": 2,
    "num_blocks": 1,
    "block": "mhsa_mamba",
    "conv_channels": 2,
    "pos_enc": "none",
    "d_state": 2,
    "dropout_rate": 0.2,
}
OUTPUTS = {
    SpeechMambaEncoder: [-0.446462, -0.000316, -0.608599, 0.116522, -0.091082, 0.356405],
    EventSpeechMambaEncoder: [-0.478999, -0.000282, -0.217083, 0.108674, 0.33918, 0.278404],
}


@pytest.mark.parametrize("cls", OUTPUTS)
@torch.no_grad()
def test_a_configuration_that_names_its_block_computes_what_it_did(cls):
    encoder = cls(6, **STORED).double().eval()
    for number, parameter in enumerate(encoder.parameters()):
        values = torch.arange(parameter.numel(), dtype=parameter.dtype)
        parameter.copy_((0.5 * torch.sin(1.7 * values + number)).view(parameter.shape))
    xs = torch.sin(0.9 * torch.arange(60, dtype=torch.double)).view(1, 10, 6)
    out, _, _ = encoder(xs, torch.tensor([10]))
    assert out[0, -1, :6].tolist() == pytest.approx(OUTPUTS[cls], abs=1e-6)
    names = [name for name in encoder.state_dict() if name.startswith("encoders.0.")]
    attn = [
        f"attn.linear_{n}.{kind}" for n in ("q", "k", "v", "out") for kind in ("weight", "bias")
    ]
    ssm = [*("A_log", "D", "conv.weight", "conv.bias", "x_proj.weight")]
    ssm += ["dt_proj.weight", "dt_proj.bias"]
    mamba = [f"mamba.{direction}.{n}" for direction in ("ssm", "ssm_reverse") for n in ssm]
    want = ["norm_attn.weight", *attn, "norm_mamba.weight", "mamba.in_proj.weight", *mamba]
    want = [f"encoders.0.{name}" for name in (*want, "mamba.out_proj.weight")]
    assert [name for name in names if not name.endswith("fixed_T")] == want


def test_a_model_of_before_its_block_had_a_name_says_what_its_configuration_lacks():
    old, new = make(block="mhsa_mamba"), make()
    with pytest.raises(RuntimeError, match="needs `block: mhsa_mamba` in encoder_conf"):
        new.load_state_dict(old.state_dict(), strict=False)
    assert not any(new.load_state_dict(new.state_dict(), strict=False))


def test_xavier_normal_survives_the_init_of_espnet():
    from espnet2.torch_utils.initialize import initialize

    torch.manual_seed(0)
    conf = SMALL | {"output_size": 64, "d_state": 32, "num_blocks": 1}
    encoder = SpeechMambaEncoder(20, **conf, init_mode="xavier_normal")
    for _ in range(2):
        ssm = encoder.encoders[0].mamba_out.sublayer.ssm
        for name in ("A_log", "conv.weight", "dt_proj.weight", "x_proj.weight"):
            weight = ssm.get_parameter(name)
            fans = nn.init._calculate_fan_in_and_fan_out(weight)
            std = (2 / sum(fans)) ** 0.5
            assert abs(weight.mean()) < std / 4
            assert weight.std().item() == pytest.approx(std, rel=0.1), name
        assert (ssm.D == 1).all() and (ssm.dt_proj.bias < -2).all()  # what Mamba starts from
        assert (encoder.embed.norms[0].weight == 1).all()
        initialize(encoder, "kaiming_uniform")
    own = SpeechMambaEncoder(20, **conf)
    initialize(own, "xavier_normal")
    A_log = own.encoders[0].mamba_out.sublayer.ssm.A_log
    torch.testing.assert_close(A_log[0].exp(), torch.arange(1.0, 33.0))


CONFIGS = {"": 67_634_768, "event_": 67_634_768, "spiking_": 67_634_768 + 129_024}


@pytest.mark.parametrize("streaming", ["", "streaming_"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_published_size(streaming, kind):
    from espnet_spike.tasks.describe import describe

    description = describe(ROOT / f"conf/train_{streaming}{kind}speech_mamba_librispeech960.yaml")
    assert description["parameters"]["total"] == CONFIGS[kind]
    assert description["subsampling_factor"] == 4
    assert description["layers"] == {"encoder": 7, "decoder": 3}


def test_the_schedule_is_that_of_noam_with_the_published_peak():
    from espnet2.schedulers.warmup_lr import WarmupLR

    from espnet_spike.tasks.config import read_training_config

    config, _ = read_training_config(ROOT / "conf/train_speech_mamba_librispeech960.yaml")
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], **config["optim_conf"])
    schedule = WarmupLR(optimizer, **config["scheduler_conf"])
    for step in (1, 24_999, 25_000, 100_000):
        schedule.last_epoch = step - 1
        noam = 1e-3 * 25_000**0.5 * min(step**-0.5, step * 25_000**-1.5)
        assert schedule.get_lr() == [pytest.approx(noam)]
        assert noam <= 1e-3


def test_fewer_parameters_than_the_spiking_baseline():
    from espnet_spike.tasks.describe import describe

    ours, theirs = (
        describe(ROOT / "conf" / f"train_{name}_librispeech960.yaml")["parameters"]["total"]
        for name in ("spiking_speech_mamba", "iml_spikeformer")
    )
    assert ours / theirs < 0.7  # published: 67.8 and 99.4 million


OUR_SIZES = {"aishell": 22.5, "librispeech100": 23.1}


@pytest.mark.parametrize("corpus", OUR_SIZES)
@pytest.mark.parametrize("kind", ["", "event_", "spiking_"])
def test_sizes_of_ours(corpus, kind):
    from espnet_spike.tasks.describe import describe

    path = ROOT / "conf" / f"train_{kind}speech_mamba_{corpus}.yaml"
    total = describe(path)["parameters"]["total"] / 1e6
    assert abs(total - OUR_SIZES[corpus]) < 0.1
    assert f"{total:.1f} million parameters" in " ".join(path.read_text().split())


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"conf/train_streaming_{kind}speech_mamba_librispeech960.yaml"
            for kind in ("", "event_", "spiking_")
        ),
        "egs/fsdd/conf/train_streaming_speech_mamba.yaml",
        "egs/fsdd/conf/train_streaming_speech_mamba_mhsa_mamba.yaml",
    ],
)
def test_streaming_configurations_stream(path):
    from espnet_spike.inference.streaming import EncoderStream
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.config import read_training_config
    from espnet_spike.tasks.config_check import check_training_config

    config, meta = read_training_config(ROOT / path)
    assert config["normalize"] == "global_mvn"
    checked = check_training_config(SpikeASRTask, config, path, "", meta["vocab_size"], 80)
    encoder = checked.model.encoder.to("meta").eval()  # some parameters start on the CPU
    out = EncoderStream(encoder).step(torch.zeros(1, 9, 80, device="meta"))
    assert out.shape == (1, 3, encoder.output_size())


@pytest.mark.parametrize(
    ("cls", "conf"),
    [
        (SpeechMambaEncoder, {}),
        (EventSpeechMambaEncoder, {"fat_points": "optimized", "fat_threshold": 0.2}),
        (SpikingSpeechMambaEncoder, {"learn_tau": True}),
    ],
)
def test_gradient_checkpointing_changes_nothing(cls, conf):
    results, runs = [], []
    for checkpointing in (False, True):
        encoder = make(cls, gradient_checkpointing=checkpointing, dropout_rate=0.3, **conf).train()
        count = []
        encoder.encoders[0].attn.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        xs, _, _ = encoder(batch(), ILENS)
        losses = getattr(encoder, "auxiliary_losses", dict)()
        kept = [losses[name] for name in sorted(losses)]
        rates = [*firing_rates(encoder).values(), *sparsities(encoder).values()]
        (xs.square().sum() + sum(kept)).backward()
        after = [*firing_rates(encoder).values(), *sparsities(encoder).values()]
        grads = [p.grad for p in encoder.parameters() if p.grad is not None]
        results.append([xs, *kept, *rates, *after, *grads, *encoder.buffers(), torch.rand(1)])
        runs.append(len(count))
    assert runs == [1, 2]
    assert len(results[0]) == len(results[1]) and bool(kept) == (cls is not SpeechMambaEncoder)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
