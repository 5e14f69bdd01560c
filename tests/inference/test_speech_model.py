"""A loaded model transcribes files and arrays as the command does."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import espnet_spike
from espnet_spike.bin import transcribe
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference import speech_model
from tests.helpers.untrained import untrained_experiment

FS = 8000


def some_wave():
    g = np.random.default_rng(0)
    wave = np.cumsum(g.standard_normal(12000) * np.repeat(g.uniform(1, 900, 30), 400))
    wave *= g.choice([-1, 1], 12000)
    return (wave / np.abs(wave).max() * 20000).astype(np.int16)


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe") / "exp" / "asr_x"
    folder.mkdir(parents=True)
    conf = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1, "T": 4}
    untrained_experiment(folder, "iml_spikeformer", conf)
    FeatureExtractor(FS, FbankConfig()).write(folder)
    (folder / "inference.yaml").write_text("beam_size: 2\nctc_weight: 1.0\n")
    return folder


def test_it_transcribes_what_the_command_does(exp, tmp_path, capsys):
    wave = some_wave()
    soundfile.write(tmp_path / "a.wav", wave, FS)
    transcribe.main(["--asr_exp", str(exp), str(tmp_path / "a.wav")])
    _, text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert text
    model = speech_model.load_model(exp)
    assert isinstance(model, espnet_spike.SpeechModel) and not model.model.training
    for found in (
        model.transcribe(tmp_path / "a.wav"),
        model.transcribe(str(tmp_path / "a.wav")),
        model.transcribe(wave, FS),
        model.transcribe(wave / 32768, FS),
        model.transcribe(torch.from_numpy(wave / 32768).float(), FS),
        model.transcribe(np.stack([wave, wave], axis=1), FS),
    ):
        assert found.text == text
    assert model.transcribe(wave, FS, times=True).words
    assert model.transcribe(wave, FS, search="greedy").text
    assert model.transcribe(np.repeat(wave, 2), 2 * FS).seconds == pytest.approx(1.5)


def test_it_is_the_loaded_model_that_transcribes(exp):
    model = espnet_spike.load_model(exp)
    assert model.recognizer().model is model.model
    before = model.transcribe(some_wave(), FS, search="greedy").text
    with torch.no_grad():
        model.model.ctc.ctc_lo.bias[model.model.blank_id] += 1e4
    after = model.transcribe(some_wave(), FS, search="greedy").text
    assert before and not after


def test_options_of_the_encoder_are_kept(exp):
    model = espnet_spike.load_model(exp, spike_options=SpikeOptions(T=2, T_rule="rescale"))
    neurons = [m for m in model.model.encoder.modules() if isinstance(m, espnet_spike.IMLS)]
    before = [(neuron.levels, neuron.thresholds()) for neuron in neurons]
    assert {T for T, _ in before} == {2}
    assert model.recognizer().model is model.model
    for neuron, (T, thresholds) in zip(neurons, before, strict=True):
        assert neuron.levels == T and torch.equal(neuron.thresholds(), thresholds)  # not set twice
    named = espnet_spike.load_model(exp, inference_args="--T 3")
    assert {m.levels for m in named.model.modules() if isinstance(m, espnet_spike.IMLS)} == {3}


@pytest.mark.parametrize(
    ("audio", "fs", "match"),
    [
        (np.zeros(100, np.float32), None, "the rate of an array is not known"),
        (Path("a.wav"), 8000, "a file has its own rate"),
        (np.zeros((1, 8000), np.float32), FS, r"the shape \(1, 8000\)"),
        (np.zeros((2, 3, 4)), FS, "which is that of no audio"),
        (np.zeros(100, np.int64), FS, "of int64, which has no known range"),
        (np.zeros(0), FS, "holds no samples"),
        (np.full(10, np.nan), FS, "not finite"),
        (np.full(10, 3000.0), FS, "-1 to 1 is the range"),
        (np.zeros(100), 0, "a rate of 0 Hz"),
        (Path("none.wav"), None, "does not exist"),
    ],
)
def test_what_is_no_audio_is_refused(exp, audio, fs, match):
    with pytest.raises(UserError, match=match):
        espnet_spike.load_model(exp).transcribe(audio, fs)


def test_a_search_that_is_not_known_is_asked_for(exp, tmp_path):
    model = espnet_spike.load_model(exp)
    with pytest.raises(UserError, match="search 'beem'"):
        model.transcribe(some_wave(), FS, search="beem")
