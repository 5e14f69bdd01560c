import logging
from dataclasses import replace

import numpy as np
import pytest
import yaml

from espnet_spike.data.fbank import FbankConfig, extractor
from espnet_spike.data.feature_extractor import (
    FEATURES,
    FeatureExtractor,
    check_same_features,
    hand_on,
)
from espnet_spike.errors import UserError

EIGHT = FeatureExtractor(8000, FbankConfig(num_mel_bins=20))


def test_what_was_written_is_found_and_what_is_given_must_not_differ(tmp_path):
    EIGHT.write(tmp_path)
    assert FeatureExtractor.find(tmp_path) == EIGHT
    assert FeatureExtractor.find(tmp_path, fs=8000) == EIGHT
    for fs in (16000, 0):  # the words would be wrong, and nothing would say so
        with pytest.raises(UserError, match=rf"--fs {fs}: the model of .* audio of 8000 Hz"):
            FeatureExtractor.find(tmp_path, fs=fs)
    given = tmp_path / "given.yaml"
    given.write_text("num_mel_bins: 20\ncompression_method: 3\n")  # how they are stored only
    assert FeatureExtractor.find(tmp_path, given) == EIGHT
    given.write_text("num_mel_bins: 30\ndither: 0.5\n")
    keys = r"fbank\.num_mel_bins is 30, not 20, fbank\.dither is 0\.5, not 0\.0"
    with pytest.raises(UserError, match=rf"given\.yaml .*features\.yaml\): {keys}\n"):
        FeatureExtractor.find(tmp_path, given)


def test_beside_an_old_model_the_definition_alone_may_lie(tmp_path):
    (tmp_path / "fbank.yaml").write_text("num_mel_bins: 20\n")
    assert FeatureExtractor.find(tmp_path, fs=8000) == EIGHT
    with pytest.raises(UserError, match="the sampling rate is not known"):
        FeatureExtractor.find(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "fs: 0\nraw: true\n",
        "fs: 1000000000000\nraw: true\n",
        "fs: 8000\n",
        "fs: 1\nfbank: []\n",
        "fs: 1\nfbank: {num_mel_bins: 30}\n",
        "fs: x\nfbank: {}\n",
        "fs: 1\nfbank: {bins: 3}\n",
        "[",
        "",
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_an_error(tmp_path, content):
    with pytest.raises(UserError, match=rf"no {FEATURES}"):
        FeatureExtractor.find(tmp_path)
    (tmp_path / FEATURES).write_text(content)
    with pytest.raises(UserError, match=rf"{FEATURES} cannot be used"):
        FeatureExtractor.find(tmp_path)


def test_features_are_those_of_the_stage():
    wave = np.random.default_rng(0).integers(-999, 999, 4000).astype(np.float32)
    found = EIGHT(wave, "u")
    assert np.array_equal(found, extractor(EIGHT.fbank, 8000)(wave, "u"))
    # windows of 25 ms every 10 ms: 1 + (4000 - 200) // 80
    assert found.shape == (48, 20) and EIGHT.frames(4000) == 48 and EIGHT.frames(199) == 0


def test_settings_are_handed_on_and_stale_ones_removed(tmp_path):
    a, b = tmp_path / "a", tmp_path / "new/b"
    a.mkdir()
    EIGHT.write(a)
    hand_on(a, b)
    assert FeatureExtractor.find(b) == EIGHT
    assert yaml.safe_load((b / FEATURES).read_text())["fs"] == 8000
    hand_on(a, a)
    assert (a / FEATURES).is_file()
    (a / FEATURES).unlink()
    hand_on(a, b)
    assert not (b / FEATURES).exists()


def test_features_of_another_definition_are_named_by_the_key(tmp_path):
    folders = {}
    fbank = EIGHT.fbank
    for name, extractor_ in {
        "model": EIGHT,
        "same": replace(EIGHT, fbank=replace(fbank, compression_method=2)),
        "rate": replace(EIGHT, fs=16000),
        "bins": replace(EIGHT, fbank=replace(fbank, num_mel_bins=40, low_freq=0.0)),
    }.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        extractor_.write(folders[name])
    check_same_features(folders["model"], [folders["same"], folders["model"]])
    with pytest.raises(UserError, match=r"rate are of another .*/model: fs is 16000, not 8000"):
        check_same_features(folders["model"], [folders["same"], folders["rate"]])
    with pytest.raises(UserError, match=r"fbank.num_mel_bins is 40, not 20, fbank.low_freq is"):
        check_same_features(folders["model"], [folders["bins"]])


def test_features_without_a_definition_are_warned_of(tmp_path, caplog):
    for name in ("with", "without", "also"):
        (tmp_path / name).mkdir()
    EIGHT.write(tmp_path / "with")
    with caplog.at_level(logging.WARNING):  # what stage 3 has not made is refused, by who reads it
        check_same_features(tmp_path / "with", [tmp_path / "without"])
        assert not caplog.records
    for name in ("with", "without", "also"):
        (tmp_path / name / "feats.scp").touch()
    with caplog.at_level(logging.WARNING):
        check_same_features(tmp_path / "without", [tmp_path / "also"])
        assert not caplog.records
        check_same_features(tmp_path / "with", [tmp_path / "without", tmp_path / "without"])
        check_same_features(tmp_path / "without", [tmp_path / "with"])
    assert [f"{tmp_path}/without has no {FEATURES}" in m for m in caplog.messages] == [True] * 2


def test_a_folder_in_its_place_is_not_taken_for_none(tmp_path):
    (tmp_path / FEATURES).mkdir()
    with pytest.raises(UserError, match=rf"{FEATURES} is a folder"):
        FeatureExtractor.read(tmp_path)
