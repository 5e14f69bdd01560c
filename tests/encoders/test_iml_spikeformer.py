"""The whole encoder: size, lengths, invariances, every option trains."""

import copy

import pytest
import torch

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.nn.neurons.base import firing_rates, named_neurons, threshold_spreads
from espnet_spike.nn.norms import MaskedBatchNorm

SMALL = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 24,
    "num_blocks": 2,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
    "conv_channels": 8,
    "T": 4,
}
OPTIONS = {
    "default": {},
    "binary": {"T": 1},
    "utt": {"imls_stat": "utt"},
    "max": {"imls_stat": "max"},
    "ema": {"imls_stat": "ema"},
    "fixed_bn": {"imls_stat": "fixed", "norm": "bn"},
    "even": {"rounding": "even", "detach_stat": False},
    "dyt": {"norm": "dyt", "pos_enc": "none"},
    "asym": {"qk_mode": "asym", "qkv_bias": True, "inner_norm": True},
    "repconv": {"qk_mode": "repconv"},
    "ssa": {"qk_mode": "ssa", "hdm": False},
    "sdsa": {"qk_mode": "sdsa", "hdm": False},
    "learn_decay": {"learn_decay": True, "decay_norm": False},
    "causal": {"causal": True, "attention_form": "chunkwise"},
    "conv": {"conv_module": True, "conv_module_kernel": 3},
    "lif": {"neuron": "lif", "T": 3},
    "lif_sdsa": {"neuron": "lif", "T": 2, "qk_mode": "sdsa"},
    "ilif": {"neuron": "ilif", "neuron_conf": {"time_steps": 2}},
    "ilif_channels": {
        "neuron": "ilif",
        "neuron_conf": {"per_channel": True, "surrogate_tail": 0.2},
    },
    "lif_channels": {"neuron": "lif", "T": 2, "neuron_conf": {"per_channel": True}},
    "ternary": {"neuron": "ternary"},
    "relu": {"neuron": "relu"},
    "conv2d6": {"input_layer": "conv2d6"},
}
LENGTHS = torch.tensor([71, 40, 23])


def make(name="default", dtype=torch.double, seed=0, **options):
    torch.manual_seed(seed)
    encoder = IMLSpikeformerEncoder(20, **(SMALL | OPTIONS[name] | options))
    return encoder.to(dtype)


def ready(name, **options):
    """Return an encoder as after training: batch norms and running levels have been used."""
    encoder = make(name, **options).train()
    with torch.no_grad():
        encoder(*batch())
        for _, module in encoder.named_modules():
            if isinstance(module, MaskedBatchNorm):
                module.bias += 0.1 * torch.randn_like(module.bias)
    return encoder.eval()


def batch(dtype=torch.double, seed=1):
    torch.manual_seed(seed)
    return torch.randn(len(LENGTHS), int(LENGTHS.max()), 20, dtype=dtype), LENGTHS


def encode(encoder, x, ilens):
    """Return valid frames of each utterance and the spikes of each neuron."""
    with torch.no_grad():
        xs, olens, _ = encoder(x, ilens)
    counts = {n: m.firing.count_sum.item() for n, m in named_neurons(encoder).items()}
    return [u[:n] for u, n in zip(xs, olens, strict=True)], counts


def assert_same(got, expected, counts=True, tolerance=1e-9):
    for a, b in zip(got[0], expected[0], strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    if counts:
        assert got[1] == expected[1]


@pytest.mark.parametrize("name", OPTIONS)
def test_batch_as_alone(name):
    """End to end in float64, all spike counts equal; padding is junk."""
    encoder = ready(name)
    x, ilens = batch()
    padding = torch.arange(x.shape[1]) >= ilens[:, None]
    together = encode(encoder, x.masked_fill(padding[..., None], float("nan")), ilens)
    alone = [encode(encoder, x[b : b + 1, :n], ilens[b : b + 1]) for b, n in enumerate(ilens)]
    assert_same(together, [[u for a in alone for u in a[0]]], counts=False)
    for neuron, count in together[1].items():
        assert sum(a[1][neuron] for a in alone) == count, neuron


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains(name):
    """Loss falls, and every parameter has its part in it (as DDP wants)."""
    encoder = make(name, torch.float).train()
    head = torch.nn.Linear(16, 5)
    x, ilens = batch(torch.float)
    text = torch.tensor([[1, 2, 3], [4, 1, 2], [2, 3, 4]])
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    losses = []
    for _ in range(12):
        xs, olens, _ = encoder(x, ilens)
        log_probs = head(xs).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, text, olens, torch.tensor([3, 3, 3]))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    rates = firing_rates(encoder)
    assert bool(rates) == (name != "relu")
    assert all(0 <= rate <= 1 for rate in rates.values())


INTEGER_NEURONS = [
    name for name in OPTIONS if name not in ("relu", "ternary", "ilif") and "lif" not in name
]


@pytest.mark.parametrize("name", INTEGER_NEURONS)
def test_binary_execution_equals_integer(name):
    encoder = ready(name)
    data = batch()
    expected = encode(encoder, *data)
    encoder.set_spike_mode("binary")
    assert_same(encode(encoder, *data), expected)


@pytest.mark.parametrize("name", ["default", "asym", "repconv", "ssa", "lif_sdsa", "relu"])
def test_reparameterized_equals_trained(name):
    encoder = ready(name)
    data = batch()
    expected = encode(encoder, *data)
    merged = copy.deepcopy(encoder)
    merged.reparameterize()
    assert_same(encode(merged, *data), expected)
    # its weights load into an encoder that is built in this form
    rebuilt = make(name, seed=5, fold_qk=True).eval()
    rebuilt.load_state_dict(merged.state_dict())
    assert_same(encode(rebuilt, *data), expected)


def test_fold_qk_is_a_choice():
    encoder = ready("default")
    encoder.reparameterize(fold_qk=False)
    assert encoder.encoders[0].attn.folded is None
    assert make("repconv", reparameterized=True).encoders[0].attn.conv_q.merged is not None


@pytest.mark.parametrize(
    ("input_layer", "lengths"),
    [
        ("conv2d", {7: 1, 10: 1, 11: 2, 71: 17}),
        ("conv2d1", {5: 1, 6: 2, 71: 67}),
        ("conv2d2", {7: 1, 9: 2, 71: 33}),
        ("conv2d6", {11: 1, 16: 1, 17: 2, 71: 11}),
        ("conv2d8", {15: 1, 22: 1, 23: 2, 71: 8}),
    ],
)
def test_output_lengths(input_layer, lengths):
    encoder = make(input_layer=input_layer, dtype=torch.float).eval()
    ilens = torch.tensor(list(lengths))
    with torch.no_grad():
        xs, olens, _ = encoder(torch.randn(len(ilens), 71, 20), ilens)
    assert olens.tolist() == encoder.output_lengths(ilens).tolist() == list(lengths.values())
    assert xs.shape == (len(ilens), lengths[71], encoder.output_size())
    shortest = encoder.describe()["min_input_frames"]
    assert encoder.output_lengths(torch.tensor([shortest, shortest - 1, 0])).tolist() == [1, 0, 0]


def test_too_short():
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    encoder = make(dtype=torch.float)
    with pytest.raises(TooShortUttError) as error:
        encoder(torch.randn(1, 6, 20), torch.tensor([6]))
    assert (error.value.actual_size, error.value.limit) == (6, 7)


def test_an_empty_utterance_in_a_batch_stays_finite():
    encoder = make(dtype=torch.float)
    xs, olens, _ = encoder(torch.randn(2, 30, 20), torch.tensor([30, 3]))
    xs.square().sum().backward()
    assert olens.tolist() == [6, 0] and xs.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_librispeech_model_has_the_published_size():
    """99.4 M: 18 blocks of 512 with ESPnet's 6-block decoder, CTC, 5000 tokens; twin 99.36 M."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

    def size(module):
        return sum(p.numel() for p in module.parameters())

    conf = {
        "output_size": 512,
        "attention_heads": 8,
        "linear_units": 2048,
        "num_blocks": 18,
        "input_layer": "conv2d6",
    }
    with torch.device("meta"):
        encoder = IMLSpikeformerEncoder(80, **conf)
        twin = IMLSpikeformerEncoder(80, **conf, neuron="relu")
        decoder = TransformerDecoder(5000, 512, attention_heads=8, linear_units=2048, num_blocks=6)
        rest = size(decoder) + size(CTC(5000, 512))
    assert size(encoder) + rest == pytest.approx(99.4e6, rel=0.005)
    assert size(twin) + rest == pytest.approx(99.36e6, rel=0.001)
    assert size(encoder) - size(twin) == 18 * 4096 + 2 * 512


def test_the_twin_has_the_same_weights():
    spiking, twin = make().state_dict(), make(neuron="relu").state_dict()
    thresholds = {key for key in spiking if key.endswith(".a")}
    assert set(spiking) - thresholds == set(twin)
    assert all(spiking[key].shape == twin[key].shape for key in twin)


def test_no_weight_decay_on_thresholds_norms_and_decays():
    from espnet2.optimizers.optim_groups import configure_optimizer

    encoder = make("fixed_bn", learn_decay=True)
    optimizer = configure_optimizer(encoder, torch.optim.AdamW, {"weight_decay": 0.1}, {})
    decayed = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    names = {name for name, p in encoder.named_parameters() if id(p) in decayed}
    assert names and all(name.endswith(".weight") and "norm" not in name for name in names)


@pytest.mark.parametrize("neuron", ["imls", "ilif", "lif", "ternary", "relu"])
def test_firing_rate_loss(neuron):
    options = {"neuron": neuron, "T": 2, "r_min": 0.9, "r_max": 0.9}
    plain = make("default", **options)
    assert plain.auxiliary_losses() == {}
    encoder = make("default", **options, lambda_q=2.0)
    encoder(*batch())
    losses = encoder.auxiliary_losses()
    rates = [float(rate) for rate in firing_rates(encoder).values()]
    if neuron == "relu":
        assert losses == {}
        return
    assert list(losses) == ["quiet"]
    if neuron != "ternary":  # whose counts are not its spikes
        expected = 2 * sum(max(0, 0.9 - rate) for rate in rates) / len(rates)
        assert float(losses["quiet"]) == pytest.approx(expected, rel=1e-5)
    losses["quiet"].backward()
    assert bool((encoder.encoders[0].ffn.linear_in.weight.grad != 0).any())


def test_names_of_rates_and_spreads():
    encoder = make(dtype=torch.float).eval()  # training reports no spreads
    encoder(*batch(torch.float))
    block = [f"encoders.0.attn.neuron_{n}" for n in ("in", "out", "v")]
    block += [f"encoders.0.ffn.neuron_{n}" for n in ("in", "hidden")]
    assert {"embed.neurons.0", "embed.neurons.1", *block} <= set(firing_rates(encoder))
    assert len(firing_rates(encoder)) == 2 + 2 * 5
    spreads = threshold_spreads(encoder)
    assert set(spreads) == set(firing_rates(encoder))
    # a LayerNorm in front makes the level nearly constant; inside the branch it moves
    assert spreads["encoders.0.attn.neuron_in"] < spreads["encoders.0.attn.neuron_out"]


@pytest.mark.parametrize(
    ("name", "rates"),
    [("default", False), *((name, True) for name in ("ema", "fixed_bn", "lif", "ternary"))],
)
def test_gradient_checkpointing_changes_nothing(name, rates):
    """The losses are those of the first run, which the second one does not touch."""
    losses = {"lambda_q": 2.0, "lambda_b": 3.0, "r_min": 0.3, "r_max": 0.3} if rates else {}
    results, runs = [], []
    for checkpointing in (False, True):
        encoder = make(name, gradient_checkpointing=checkpointing, **losses).train()
        count = []
        encoder.encoders[0].attn.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        xs, _, _ = encoder(*batch())
        found = encoder.auxiliary_losses()
        kept = [found[name] for name in sorted(found)]
        before = [neuron.mean_rate for neuron in named_neurons(encoder).values()]
        (xs.square().sum() + sum(kept)).backward()
        after = [neuron.mean_rate for neuron in named_neurons(encoder).values()]
        assert all(a is b for a, b in zip(before, after, strict=True))
        assert (None not in before) == rates == bool(kept) == any(loss > 0 for loss in kept)
        grads = [p.grad for p in encoder.parameters()]
        rest = [*encoder.buffers(), *firing_rates(encoder).values()]
        results.append([xs, *kept, *grads, *rest])
        runs.append(len(count))
    assert runs == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_warm_start_ends_after_its_steps():
    encoder = make(warm_start_steps=2).train()
    warm = []
    for _ in range(3):
        encoder(*batch())
        warm.append({n.warm for n in named_neurons(encoder).values()})
    assert warm == [{True}, {True}, {False}]
    again = make(warm_start_steps=2).eval()
    again.load_state_dict(encoder.state_dict())
    again(*batch())
    assert not any(n.warm for n in named_neurons(again).values())
    assert "training_steps" not in make().state_dict()


def test_autocast_keeps_the_membrane_in_fp32():
    encoder = make(dtype=torch.float).train()
    potentials = []
    encoder.encoders[1].register_forward_hook(lambda m, i, o: potentials.append(o.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        xs, _, _ = encoder(*batch(torch.float))
    xs.square().sum().backward()
    assert potentials == [torch.float]
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_levels_at_inference():
    encoder = ready("default")
    data = batch()
    expected = encode(encoder, *data)
    encoder.set_levels(2, "rescale")
    assert {n.levels for n in named_neurons(encoder).values()} == {2}
    assert encode(encoder, *data)[1] != expected[1]
    encoder.set_levels(4)
    assert_same(encode(encoder, *data), expected)
    ssa = make("ssa")
    ssa.set_levels(2)
    assert ssa.encoders[0].attn.neuron_q.levels == 1 != ssa.encoders[0].attn.neuron_v.levels
    with pytest.raises(ValueError, match="IMLS"):
        make("relu").set_levels(2)


@pytest.mark.parametrize("name", ["relu", "ternary"])
def test_what_has_no_binary_form_says_so(name):
    with pytest.raises(ValueError, match="does not emit 0/1 spikes"):
        make(name).set_spike_mode("binary")


def test_describe():
    about = make("lif").describe()
    assert about["blocks"] == 2 and about["time_steps"] == 3 and about["subsampling_factor"] == 4
    neurons = make("ssa").describe()["neurons"]
    assert neurons["encoders.0.attn.neuron_q"] == {"class": "IMLS", "channels": 16, "T": 1}
    assert neurons["encoders.0.ffn.neuron_hidden"] == {"class": "IMLS", "channels": 24, "T": 4}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"input_layer": "conv2"}, "input_layer: 'conv2' is unknown .*did you mean 'conv2d"),
        ({"neuron": "imsl"}, "did you mean 'imls'"),
        ({"norm": "layernorm"}, "norm: .*known: ln, bn, dyt"),
        ({"pos_enc": "rel"}, "pos_enc: .*known: abs, abs_unscaled, none"),
        ({"qk_mode": "softmax"}, "qk_mode: "),
        ({"hdm_mode": "layers"}, "did you mean 'layer'"),
        ({"imls_stat": "mean"}, "imls_stat: "),
        ({"attention_heads": 3}, "attention_heads: 3"),
        ({"neuron_conf": {"tau": 2.0}}, "neuron_conf: 'tau'"),
        ({"attention_form": "fast"}, "attention_form: "),
    ],
)
def test_unknown_values_name_the_known_ones(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_too_few_features_for_the_front_end():
    with pytest.raises(ValueError, match="input_layer: conv2d8"):
        IMLSpikeformerEncoder(10, **SMALL, input_layer="conv2d8")
