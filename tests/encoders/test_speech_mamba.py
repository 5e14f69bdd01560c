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
from espnet_spike.nn.layers.mamba import CausalConv
from espnet_spike.nn.neurons.base import firing_rates
from tests.conftest import ROOT
from tests.helpers.norms import excited

SMALL = {
    **{"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2},
    **{"d_state": 3, "conv_kernel": 5},
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
    {"block": "mhsa_mamba"},
    {"block": "conmamba"},
    {"block": "mamba_ffn"},
    {"input_layer": "speechbrain", "pos_enc": "none", "attention_window": [2, 1]},
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
    encoder = make(EventSpeechMambaEncoder, block=block, fat_points="optimized", fat_threshold=0.05)
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
    assert {"embed.f1.0", "embed.f2", "encoders.1.attn.f3", "encoders.0.mamba.f7"} <= names
    assert not any("f9" in name or "f8" in name for name in names)
    assert any("ffn_in.f8" in n for n in sparsities(_run(event("e", block="conmamba"))))
    assert sparsities(_run(make())) == {}


def _run(encoder):
    encoder(batch(), ILENS)
    return encoder


READERS = {
    **{f"attn.linear_{name}": "attn.f3" for name in "qkv"},
    **{"attn.linear_out": "attn.f4", "mamba.in_proj": "mamba.f5", "mamba.out_proj": "mamba.f7"},
    **{"mamba.ssm.x_proj": "mamba.ssm.f9", "mamba.ssm.dt_proj": "mamba.ssm.f10"},
}


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
    encoder = event("optimized")
    macs = {name: layer.macs for name, layer in named_fatrelus(encoder).items()}
    mamba = encoder.encoders[0].mamba
    assert macs["encoders.0.attn.f3"] == 3 * 16
    assert macs["encoders.0.mamba.f5"] == mamba.in_proj.out_features
    assert macs["encoders.0.mamba.f7"] == mamba.out_proj.out_features
    assert macs["encoders.0.mamba.ssm.f9"] == mamba.ssm.x_proj.out_features
    assert macs["encoders.0.mamba.ssm.f10"] == mamba.ssm.dt_proj.out_features
    assert macs["embed.f2"] == encoder.embed.out.out_features
    # a value of the first map is read by 9/4 positions of 32 channels on average
    assert macs["embed.f1.0"] == 9 / 4 * 32


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
        ({"attention_window": [3, -1]}, "negative"),
        ({"conv_kernel": 4}, "conv_kernel: 4 is even"),
        ({"causal": True, "block": "conmamba"}, "looks ahead"),
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


@torch.no_grad()
def test_spiking_padding_does_not_matter():
    encoder = spiking()
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


@torch.no_grad()
def test_weight_layers_of_the_spiking_blocks_read_binary_spikes():
    encoder = spiking()
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
    assert len(seen) - len(dense) == 2 * (4 + 2 + 2)
    assert all(x.any() for x in seen.values())


def test_spiking_gradients_and_rate_losses():
    encoder = spiking(r_min=0.2, r_max=0.21).train()
    out, _, _ = encoder(batch(), ILENS)
    losses = encoder.auxiliary_losses()
    assert set(losses) == {"quiet", "burst"}
    rates = torch.stack(list(firing_rates(encoder).values())).double()
    assert len(rates) == 2 + 2 * (5 + 3 + 2)
    torch.testing.assert_close(losses["quiet"].detach(), 0.5 * (0.2 - rates).clamp(min=0).mean())
    grads = torch.autograd.grad(
        out.square().sum() + sum(losses.values()), list(encoder.parameters())
    )
    for (name, _), grad in zip(encoder.named_parameters(), grads, strict=True):
        assert grad.isfinite().all() and grad.any(), name


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"block": "conmamba"}, "mhsa_mamba only"),
        ({"attention_window": [1, 1]}, "see ssa_decay"),
        ({"ssa_decay": [0, 3]}, "two positive exponents"),
        ({"r_min": 0.5, "r_max": 0.1}, "must rise"),
        ({"surrogate": "atn"}, "did you mean 'atan'"),
    ],
)
def test_impossible_spiking_options(conf, message):
    with pytest.raises(ValueError, match=message):
        make(SpikingSpeechMambaEncoder, **conf)


CONFIGS = {
    "train_speech_mamba_librispeech960.yaml": 67.6e6,
    "train_event_speech_mamba_librispeech960.yaml": 67.6e6,
    "train_spiking_speech_mamba_librispeech960.yaml": 67.8e6,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_size(name):
    from espnet_spike.tasks.describe import describe

    description = describe(ROOT / "conf" / name)
    total = description["parameters"]["total"]
    assert abs(total / CONFIGS[name] - 1) < 0.01
    assert description["subsampling_factor"] == 4
    assert description["layers"] == {"encoder": 12, "decoder": 6}


def test_fewer_parameters_than_the_spiking_baseline():
    from espnet_spike.tasks.describe import describe

    ours, theirs = (
        describe(ROOT / "conf" / f"train_{name}_librispeech960.yaml")["parameters"]["total"]
        for name in ("spiking_speech_mamba", "iml_spikeformer")
    )
    assert ours / theirs < 0.7  # published: 67.8 and 99.4 million


OUR_SIZES = {"aishell": 21.9, "librispeech100": 22.5}


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
