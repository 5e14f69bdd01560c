"""Statistics through ESPnet, and what is wrong with the data they are of."""

import numpy as np
import pytest

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.errors import UserError
from espnet_spike.training.asr import Features
from espnet_spike.training.statistics import check_features
from espnet_spike.utils.files import read_table
from tests.helpers.features import write_features
from tests.helpers.tiny_training import DEV, TRAIN, poison, stats, train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_statistics(data):
    shapes = read_table(data / "stats" / "train" / "text_shape.char")
    assert shapes == {utt: f"{len(text)},7" for utt, text in TRAIN.items()}
    found = np.load(data / "stats" / "train" / "feats_stats.npz")
    with ArkReader() as reader:
        entries = read_table(data / "train" / "feats.scp").items()
        feats = np.concatenate([reader.read(*entry) for entry in entries])
    np.testing.assert_allclose(found["sum"], feats.sum(0), rtol=1e-3, atol=1e-2)
    assert found["count"] == len(feats)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_frame_is_named_by_the_statistics(work, value):
    poison(work / "train", "u3", value)
    with pytest.raises(UserError, match=r"u3.*not finite"):
        stats(work)


def drop_line(path):
    path.write_text(path.read_text().split("\n", 1)[1])


def turn_round(path):
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: drop_line(d / "text"), "feats.scp and text do not name the same .*: u1"),
        (lambda d: drop_line(d / "feats.scp"), "do not name the same utterances: u1"),
        (lambda d: turn_round(d / "text"), "text are not in the same order"),
        (lambda d: (d / "text").write_text("u1 ab\nu2\n"), "text: nothing behind u2"),
    ],
)
def test_files_that_do_not_match_are_named_by_the_statistics(work, harm, message):
    harm(work / "train")
    with pytest.raises(UserError, match=message):
        stats(work)


def test_features_of_two_dimensions_are_refused(work):
    write_features(work / "narrow", DEV, size=40)
    (work / "dev").rename(work / "wide")
    (work / "narrow").rename(work / "dev")
    with pytest.raises(UserError, match="80 dimensions in work/train and 40 in work/dev"):
        stats(work)


def test_features_of_two_definitions_are_refused(work):
    FeatureExtractor(16000, FbankConfig()).write(work / "train")
    FeatureExtractor(8000, FbankConfig()).write(work / "dev")
    with pytest.raises(UserError, match=r"work/dev are of another .*work/train: fs is 8000, not"):
        stats(work)
    FeatureExtractor(16000, FbankConfig()).write(work / "dev")
    stats(work)
    assert FeatureExtractor.read(work / "stats") == FeatureExtractor(16000, FbankConfig())
    FeatureExtractor(8000, FbankConfig()).write(work / "train")
    with pytest.raises(UserError, match=r"work/dev are of another .*work/train: fs is 16000, not"):
        train(work)
    FeatureExtractor(8000, FbankConfig()).write(work / "dev")
    with pytest.raises(UserError, match=r"train are of another .*work/stats: fs is 8000, not"):
        train(work)


def test_a_run_that_fails_leaves_no_statistics(work):
    ark = work / "train" / "data" / "feats.1.ark"
    ark.write_bytes(ark.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"u5: .*truncated or damaged ark"):
        stats(work)
    for part in ("train", "valid"):
        assert not (work / "stats" / part / "feats_stats.npz").exists()


def test_both_sets_have_features_of_one_size(tmp_path):
    sizes = {"train": 80, "valid": 40}
    for name, size in sizes.items():
        folder = tmp_path / name
        folder.mkdir()
        for table, value in (("feats.scp", "x.ark:3"), ("feats_shape", f"9,{size}"), ("text", "a")):
            (folder / table).write_text(f"u1 {value}\n")
    features = Features(tmp_path / "train", tmp_path / "valid", tmp_path / "stats", 1)
    with pytest.raises(UserError, match=r"80 dimensions in .*train and 40 in .*valid"):
        check_features(features)
    (tmp_path / "valid/feats_shape").write_text("u1 7,80\n")
    assert check_features(features) == 80
