import numpy as np
import pytest
import yaml

from espnet_spike.data.fbank import FbankConfig, extractor
from espnet_spike.data.feature_extractor import FEATURES, FeatureExtractor, hand_on
from espnet_spike.errors import UserError

EIGHT = FeatureExtractor(8000, FbankConfig(num_mel_bins=20))


def test_what_was_written_is_found_and_what_is_given_comes_first(tmp_path):
    EIGHT.write(tmp_path)
    assert FeatureExtractor.find(tmp_path) == EIGHT
    assert FeatureExtractor.find(tmp_path, fs=16000) == FeatureExtractor(16000, EIGHT.fbank)
    given = tmp_path / "given.yaml"
    given.write_text("num_mel_bins: 30\n")
    assert FeatureExtractor.find(tmp_path, given).fbank.num_mel_bins == 30
    assert FeatureExtractor.find(tmp_path, given).fs == 8000


def test_beside_an_old_model_the_definition_alone_may_lie(tmp_path):
    (tmp_path / "fbank.yaml").write_text("num_mel_bins: 20\n")
    assert FeatureExtractor.find(tmp_path, fs=8000) == EIGHT
    with pytest.raises(UserError, match="the sampling rate is not known"):
        FeatureExtractor.find(tmp_path)


@pytest.mark.parametrize(
    "content", ["fs: 8000\n", "fs: x\nfbank: {}\n", "fs: 1\nfbank: {bins: 3}\n", "[", ""]
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
