"""Features told apart by their statistics, on speech under each convention."""

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from espnet_spike.advice.spectrum import CONVENTIONS, LOG_MEL, Guess, recognise, spectrum_options
from espnet_spike.errors import UserError
from espnet_spike.nn.augmentation import Spectrum

KALDI, SPHINX, TORCHAUDIO = list(CONVENTIONS)[1:]


@pytest.fixture(scope="module")
def speech(root):
    """Samples ``(1, N)`` of spoken digits, 8 kHz, at the level of 16-bit integers."""
    samples, rate = soundfile.read(root / "egs/fsdd/pretrained/example.flac", dtype="int16")
    assert rate == 8000
    return torch.from_numpy(samples).float()[None]


def fbank(speech, bins):
    return kaldi.fbank(speech, num_mel_bins=bins, sample_frequency=8000.0).numpy()


def mfcc(speech, **options):
    return kaldi.mfcc(speech, sample_frequency=8000.0, **options).numpy()


def sphinx(speech, dims=13, bins=40):
    angle = np.pi * np.arange(dims) * (np.arange(bins)[:, None] + 0.5) / bins
    return fbank(speech, bins) @ np.cos(angle) / bins


def with_deltas(matrix):
    first = compute_deltas(torch.from_numpy(matrix).T)
    return torch.cat([torch.from_numpy(matrix).T, first, compute_deltas(first)]).T.numpy()


def with_noise(matrix, dims):
    extra = np.random.default_rng(0).normal(size=(len(matrix), dims))
    return np.concatenate([matrix, extra], axis=1)


@pytest.mark.parametrize(
    ("made", "convention"),
    [
        (lambda x: fbank(x, 80), LOG_MEL),
        (lambda x: fbank(x, 40), LOG_MEL),
        (lambda x: fbank(x, 23), LOG_MEL),
        (mfcc, KALDI),
        (lambda x: mfcc(x, num_ceps=40, num_mel_bins=40), KALDI),
        (lambda x: mfcc(x, cepstral_lifter=0.0), TORCHAUDIO),
        (sphinx, SPHINX),
        (lambda x: with_deltas(mfcc(x)), None),
        (lambda x: with_deltas(fbank(x, 80)), None),
        (lambda x: with_noise(fbank(x, 80), 3), None),  # with pitch
        (lambda x: mfcc(x) / mfcc(x).std(0), None),
        (lambda x: fbank(x, 80)[:, :3], None),
        (lambda x: fbank(x, 80) * 0.0, None),
        (lambda x: with_noise(fbank(x, 40), 40), None),
        (lambda x: 3 * with_noise(fbank(x, 40)[:, :0], 13), None),
        (lambda x: 0.1 * with_noise(fbank(x, 40)[:, :0], 40), None),
    ],
)
def test_conventions_are_told_apart(speech, made, convention):
    found = recognise([made(speech)])
    assert found.convention == convention and found.grounds


def walk(dims, scale=1.0, seed=0):
    """Return uncorrelated features that are slow in time, each about its mean."""
    noise = np.random.default_rng(seed).normal(size=(40_000, dims))
    for t in range(1, len(noise)):
        noise[t] += 0.95 * noise[t - 1]
    return scale * noise


@pytest.mark.parametrize("scale", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("dims", [13, 40])
def test_what_is_uncorrelated_and_slow_is_not_taken_for_cepstra(dims, scale):
    """Bottleneck features; with first dims that are larger and slower, those of fMLLR."""
    features = walk(dims, scale)
    found = recognise([features])
    assert found.convention is None and "high cepstra change faster" in found.grounds
    fast = np.random.default_rng(1).normal(size=features.shape)
    mixed = features + 4 * scale * fast * np.arange(dims) / dims
    learnt = recognise([mixed / mixed.std(0) * np.linspace(3, 1, dims)])
    assert learnt.convention is None and learnt.grounds.endswith(
        ("too small for cepstra", "the first is not the level")
    )


def test_dims_that_all_say_the_same_are_no_log_mel(speech):
    shared = fbank(speech, 40)[:, :1] + 0.3 * np.random.default_rng(0).normal(size=(1, 40))
    noise = np.random.default_rng(0).normal(size=(len(shared), 40))
    assert recognise([shared + noise]).convention is None


def test_what_is_said_of_features_holds(speech):
    for matrix, convention in ((mfcc(speech), KALDI), (sphinx(speech, 12), SPHINX)):
        assert recognise([matrix], "cepstra").convention == convention
        assert recognise([matrix], "mel") == Guess(LOG_MEL, "said by --features")
        assert recognise([matrix], "other").convention is None
    assert recognise([sphinx(speech, 12)]).convention is None  # which coefficient is the first?
    with pytest.raises(UserError, match="cepstra: 5 dims are too few"):
        recognise([mfcc(speech)[:, :5]], "cepstra")


@pytest.mark.parametrize("dims", [12, 13, 20, 40, 80])
def test_what_is_recognised_can_be_augmented(dims):
    for convention in CONVENTIONS:
        if dims == 80 and convention != LOG_MEL:
            continue
        assert Spectrum(**spectrum_options(convention, dims, None)).bins(dims) >= dims
    assert spectrum_options(LOG_MEL, dims, 8000) == {"kind": "log_mel", "fs": 8000}
