import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.corpora.sets import collect, divide, find_files, join, split_off
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError


def data_of(counts: list[int]) -> DataDir:
    utts = {f"s{s}-{u}": f"s{s}" for s, count in enumerate(counts) for u in range(count)}
    return DataDir(wav={u: f"{u}.wav" for u in utts}, text=dict.fromkeys(utts, "A"), utt2spk=utts)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_whole_speakers_are_taken_until_there_are_enough(counts, share):
    data = data_of(counts)
    kept, taken = split_off(data, share)
    assert kept.text.keys() | taken.text.keys() == data.text.keys()
    assert not set(kept.utt2spk.values()) & set(taken.utt2spk.values())
    assert kept.text and taken.text
    assert len(taken.text) < share * len(data.text) + max(counts)
    one_speaker_stays = len(set(kept.utt2spk.values())) == 1
    assert len(taken.text) >= share * len(data.text) or one_speaker_stays
    assert split_off(data, share) == (kept, taken)


def test_one_speaker_is_split_by_utterances_with_a_warning(caplog):
    sets = {"train": data_of([20])}
    divide(sets, "train", "dev", 0.1)
    assert len(sets["dev"].text) == 2 and len(sets["train"].text) == 18
    assert not sets["dev"].text.keys() & sets["train"].text.keys()
    assert "the training set has one speaker, s0: 2 utterances" in caplog.text
    with pytest.raises(UserError, match="has 1 utterance"):
        split_off(data_of([1]), 0.5)


def test_a_share_is_one():
    with pytest.raises(UserError, match="--valid_from_train 5"):
        split_off(data_of([5, 5]), 5)


def test_parts_are_joined_unless_they_overlap():
    first, second = data_of([2]).subset(["s0-0"]), data_of([2]).subset(["s0-1"])
    assert join([first, second]) == data_of([2])
    with pytest.raises(UserError, match="s0-0"):
        join([first, first])


def test_what_lacks_audio_or_transcript_is_listed(caplog):
    data = collect("dev", {"a": "A", "b": "B"}, {"b": "b.wav", "c": "c.wav"}, {"a": "s", "b": "s"})
    assert data.text == {"b": "B"} and data.wav == {"b": "b.wav"}
    assert "no audio for 1 utterance: a" in caplog.text
    assert "no transcript for 1 file: c" in caplog.text
    with pytest.raises(UserError, match="no utterance has both"):
        collect("dev", {"a": "A"}, {}, {"a": "s"})


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a/one.wav").touch()
    (tmp_path / "a/one.txt").touch()
    (tmp_path / "c").symlink_to(tmp_path / "a")  # the same file once more
    assert [*find_files(tmp_path, [".wav"])] == ["one"]
    (tmp_path / "b/one.WAV").touch()
    with pytest.raises(UserError, match="has the same name, one"):
        find_files(tmp_path, [".wav"])
