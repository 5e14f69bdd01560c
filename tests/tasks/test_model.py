import pytest
import torch
from kaldialign import edit_distance
from torch import nn

from espnet_spike.errors import UserError
from espnet_spike.nn.layers import spiking_attention
from espnet_spike.nn.neurons.base import firing_rates, threshold_spreads
from espnet_spike.tasks.arguments import parse_espnet
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.config_check import check_training_config
from tests.helpers.features import TOKENS
from tests.helpers.synchronising import ESPNET, Watch, the_way_of_a_gpu

ENCODERS = {
    "iml_spikeformer": {"output_size": 16, "attention_heads": 2, "linear_units": 32},
    "transformer": {"output_size": 16, "attention_heads": 2, "linear_units": 32},
    "speech_mamba": {"output_size": 16, "attention_heads": 2, "d_state": 3},
    "event_speech_mamba": {"output_size": 16, "attention_heads": 2, "d_state": 4},
    "spiking_speech_mamba": {"output_size": 16, "attention_heads": 2, "d_state": 4},
}


DECODER = {
    "decoder": "transformer",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "linear_units": 32},
}


def build(encoder="iml_spikeformer", encoder_conf=None, decoder=DECODER, **model_conf):
    config = {
        "encoder": encoder,
        "encoder_conf": ENCODERS[encoder] | {"num_blocks": 2} | (encoder_conf or {}),
        **decoder,
        "model_conf": model_conf,
        "normalize": "utterance_mvn",
    }
    check_training_config(SpikeASRTask, config, "test", vocab_size=len(TOKENS))
    args = parse_espnet(SpikeASRTask, config, ["--input_size", "80"])
    args.token_list = TOKENS
    torch.manual_seed(0)
    return SpikeASRTask.build_model(args)


def batch(frames=(60, 40)):
    torch.manual_seed(1)
    lengths = torch.tensor(frames)
    speech = torch.randn(len(frames), max(frames), 80)
    text = torch.tensor([[3, 4, 5], [5, 3, -1]][: len(frames)])
    return {
        "speech": speech,
        "speech_lengths": lengths,
        "text": text,
        "text_lengths": torch.tensor([3, 2][: len(frames)]),
    }


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
def test_each_way_of_decoding_trains(encoder, ctc_weight):
    model = build(encoder, ctc_weight=ctc_weight)
    loss, stats, weight = model(**batch())
    loss.backward()
    assert torch.isfinite(loss) and weight == 2
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    assert ("loss_ctc" in stats) == (ctc_weight > 0)
    assert (stats["loss_att"] is not None) == (ctc_weight < 1)
    assert (model.decoder is None) == (ctc_weight == 1)


def test_logits_of_ctc_are_fp32_under_autocast():
    model, logits = build(ctc_weight=1.0), []
    model.ctc.ctc_loss.register_forward_pre_hook(lambda _, args: logits.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = model(**batch())
    assert loss.dtype == torch.float32
    total = logits[0].double().exp().sum(-1)  # of a softmax in bf16 they are 1e-2 off
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


@pytest.mark.parametrize("garbage", [0, 1, 7])
def test_the_character_error_rate_of_validation_is_of_valid_frames(garbage):
    """What comes out behind the end of an utterance is no error of it."""
    model = build(ctc_weight=0.3).eval()
    torch.manual_seed(2)
    out, lengths = torch.randn(2, 9, 16), torch.tensor([9, 4])
    text, text_lengths = torch.tensor([[3, 4, 5], [5, 3, -1]]), torch.tensor([3, 2])
    best = model.ctc.argmax(out)
    assert best[1, 4:].any()  # tokens on padding
    errors, letters = 0, 0
    for tokens, length, reference in zip(best, lengths, text, strict=True):
        found = torch.unique_consecutive(tokens[:length])
        hyp = "".join(TOKENS[token] for token in found if token != 0).replace("<space>", "")
        ref = "".join(TOKENS[token] for token in reference if token != -1).replace("<space>", "")
        errors += edit_distance(list(ref), list(hyp))["total"]
        letters += len(ref)
    longer = torch.cat([out, 9 * torch.randn(2, garbage, 16)], 1)
    loss, cer = model._calc_ctc_loss(longer, lengths, text, text_lengths)
    assert cer == pytest.approx(errors / letters)
    torch.testing.assert_close(loss, model.ctc(out, lengths, text, text_lengths))
    assert model.train()._calc_ctc_loss(longer, lengths, text, text_lengths)[1] is None


def test_intermediate_ctc():
    model = build(encoder_conf={"interctc_layer_idx": [1]}, ctc_weight=1.0, interctc_weight=0.5)
    _, stats, _ = model(**batch())
    assert torch.isfinite(stats["loss_interctc_layer1"]).all()


def test_sparsity_of_an_event_driven_encoder():
    conf = {"fat_points": "optimized", "fat_threshold": 0.05, "d_state": 3}
    model = build("event_speech_mamba", conf)
    seen = set()
    for mode in (True, False):
        model.train(mode)
        loss, stats, _ = model(**batch())
        zeros = {k: v for k, v in stats.items() if k.startswith("sparsity")}
        assert all(v.shape == (1,) and 0 <= v <= 1 for v in zeros.values())
        layers = [float(v) for k, v in zeros.items() if k.startswith("sparsity_e")]
        assert float(zeros["sparsity"]) == pytest.approx(sum(layers) / len(layers))
        losses = stats["loss_sparsity_activation"] + stats["loss_sparsity_threshold"]
        task = model.ctc_weight * stats["loss_ctc"] + (1 - model.ctc_weight) * stats["loss_att"]
        assert float(loss.detach()) == pytest.approx(float(losses + task), rel=1e-5)
        seen.add(frozenset(stats))
    assert len(seen) == 1


def test_a_decoder_tells_its_sparsity_and_losses_apart_from_the_encoders():
    conf = {"num_blocks": 1, "d_state": 3, "fat_points": "e", "fat_threshold": 0.05}
    decoder = {"decoder": "speech_mamba", "decoder_conf": conf}
    encoder = {"fat_points": ["F5"], "fat_threshold": 0.05, "d_state": 3}
    model = build("event_speech_mamba", encoder, decoder, ctc_weight=0.3)
    loss, stats, _ = model(**batch())
    points = [k for k in stats if k.startswith("sparsity_decoder.decoders.0.")]
    assert len(points) == 2 + 2 * 3
    mean = sum(float(stats[k]) for k in points) / len(points)
    assert float(stats["decoder_sparsity"]) == pytest.approx(mean)
    ours = [k for k in stats if k.startswith("sparsity_enc")]
    assert float(stats["sparsity"]) == pytest.approx(sum(float(stats[k]) for k in ours) / len(ours))
    assert {"decoder_sparsity_macs", "sparsity_macs"} <= set(stats)
    auxiliary = [float(stats[k]) for k in stats if "sparsity" in k and k.startswith("loss_")]
    assert len(auxiliary) == 4 and "loss_decoder_sparsity_activation" in stats
    task = 0.3 * stats["loss_ctc"] + 0.7 * stats["loss_att"]
    assert float(loss.detach()) == pytest.approx(sum(auxiliary) + float(task), rel=1e-5)


def test_a_decoder_tells_its_firing_rates():
    conf = {"num_blocks": 1, "d_state": 3, "spiking": True}
    model = build("speech_mamba", None, {"decoder": "speech_mamba", "decoder_conf": conf})
    loss, stats, _ = model(**batch())
    layers = [k for k in stats if k.startswith("firing_rate_decoder.decoders.0.")]
    assert len(layers) == 4 + 6 + 4 and "firing_rate" not in stats
    mean = sum(float(stats[k]) for k in layers) / len(layers)
    assert float(stats["decoder_firing_rate"]) == pytest.approx(mean)
    assert {"loss_decoder_quiet", "loss_decoder_burst"} <= set(stats) and loss.requires_grad


def test_firing_rates_are_one_dim_with_the_same_keys_in_every_step():
    model = build()
    seen = set()
    for mode in (True, False):
        model.train(mode)
        for frames in ((60, 40), (31, 55)):
            _, stats, _ = model(**batch(frames))
            rates = {k: v for k, v in stats.items() if k.startswith("firing_rate")}
            assert all(v.shape == (1,) and 0 <= v <= 1 for v in rates.values())
            assert not any(v.requires_grad for v in rates.values())
            seen.add(frozenset(rates))
    assert len(seen) == 1
    layers = [float(v) for k, v in rates.items() if k.startswith("firing_rate_")]
    assert len(layers) == len(firing_rates(model.encoder)) > 0
    assert float(rates["firing_rate"]) == pytest.approx(sum(layers) / len(layers))


def test_validation_tells_how_much_thresholds_follow_their_input():
    model = build()
    spreads = [
        {k: float(v) for k, v in model.train(mode)(**batch())[1].items() if "spread" in k}
        for mode in (True, False)
    ]
    assert spreads[0] == {}
    layers = [v for k, v in spreads[1].items() if k.startswith("threshold_spread_")]
    assert len(layers) == len(threshold_spreads(model.encoder)) > 0
    assert all(v >= 0 for v in layers) and max(layers) > 0
    assert spreads[1]["threshold_spread"] == pytest.approx(sum(layers) / len(layers))


def test_an_encoder_without_spikes_adds_nothing():
    _, stats, _ = build("transformer").eval()(**batch())
    assert not any("firing" in key or "spread" in key for key in stats)


def test_auxiliary_losses_are_added_and_trained_on():
    model = build("transformer")
    plain, stats, _ = model.eval()(**batch())
    parameter = nn.Parameter(torch.tensor(2.0))
    model.encoder.auxiliary_losses = lambda: {"rate": 3 * parameter}
    loss, more, _ = model(**batch())
    assert loss.item() == pytest.approx(plain.item() + 6.0, rel=1e-5)
    assert more["loss"].item() == pytest.approx(loss.item())
    assert more["loss_rate"].shape == (1,) and more["loss_rate"].item() == 6.0
    assert set(more) - set(stats) == {"loss_rate"}
    loss.sum().backward()
    assert parameter.grad == 3.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_name_the_utterance(value):
    model = build("transformer")
    data = batch()
    data["speech"][1, 7, 3] = value
    with pytest.raises(UserError, match="utterance spk-two"):
        model(**data, utt_id=["spk-one", "spk-two"])


def test_masks_after_normalisation_are_the_mean():
    from espnet2.asr.specaug.specaug import SpecAug
    from espnet2.layers.utterance_mvn import UtteranceMVN

    from espnet_spike.tasks.model import NormalizeThenMask

    specaug = SpecAug(apply_time_warp=False, apply_time_mask=False)
    layer = NormalizeThenMask(UtteranceMVN(), specaug)
    torch.manual_seed(0)
    xs_pad, ilens = 10 + torch.randn(3, 50, 80), torch.tensor([50, 40, 30])
    plain, _ = UtteranceMVN()(xs_pad.clone(), ilens)
    layer.eval()
    assert torch.equal(layer(xs_pad.clone(), ilens)[0], plain)
    layer.train()
    masked, olens = layer(xs_pad.clone(), ilens)
    assert torch.equal(olens, ilens)
    # what is not masked is as without masks: a mask does not move the mean of the rest
    assert torch.equal(masked[masked != 0], plain[masked != 0])
    assert ((masked == 0) & (plain != 0)).any()


def test_the_order_of_masks_and_normalisation_is_an_option():
    config = {
        "encoder": "transformer",
        "encoder_conf": ENCODERS["transformer"] | {"num_blocks": 1},
        "model_conf": {"ctc_weight": 1.0},
        "normalize": "utterance_mvn",
        "specaug": "specaug",
        "specaug_conf": {"apply_time_mask": False},
    }
    for after, kind in ((False, "UtteranceMVN"), (True, "NormalizeThenMask")):
        config["model_conf"]["specaug_after_normalize"] = after
        args = parse_espnet(SpikeASRTask, config, ["--input_size", "80"])
        args.token_list = TOKENS
        model = SpikeASRTask.build_model(args)
        assert type(model.normalize).__name__ == kind
        assert (model.specaug is None) == after


AUGMENT = {
    "features": {"kind": "log_mel"},
    "time_stretch": {"factors": [0.8]},
    "vtlp": {},
    "noise": {"probability": 1.0},
}


@pytest.mark.parametrize("after", [False, True])
def test_augmentation_comes_before_masks_and_normalisation_and_in_training_only(after):
    plain = build("transformer", ctc_weight=1.0)
    model = build("transformer", ctc_weight=1.0, augment=AUGMENT, specaug_after_normalize=after)
    assert model.state_dict().keys() == plain.state_dict().keys()
    data = batch()

    def encode(model):  # normalisation works in place
        with torch.no_grad():
            return model.encode(data["speech"].clone(), data["speech_lengths"])[0]

    wanted = encode(plain.eval())
    assert torch.equal(encode(model.eval()), wanted)
    assert encode(model.train()).shape[1] > wanted.shape[1]
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(model(**{k: v.clone() for k, v in data.items()})[0].detach()))
    assert losses[0] == losses[1] != losses[2]
    assert model.fastest == 1 and plain.fastest == 1


def test_augmentation_without_masks_knows_the_fastest_tempo():
    model = build("transformer", ctc_weight=1.0, augment={"time_stretch": {}})
    assert model.fastest == 1.1


def test_a_waveform_is_refused_where_features_are_taken():
    model = build().eval()
    with pytest.raises(UserError, match="waveform of 16000 samples") as found:
        model.encode(torch.zeros(1, 16000), torch.tensor([16000]))
    assert "load_model(MODEL).transcribe(wave, fs)" in found.value.hint
    with torch.no_grad():
        model.encode(torch.zeros(1, 60, 80), torch.tensor([60]))


# what ESPnet's own code reads outside of the encoder, once a batch or an utterance
ESPNET_WAITS = {
    "asr/espnet_model.py:forward": "cuts the text to the longest of the batch",
    "asr/espnet_model.py:_extract_feats": "cuts the features to the longest of the batch",
    "asr/espnet_model.py:encode": "compares the encoder's length with the longest",
    "asr/ctc.py:forward": "puts the texts of the batch behind one another",
    "asr/ctc.py:loss_fn": "torch's CTC takes its lengths from the CPU",
    "torch_utils/device_funcs.py:force_gatherable": "makes a tensor of the batch's size",
}
STEPS = {
    "iml_spikeformer": {"warm_start_steps": 1, "learn_decay": True},
    "iml_spikeformer lif": {"neuron": "lif", "T": 2, "lambda_q": 0.1, "lambda_b": 0.1},
    "iml_spikeformer ilif": {"neuron": "ilif", "T": 2, "lambda_q": 0.1},
    "iml_spikeformer checkpointed": {"gradient_checkpointing": True, "imls_stat": "ema"},
    "speech_mamba": {"bidirectional": True},
    "event_speech_mamba": {"fat_points": "optimized", "fat_threshold": 0.05, "fat_scale_k": True},
    "spiking_speech_mamba": {"learn_tau": True},
    "spiking_speech_mamba causal": {"causal": True, "per_channel": True},
}


@pytest.mark.parametrize("name", STEPS)
def test_nothing_of_a_training_step_waits_for_a_gpu(name):
    """Nor does Python go from frame to frame: there are as many operations for any length."""
    encoder, _, _ = name.partition(" ")
    conf = {"conv_channels": 4} | STEPS[name]
    model, counted = build(encoder, conf, ctc_weight=1.0).train(), []
    model.normalize = None  # ESPnet's reads the lengths
    with the_way_of_a_gpu() as launches, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spiking_attention, "FUSED_FROM", 8)
        model(**batch())  # what is read once in a training has been
        for frames in ((60, 40), (90, 70)):
            launches.clear()
            model.zero_grad()
            data = batch(frames)
            with Watch() as watch:
                model(**data)[0].backward()
            counted.append(watch.operations | launches)
            own = [wait for wait in watch.waits if wait[0] != ESPNET]
            assert launches and not own, own
            assert {place for _, place, _ in watch.waits} == ESPNET_WAITS.keys()
    assert counted[0] == counted[1], counted[0] - counted[1] | counted[1] - counted[0]


def test_what_waits_is_seen():
    x, mask = torch.rand(3, 3), torch.eye(3).bool()
    for call in (
        *(x.tolist, x.cpu, x.numpy, x.sum().item, mask.nonzero, lambda: x[mask], lambda: x[x > 2]),
        *(lambda: float(x.sum()), lambda: bool(mask.any()), lambda: torch.equal(x, x)),
        *(lambda: x.new_tensor(2.0), lambda: torch.tensor([1.0]), lambda: x[: mask.sum()]),
    ):
        with Watch() as watch:
            call()
        assert watch.waits, call
    one = torch.zeros(())
    with Watch() as watch:
        x[mask] = one
        torch.where(mask, x, 0).masked_fill(~mask, 1.0)[:, 0].sum()
    assert not watch.waits
