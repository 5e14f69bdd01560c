"""Streams: chunk by chunk equals the whole, for every encoder, and by the command."""

import itertools
import re

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data.fbank import FbankConfig, extractor
from espnet_spike.data.feature_extractor import FEATURES, FeatureExtractor
from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
)
from espnet_spike.errors import UserError
from espnet_spike.inference.streaming import CTCStream, EncoderStream, FbankStream, Timing
from espnet_spike.nn.neurons.base import firing_rates
from espnet_spike.nn.norms import MaskedBatchNorm
from tests.helpers.untrained import TOKENS, untrained_experiment

FRAMES = 61
CONF = {
    **{"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2},
    **{"d_state": 8, "conv_channels": 8, "pos_enc": "none", "causal": True},
}
ENCODERS = {
    "dense": (
        SpeechMambaEncoder,
        {"attention_window": [5, 0], "conv_skip": True, "init_mode": "xavier_normal"},
    ),
    "mhsa_mamba": (SpeechMambaEncoder, {"block": "mhsa_mamba", "attention_window": [5, 0]}),
    "dense, all the past": (SpeechMambaEncoder, {}),
    "mamba_ffn": (SpeechMambaEncoder, {"block": "mamba_ffn", "input_layer": "speechbrain"}),
    "event": (
        EventSpeechMambaEncoder,
        {
            **{"attention_window": [5, 0], "fat_points": "optimized", "fat_threshold": 0.1},
            **{"conv_skip": True, "init_mode": "xavier_normal"},
        },
    ),
    "spiking": (SpikingSpeechMambaEncoder, {"tau": 1.5, "v_th": 0.5, "ssa_scale": 0.5}),
    "ilif": (SpikingSpeechMambaEncoder, {"neuron": "ilif", "v_th": 0.5, "ssa_scale": 0.5}),
    "relu": (SpikingSpeechMambaEncoder, {"neuron": "relu"}),
}


def make(name):
    cls, conf = ENCODERS[name]
    torch.manual_seed(0)
    encoder = cls(20, **CONF | conf).double()
    for norm in encoder.modules():
        if isinstance(norm, MaskedBatchNorm):
            torch.nn.init.constant_(norm.bias, 0.5)  # so that every layer fires
    encoder(batch(), torch.full((2,), FRAMES))  # running statistics that are not the first ones
    return encoder.eval()


def batch():
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, FRAMES, 20, generator=g, dtype=torch.float64)


CACHE = {}


@pytest.mark.parametrize("name", ENCODERS)
@given(cuts=st.lists(st.integers(0, FRAMES), max_size=12))
@settings(max_examples=15, deadline=None)
def test_chunks_of_any_size_give_the_whole(name, cuts):
    if name not in CACHE:
        encoder = make(name)
        with torch.no_grad():
            CACHE[name] = encoder, encoder(batch(), torch.full((2,), FRAMES))[0]
    encoder, whole = CACHE[name]
    stream, parts = EncoderStream(encoder), []
    edges = sorted([0, *cuts, FRAMES])
    for first, last in itertools.pairwise(edges):
        parts.append(stream.step(batch()[:, first:last]))
        # output frame n comes with input frame 4 n
        assert sum(part.shape[1] for part in parts) == -(-last // 4)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_spikes_flow_and_the_past_fades_in_the_spiking_stream():
    encoder = make("spiking")
    encoder(batch(), torch.full((2,), FRAMES))
    rates = firing_rates(encoder)
    assert all(0 < rate < 1 for rate in rates.values()), rates
    gamma = encoder.encoders[0].attn.sublayer.log_gamma.exp()
    torch.testing.assert_close(gamma, torch.tensor([0.75, 1 - 2**-6], dtype=torch.float64))


@pytest.mark.parametrize("name", ["dense", "spiking"])
def test_streams_do_not_disturb_each_other_and_stay_small(name):
    encoder = make(name)
    a, b = EncoderStream(encoder), EncoderStream(encoder)
    mixed, sizes = [], []
    for part in batch().split(7, 1):
        mixed.append(a.step(part))
        b.step(-part)
        sizes.append(a.carries.nbytes())
    alone = EncoderStream(encoder)
    assert torch.equal(torch.cat(mixed, 1), torch.cat([*map(alone.step, batch().split(7, 1))], 1))
    assert max(sizes[4:]) <= 1.1 * sizes[3]  # the state does not grow with the past
    # afterwards the encoder takes whole utterances again
    assert encoder(batch(), torch.full((2,), FRAMES))[0].isfinite().all()


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"causal": False}, "causal: true"),
        ({"pos_enc": "abs"}, "pos_enc: none"),
    ],
)
def test_encoders_that_cannot_stream(conf, said):
    with pytest.raises(UserError) as error:
        EncoderStream(SpeechMambaEncoder(20, **CONF | conf).eval())
    assert said in error.value.hint
    with pytest.raises(UserError, match="Linear cannot stream"):
        EncoderStream(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="evaluation mode"):
        EncoderStream(SpeechMambaEncoder(20, **CONF)).step(torch.zeros(1, 4, 20))


@given(cuts=st.lists(st.integers(0, 4000), max_size=10))
@settings(max_examples=20, deadline=None)
def test_features_of_pieces_are_those_of_the_whole(cuts):
    wave = (1000 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    config = FbankConfig()
    stream = FbankStream(config, 8000)
    edges = sorted([0, *cuts, 4000])
    parts = [stream.step(wave[a:b]) for a, b in itertools.pairwise(edges)]
    whole = extractor(config, 8000)(wave)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-4)


def test_features_that_need_the_whole():
    for conf in ({"dither": 1.0}, {"snip_edges": False}):
        with pytest.raises(UserError, match="chunk by chunk"):
            FbankStream(FbankConfig(**conf), 8000)


def test_samples_that_give_no_features_are_refused():
    with pytest.raises(UserError, match="the stream gives features that are not finite"):
        FbankStream(FbankConfig(), 8000).step(np.full(400, 1e30, np.float32))


def test_timing():
    timing = Timing([0.1] * 10, [0.01 * n for n in range(1, 11)])
    assert timing.rtf == pytest.approx(0.55)
    assert timing.percentile(50) == pytest.approx(0.06)
    assert timing.percentile(100) == pytest.approx(0.1)
    assert Timing().percentile(95) == 0


def experiment(folder, name, **changes):
    """An untrained model in a folder like that of a training."""
    names = {"dense": "speech_mamba", "event": "event_speech_mamba"}
    encoder = names.get(name, "spiking_speech_mamba")
    return untrained_experiment(folder, encoder, CONF | ENCODERS[name][1], **changes)


def noise(path):
    """Write a WAV file of 1.5 s at 8 kHz whose level and colour change; return its samples."""
    g = np.random.default_rng(0)
    wave = np.cumsum(g.standard_normal(12000) * np.repeat(g.uniform(1, 900, 30), 400)) * g.choice(
        [-1, 1], 12000
    )
    wave = (wave / np.abs(wave).max() * 20000).astype(np.int16)
    soundfile.write(path, wave, 8000)
    return wave.astype(np.float32)


def heard(model, wave, config):
    """Return features of samples at 8 kHz, and what greedy CTC finds in the whole."""
    feats = torch.from_numpy(extractor(config, 8000)(wave))
    with torch.no_grad():
        out, _ = model.encode(feats[None].clone(), torch.tensor([len(feats)]))
        ids = torch.unique_consecutive(model.ctc.argmax(out)[0])
    return feats, [int(i) for i in ids if i]


@pytest.mark.parametrize("name", ["dense", "event", "spiking"])
def test_the_command_finds_what_greedy_ctc_finds_offline(tmp_path, capsys, name):
    from espnet_spike.bin import stream as command

    model = experiment(tmp_path, name)
    FeatureExtractor(8000, FbankConfig()).write(tmp_path)
    feats, offline = heard(model, noise(tmp_path / "a.wav"), FbankConfig())
    assert len(offline) > 3
    ctc = CTCStream(model)
    new = [token for part in feats.split(11) for token in ctc.step(part)]
    assert new == ctc.tokens == offline

    command.main(["--asr_exp", str(tmp_path), "--chunk_ms", "130", str(tmp_path / "a.wav")])
    printed = capsys.readouterr().out
    from espnet2.text.char_tokenizer import CharTokenizer

    text = CharTokenizer().tokens2text([TOKENS[i] for i in offline])
    assert f"text: {text}\n" in printed
    assert "left out" not in printed
    partial = re.findall(r"^ +([\d.]+) s  (.*)$", printed, flags=re.MULTILINE)
    assert len(partial) > 1 and partial[-1][1] == text
    assert all(text.startswith(line[1]) for line in partial)
    assert re.search(r"real-time factor \d\.\d+", printed)
    assert "waits for 25 ms" in printed


def test_the_command_names_the_decoder_that_it_leaves_out(tmp_path, capsys):
    from espnet_spike.bin import stream as command

    conf = {"num_blocks": 1, "attention_heads": 2, "d_state": 3}
    decoder = {"decoder": "speech_mamba", "decoder_conf": conf}
    experiment(tmp_path, "dense", model_conf={"ctc_weight": 0.3}, **decoder)
    FeatureExtractor(8000, FbankConfig()).write(tmp_path)
    noise(tmp_path / "a.wav")
    command.main(["--asr_exp", str(tmp_path), "--chunk_ms", "700", str(tmp_path / "a.wav")])
    assert "greedy CTC; left out: decoder speech_mamba\n" in capsys.readouterr().out


def test_a_model_that_needs_whole_utterances_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        CTCStream(experiment(tmp_path, "dense", normalize="utterance_mvn"))
    assert "global_mvn" in error.value.hint


def test_the_command_takes_the_features_that_lie_beside_the_model(tmp_path, capsys):
    from espnet2.text.char_tokenizer import CharTokenizer

    from espnet_spike.bin import stream as command

    model = experiment(tmp_path, "dense")
    wave = noise(tmp_path / "a.wav")
    own = FbankConfig(low_freq=300.0, remove_dc_offset=False)
    offline, default = heard(model, wave, own)[1], heard(model, wave, FbankConfig())[1]
    assert offline != default
    FeatureExtractor(8000, own).write(tmp_path)
    command.main(["--asr_exp", str(tmp_path), str(tmp_path / "a.wav")])
    text = CharTokenizer().tokens2text([TOKENS[i] for i in offline])
    assert f"text: {text}\n" in capsys.readouterr().out


def test_the_command_refuses_audio_of_another_rate(tmp_path, capsys):
    from espnet_spike.bin import stream as command

    experiment(tmp_path, "dense")
    noise(tmp_path / "a.wav")
    FeatureExtractor(16000, FbankConfig()).write(tmp_path)
    words = ["--asr_exp", str(tmp_path), str(tmp_path / "a.wav")]
    with pytest.raises(
        UserError, match=r"a\.wav has 8000 Hz, and the model takes 16000 Hz"
    ) as error:
        command.main(words)
    assert "--fs 16000" in error.value.hint
    command.main([*words, "--fs", "16000"])
    assert "real-time factor" in capsys.readouterr().out
    (tmp_path / FEATURES).unlink()
    with pytest.raises(UserError, match=r"no features\.yaml") as error:
        command.main(words)
    assert "--fbank_config" in error.value.hint
