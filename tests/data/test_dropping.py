"""A set that is scored loses no utterance unseen, wherever it is lost."""

import pytest

from espnet_spike.bin import copy_feats, fbank, prepare_data_dir
from espnet_spike.data.dropping import ScoredSets, read_dropped
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.results.formatting import scored_of
from tests.helpers.data_dirs import make_data_dir


@pytest.fixture
def data_dir(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 1.0, "b": 0.5, "c": 0.2})
    return tmp_path / "d"


def remove(path, utt):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.split()[0] != utt))


def prepare(path, *options):
    prepare_data_dir.main([str(path), "--test_dir", str(path), *options])


@pytest.mark.parametrize("table", ["text", "wav.scp", "utt2spk"])
def test_an_utterance_that_a_table_lacks_is_an_error_unless_allowed(data_dir, table):
    remove(data_dir / table, "b")
    before = {file: file.read_bytes() for file in data_dir.iterdir()}
    with pytest.raises(UserError, match=r"would lose 1 utterance, 0 allowed; n.*: b") as error:
        prepare(data_dir)
    assert "--allow_dropped 1" in error.value.hint
    assert {file: file.read_bytes() for file in data_dir.iterdir()} == before
    prepare(data_dir, "--allow_dropped", "1")
    assert set(DataDir.read(data_dir).text) == {"a", "c"}
    assert set(read_dropped(data_dir)) == {"b"}
    with pytest.raises(UserError, match="would lose 1 utterance"):
        prepare(data_dir)  # what was allowed once is not for ever
    remove(data_dir / table, "c")
    with pytest.raises(UserError, match="would lose 2 utterances, 1 allowed"):
        prepare(data_dir, "--allow_dropped", "1")


def test_an_utterance_without_features_counts_where_there_are_some(data_dir):
    (data_dir / "feats.scp").write_text("a x.ark:2\nc x.ark:9\n")
    with pytest.raises(UserError, match=r"not in feats.scp: b"):
        prepare(data_dir)
    prepare_data_dir.main([str(data_dir)])  # it is no test set


def test_other_sets_lose_theirs_and_a_whole_one_is_left_alone(data_dir, tmp_path):
    prepare(data_dir)
    remove(data_dir / "text", "b")
    prepare_data_dir.main([str(data_dir), "--test_dir", str(tmp_path / "other")])
    assert read_dropped(data_dir) == {"b": "not in text"}
    (data_dir / "text").write_text("a A\nb B\nc C\n")
    data = DataDir.read(data_dir / ".backup")
    data.write(data_dir)  # made anew
    assert not read_dropped(data_dir)


def test_too_short_utterances_count_and_the_feature_directory_knows_them_all(tmp_path, root):
    make_data_dir(tmp_path / "d", {"a": 1.0, "b": 0.5, "tiny": 0.001})
    remove(tmp_path / "d/text", "b")
    prepare(tmp_path / "d", "--allow_dropped", "2")
    words = ["--config", str(root / "conf/fbank.yaml"), "--test_dir", str(tmp_path / "d")]
    pair = [str(tmp_path / "d"), str(tmp_path / "f")]
    with pytest.raises(UserError, match=r"lose 2 utt.*not in text: b; shorter than one frame: tin"):
        fbank.main([*words, "--allow_dropped", "1", *pair])
    assert not (tmp_path / "f/feats.scp").exists()
    fbank.main([*words, "--allow_dropped", "2", *pair])
    assert read_dropped(tmp_path / "f") == {
        "b": "not in text",
        "tiny": "shorter than one frame",
    }


def test_given_features_without_frames_count_too(tmp_path):
    import numpy as np

    from espnet_spike.data.ark import ArkWriter

    data = DataDir(text={"a": "A", "b": "B"}, utt2spk={"a": "s", "b": "s"})
    with ArkWriter(tmp_path / "x.ark") as ark:
        for utt, frames in (("a", 3), ("b", 0)):
            offset = ark.write(utt, np.zeros((frames, 4), np.float32))
            data.feats[utt] = f"{tmp_path / 'x.ark'}:{offset}"
    data.write(tmp_path / "d")
    pair = [str(tmp_path / "d"), str(tmp_path / "f")]
    with pytest.raises(UserError, match="no frames: b"):
        copy_feats.main([*pair, "--test_dir", str(tmp_path / "d")])
    copy_feats.main([*pair, "--test_dir", str(tmp_path / "d"), "--allow_dropped", "1"])


def test_a_link_is_the_same_directory(data_dir, tmp_path):
    (tmp_path / "link").symlink_to(data_dir)
    parser = prepare_data_dir.get_parser()
    scored = ScoredSets.of(parser.parse_args(["x", "--test_dir", str(tmp_path / "link")]))
    with pytest.raises(UserError, match="would lose 1"):
        scored.check(data_dir, {"a": "no audio"})


def test_the_table_says_how_many_of_how_many():
    assert scored_of({"utterances": 30}) == "30"
    assert scored_of({"utterances": 30, "utterances_given": 30}) == "30"
    assert scored_of({"utterances": 28, "utterances_given": 30}) == "28 of 30"
