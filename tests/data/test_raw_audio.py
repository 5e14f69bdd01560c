"""Audio in place of features."""

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_spike.bin import fbank, format_audio
from espnet_spike.data.ark import ArkReader, FeatureTable
from espnet_spike.data.audio import change_rate
from espnet_spike.data.dropping import DROPPED
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import FeatureExtractor, check_same_features
from espnet_spike.data.filtering import Limits, filter_dir
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.data.noises import RecordedNoise
from espnet_spike.data.raw_audio import MIN_SECONDS
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import make_data_dir, tone


def written(folder, *options):
    """Format a data directory; return the tables and the samples, int16."""
    format_audio.main([str(folder / "d"), str(folder / "raw"), *options])
    made = FeatureDir.read(folder / "raw")
    with ArkReader() as reader:
        return made, {utt: reader.read(utt, entry) * 32768 for utt, entry in made.feats.items()}


@pytest.mark.parametrize("nj", ["1", "2"])
def test_sixteen_bits_of_the_same_rate_stay_as_they_are(tmp_path, nj):
    make_data_dir(tmp_path / "d", {"a": 0.5, "b": 1.003, "c": 0.2})
    made, found = written(tmp_path, "--nj", nj)
    for number, (utt, seconds) in enumerate({"a": 0.5, "b": 1.003, "c": 0.2}.items()):
        assert np.array_equal(found[utt], tone(seconds, 16000, number))
        rate, samples = kaldiio.load_mat(made.feats[utt])  # Kaldi's own form
        assert rate == 16000
        assert np.array_equal(samples, found[utt])
        assert made.durations[utt] == pytest.approx(seconds, abs=1e-4)
    assert made.shapes == {"a": (50, 160), "b": (101, 160), "c": (20, 160)}  # of 10 ms
    assert made.text["a"] == "WORD A"
    assert FeatureExtractor.find(tmp_path / "raw") == FeatureExtractor(16000, None)


def test_audio_is_resampled_at_its_speed_and_channels_are_averaged(tmp_path):
    wave = np.stack([tone(1.0, 8000), tone(1.0, 8000, 1)], axis=1)
    soundfile.write(tmp_path / "two.flac", wave, 8000)
    data = DataDir(
        {"rec": str(tmp_path / "two.flac")},
        segments={"u": Segment("rec", 0.25, 0.75)},
        text={"u": "W"},
        utt2spk={"u": "s"},
        utt2speed={"u": 1.1},
    )
    data.write(tmp_path / "d")
    made, found = written(tmp_path, "--fs", "16000")
    expected = change_rate(wave[2000:6000].mean(axis=1), 8000, 16000, 1.1)
    assert np.abs(found["u"] - expected).max() <= 0.5
    assert made.durations["u"] == pytest.approx(0.5 / 1.1, abs=1e-3)


def test_what_is_louder_than_sixteen_bits_is_clipped_and_nan_is_named(tmp_path):
    data = make_data_dir(tmp_path / "d", {"a": 0.5})
    soundfile.write(data.wav["a"], np.full(8000, 2.0, np.float32), 16000, subtype="FLOAT")
    assert (written(tmp_path)[1]["a"] == 32767).all()
    soundfile.write(data.wav["a"], np.full(8000, np.nan, np.float32), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a: .*not finite"):
        format_audio.main([str(tmp_path / "d"), str(tmp_path / "raw")])
    assert not (tmp_path / "raw" / "feats.scp").exists()


def test_a_test_set_loses_nothing_unseen(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 0.5, "short": MIN_SECONDS / 2})
    made, _ = written(tmp_path)
    assert list(made.feats) == ["a"]
    assert "shorter than 20 ms" in (tmp_path / "raw" / DROPPED).read_text()
    with pytest.raises(UserError, match="a set that is scored would lose 1 utterance"):
        written(tmp_path, "--test_dir", str(tmp_path / "d"))


def test_limits_in_frames_are_of_ten_milliseconds(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 0.5, "b": 1.0, "c": 0.2})
    written(tmp_path)
    dropped = filter_dir(tmp_path / "raw", tmp_path / "kept", Limits(30, 99))
    assert dropped == {"b": "too long: 100 frames", "c": "too short: 20 frames"}
    assert FeatureExtractor.read(tmp_path / "kept") == FeatureExtractor(16000, None)


def test_audio_and_features_are_not_taken_for_each_other(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 0.5})
    written(tmp_path)
    (tmp_path / "f.yaml").write_text("num_mel_bins: 20\n")
    fbank.main([f"{tmp_path}/d", f"{tmp_path}/fbank", "--fbank_config", f"{tmp_path}/f.yaml"])
    raw, features = tmp_path / "raw", tmp_path / "fbank"
    with pytest.raises(UserError, match=r"fbank holds log-mel features, and .*raw is of raw audio"):
        check_same_features(raw, [features])
    with pytest.raises(UserError, match=r"raw holds raw audio, and .*fbank is of log-mel"):
        check_same_features(features, [raw])
    with pytest.raises(UserError, match="holds audio, no matrix"):
        RecordedNoise(raw)[0]
    for given in ({"fbank_config": tmp_path / "f.yaml"}, {"fs": 8000}):
        with pytest.raises(UserError, match="leave"):
            FeatureExtractor.find(raw, **given)
    with pytest.raises(UserError, match="sherpa: the model was trained on raw audio"):
        FeatureExtractor.find(raw).features("sherpa")


def test_damage_names_the_utterance(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 0.5})
    made, _ = written(tmp_path)
    ark = tmp_path / "raw/data/feats.1.ark"
    whole = ark.read_bytes()
    assert len(FeatureTable(tmp_path / "raw/feats.scp")["a"]) == 8000
    damaged = {
        "fit into": whole[:-7],
        "one channel of 16 bits": whole.replace(b"\x01\x00\x01\x00", b"\x01\x00\x02\x00", 1),
        "truncated or damaged": whole.replace(b"fmt ", b"fmx ", 1),
    }
    for said, content in damaged.items():
        ark.write_bytes(content)
        with ArkReader() as reader, pytest.raises(UserError, match=rf"^a: .*{said}"):
            reader.read("a", made.feats["a"])
    ark.write_bytes(whole)
    with ArkReader() as reader, pytest.raises(UserError, match="a range of audio"):
        reader.read("a", made.feats["a"] + "[0:1]")
