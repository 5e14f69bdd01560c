import shutil

import numpy as np
import pytest

from espnet_spike.errors import UserError
from espnet_spike.training.check import (
    check_complete,
    check_data_dir,
    check_finite,
    check_keys,
    check_machine,
    damage,
    feature_size,
)
from tests.helpers.features import write_features
from tests.helpers.tiny_training import poison


@pytest.fixture
def folder(tmp_path):
    return write_features(tmp_path / "train", {"u1": "ab", "u2": "c"})


def test_a_good_folder_passes(folder):
    check_data_dir(folder)
    check_keys(folder)
    assert damage(folder) is None
    assert feature_size(folder / "feats_shape") == 80


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing: .*run the stats stage"),
        ("", "is empty"),
        ("u1 20,80\nu2 9,40\n", "differs: u1 has 80, u2 has 40"),
        ("u1 twenty,80\n", "u1 has shape 'twenty,80', not 'frames,dim'"),
    ],
)
def test_a_shape_file_without_one_dimension_is_refused(tmp_path, content, message):
    path = tmp_path / "speech_shape"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"(?s){message}"):
        feature_size(path)


def test_statistics_are_of_every_utterance_and_finite(folder, tmp_path):
    stats = tmp_path / "stats"
    stats.mkdir()
    shutil.copy(folder / "feats_shape", stats / "speech_shape")
    check_complete(stats, folder)
    (stats / "speech_shape").write_text("u1 24,80\n")
    with pytest.raises(UserError, match="1 of 2 utterances have statistics, missing: u2"):
        check_complete(stats, folder)
    with pytest.raises(UserError, match=r"missing: .*feats_stats\.npz"):
        check_finite(stats, folder)
    good, bad = np.ones(80), np.full(80, np.nan)
    np.savez(stats / "feats_stats.npz", count=5, sum=good, sum_square=good)
    check_finite(stats, folder)
    np.savez(stats / "feats_stats.npz", count=5, sum=good, sum_square=bad)
    with pytest.raises(UserError, match="not finite, but the features now are"):
        check_finite(stats, folder)
    poison(folder, "u2")
    with pytest.raises(UserError, match=r"u2.*not finite"):
        check_finite(stats, folder)
    for damaged in (b"", b"PK", (stats / "feats_stats.npz").read_bytes()[:-40]):
        (stats / "feats_stats.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"feats_stats\.npz is damaged"):
            check_finite(stats, folder)


def test_a_machine_that_does_not_suffice_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    folder = tmp_path / "not" / "yet" / "there"
    check_machine(folder, 0, parameters=1000, keep_nbest=3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_machine(folder, 1, parameters=1000, keep_nbest=3)
    with pytest.raises(UserError, match="--ngpu 2, but 1 GPU seen"):
        check_machine(folder, 2, parameters=1000, keep_nbest=3)
    usage = shutil.disk_usage(tmp_path)
    free = 4 * 10**9 * (2 * 3 + 3 + 2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=free))
    check_machine(folder, 0, parameters=10**9, keep_nbest=3)
    with pytest.raises(UserError, match=r"44\.00 GB free, training needs about 48\.00 GB"):
        check_machine(folder, 0, parameters=10**9, keep_nbest=4)
    assert not folder.parent.exists()


@pytest.mark.parametrize("change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text + b"\n"])
@pytest.mark.parametrize("name", ["feats.scp", "feats_shape", "text"])
def test_what_espnet_stops_at_is_named_before(folder, name, change):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(UserError, match=rf"{name} has blank lines, or a byte order mark"):
        check_keys(folder)
