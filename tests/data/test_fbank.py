import dataclasses

import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data import fbank
from espnet_spike.data.fbank import Fbank, FbankConfig, load_config, mel_banks
from espnet_spike.errors import UserError
from espnet_spike.ranges import WINDOWS
from tests.helpers.corpora import corpus_dir
from tests.helpers.data_dirs import tone


def reference(wave, rate, config, dtype=torch.float64):
    """Kaldi's definition as torchaudio implements it."""
    keys = dataclasses.asdict(config)
    del keys["compression_method"], keys["mel_floor"]
    wave = torch.from_numpy(np.asarray(wave, dtype=np.float64)).to(dtype)[None]
    return torchaudio.compliance.kaldi.fbank(wave, sample_frequency=rate, **keys).numpy()


def noise(samples, seed=0, level=1000.0):
    return (np.random.default_rng(seed).standard_normal(samples) * level).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("window_type", WINDOWS)
@pytest.mark.parametrize("snip_edges", [True, False])
def test_equals_torchaudio(rate, window_type, snip_edges):
    config = FbankConfig(window_type=window_type, snip_edges=snip_edges, num_mel_bins=40)
    wave = noise(rate)
    got = Fbank(config, rate)(wave)
    np.testing.assert_allclose(got, reference(wave, rate, config), atol=2e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"remove_dc_offset": False},
        {"preemphasis_coefficient": 0.0},
        {"preemphasis_coefficient": 1.0},
        {"remove_dc_offset": False, "window_type": "rectangular"},
        {"low_freq": 100.0, "high_freq": 3500.0},
        {"high_freq": -400.0},
        {"frame_length": 20.0, "frame_shift": 7.5},
        {"frame_length": 10.0, "frame_shift": 12.5, "snip_edges": False},
        {"num_mel_bins": 5},
    ],
)
def test_every_setting_equals_torchaudio(changes):
    config = FbankConfig(**({"num_mel_bins": 30} | changes))
    wave = noise(9000) + np.float32(50)
    got = Fbank(config, 16000)(wave)
    np.testing.assert_allclose(got, reference(wave, 16000, config), atol=3e-4)


def test_real_speech_is_as_near_to_double_precision_as_torchaudio_in_single():
    import soundfile

    files = sorted(corpus_dir("LibriSpeech").glob("test-clean/*/*/*.flac"))
    config = FbankConfig()
    for file in files:
        wave, rate = soundfile.read(file, dtype="int16")
        wave = wave.astype(np.float32)
        exact = reference(wave, rate, config)
        ours = np.abs(Fbank(config, rate)(wave) - exact)
        theirs = np.abs(reference(wave, rate, config, torch.float32) - exact)
        assert ours.max() < max(2 * theirs.max(), 1e-3)
        assert ours.mean() < max(2 * theirs.mean(), 1e-5)


def test_the_floor_is_met_by_digital_silence_and_what_is_near_it():
    wave = noise(3000)
    wave[1000:2000] = 0
    usual, raised = (Fbank(FbankConfig(mel_floor=floor), 16000)(wave) for floor in (2.0**-23, 1e6))
    assert usual.min() == np.log(np.float32(2.0**-23))
    np.testing.assert_array_equal(raised, np.maximum(usual, np.log(np.float32(1e6))))
    with pytest.raises(UserError, match="mel_floor"):
        FbankConfig(mel_floor=0.0)


def test_blocks_do_not_show(monkeypatch):
    wave = noise(60000)
    extract = Fbank(FbankConfig(), 16000)
    whole = extract(wave)
    monkeypatch.setattr(fbank, "BLOCK", 7)
    np.testing.assert_allclose(extract(wave), whole, atol=1e-5)


@given(st.integers(0, 3000), st.booleans(), st.sampled_from([8000, 16000]))
@settings(max_examples=60, deadline=None)
def test_the_number_of_frames_is_known_beforehand(samples, snip_edges, rate):
    config = FbankConfig(snip_edges=snip_edges)
    extract = Fbank(config, rate)
    wave = noise(samples)
    got = extract(wave)
    assert got.shape == (extract.num_frames(samples), 80)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    if samples >= extract.length:
        assert len(got) == len(reference(wave, rate, config))
    else:
        assert len(got) == 0


@given(st.integers(1, 40))
@settings(max_examples=10, deadline=None)
def test_a_shift_by_whole_hops_shifts_the_frames(hops):
    wave = noise(16000)
    extract = Fbank(FbankConfig(), 16000)
    np.testing.assert_allclose(extract(wave[hops * 160 :]), extract(wave)[hops:], atol=1e-4)


def test_twice_the_amplitude_adds_the_logarithm_of_four():
    wave = noise(16000)
    extract = Fbank(FbankConfig(), 16000)
    np.testing.assert_allclose(extract(2 * wave), extract(wave) + np.log(4), atol=1e-5)


def test_digital_silence_is_the_logarithm_of_epsilon():
    got = Fbank(FbankConfig(), 16000)(np.zeros(1600, np.float32))
    np.testing.assert_allclose(got, np.log(np.finfo(np.float32).eps))


def test_a_sample_that_is_not_finite_shows_in_its_frames():
    wave = noise(16000)
    wave[8000] = np.nan
    got = Fbank(FbankConfig(), 16000)(wave)
    assert set(np.flatnonzero(np.isnan(got).any(axis=1))) >= {48, 49}
    assert np.isfinite(got[:47]).all() and np.isfinite(got[51:]).all()


@pytest.mark.parametrize("bins", [5, 23, 40, 80, 128])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_the_filters_are_those_of_torchaudio(bins, rate):
    length = 1 << (rate // 40 - 1).bit_length()
    expected, _ = torchaudio.compliance.kaldi.get_mel_banks(
        bins, length, float(rate), 20.0, 0.0, 100.0, -500.0, 1.0
    )
    got = mel_banks(bins, length, rate, 20.0, rate / 2)
    # torchaudio computes the mel scale in single precision
    np.testing.assert_allclose(got[:-1].T, expected.numpy(), atol=2e-3)
    assert not got[-1].any()


@pytest.mark.parametrize("bins", [5, 40, 80, 127])
@pytest.mark.parametrize("width", [1, 7, 20, 200])
def test_the_bands_are_the_filters_without_their_zeros(bins, width):
    banks = mel_banks(bins, 512, 16000, 20.0, 8000.0)
    again = np.zeros_like(banks)
    for filters, part, bank in fbank.split_bands(banks, width):
        again[part, filters] = bank
    np.testing.assert_array_equal(again, banks)


def test_filters_without_any_frequency_are_counted():
    assert Fbank(FbankConfig(), 16000).empty_bins == 0
    assert Fbank(FbankConfig(), 8000).empty_bins == 0
    crowded = Fbank(FbankConfig(num_mel_bins=200), 8000)
    assert crowded.empty_bins > 0
    assert np.isfinite(crowded(noise(8000))).all()


def test_dither_depends_on_the_utterance_and_on_nothing_else():
    wave = tone(0.5).astype(np.float32)
    extract = Fbank(FbankConfig(dither=1.0), 16000)
    first = extract(wave, "a")
    extract(wave, "b")
    np.testing.assert_array_equal(extract(wave, "a"), first)
    assert not np.array_equal(extract(wave, "b"), first)
    clean = Fbank(FbankConfig(), 16000)(wave)
    assert 0 < np.abs(first - clean).mean() < 0.5


def test_the_shipped_config_is_the_default(root):
    assert load_config(root / "conf" / "fbank.yaml") == FbankConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_mel_bin: 80", "unknown key 'num_mel_bin' (did you mean 'num_mel_bins'?)"),
        ("num_mel_bins: eighty", "num_mel_bins: 'eighty' is out of range"),
        ("num_mel_bins: 80.0", "num_mel_bins: 80.0 is out of range"),
        ("num_mel_bins: true", "num_mel_bins: True is out of range"),
        ("snip_edges: 1", "snip_edges: 1 is out of range"),
        ("low_freq: 2e1", "low_freq: '2e1' is out of range"),
        ("window_type: povy", "window_type: 'povy' is out of range"),
        ("frame_shift: 0", "frame_shift: 0 is out of range"),
        ("frame_length: .nan", "frame_length: nan is out of range"),
        ("dither: -1", "dither: -1 is out of range"),
        ("compression_method: 0", "compression_method: 0 is out of range"),
        ("- a list", "holds no key: value pairs"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed"),
    ],
)
def test_a_wrong_config_names_file_and_key(tmp_path, content, message):
    path = tmp_path / "fbank.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message


def test_an_empty_config_is_the_default_and_a_missing_one_an_error(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml") == FbankConfig()
    with pytest.raises(UserError, match=r"no such configuration file: .*none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_frequencies_that_the_rate_cannot_hold_are_an_error():
    with pytest.raises(UserError, match=r"does not fit audio of 8000 Hz"):
        Fbank(FbankConfig(high_freq=7600.0), 8000)
