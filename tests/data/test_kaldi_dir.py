import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data.kaldi_dir import DataDir, Segment, fix, speakers_to_utterances
from espnet_spike.errors import UserError

keys = st.text(
    st.characters(min_codepoint=33, exclude_categories=("Z", "C")), min_size=1, max_size=8
).filter(lambda key: len(key.split()) == 1 and not key.startswith("\ufeff"))


def make(**tables):
    full = {
        "wav": {"a": "a.wav", "b": "b.wav"},
        "text": {"a": "ONE", "b": "TWO"},
        "utt2spk": {"a": "s", "b": "s"},
    }
    return DataDir(**(full | tables))


def test_a_directory_reads_back_as_written(tmp_path):
    data = make(
        wav={"rec": "with space.flac"},
        segments={"a": Segment("rec", 0.0, 12345.678), "b": Segment("rec", 1.5, -1.0)},
        utt2speed={"a": 0.9, "b": 1.0},
    )
    data.write(tmp_path / "d")
    assert DataDir.read(tmp_path / "d") == data
    assert (tmp_path / "d/spk2utt").read_text() == "s a b\n"


def test_writing_removes_tables_that_became_empty(tmp_path):
    make(utt2speed={"a": 0.9, "b": 1.0}).write(tmp_path)
    make().write(tmp_path)
    assert not (tmp_path / "utt2speed").exists()


def test_utt2spk_may_come_from_spk2utt(tmp_path):
    make().write(tmp_path)
    (tmp_path / "utt2spk").unlink()
    assert DataDir.read(tmp_path).utt2spk == {"a": "s", "b": "s"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("segments", "a rec 0\n", "expected 'utterance recording start end'"),
        ("segments", "a rec zero 1\n", "expected 'utterance recording start end'"),
        ("utt2speed", "a fast\n", "'fast' is no speed factor"),
        ("utt2speed", "a 0\n", "'0' is no speed factor"),
    ],
)
def test_malformed_lines_name_the_file_and_the_utterance(tmp_path, name, content, message):
    make().write(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: a: {message}"):
        DataDir.read(tmp_path)


def test_missing_directories_and_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no such data directory"):
        DataDir.read(tmp_path / "none")
    with pytest.raises(UserError, match=r"text: missing"):
        DataDir.read(tmp_path)
    (tmp_path / "text").write_text("a ONE\n")
    with pytest.raises(UserError, match=r"neither wav\.scp nor feats\.scp"):
        DataDir.read(tmp_path)


def test_an_utterance_that_a_table_lacks_is_dropped_with_the_reason():
    data, dropped, notes = fix(
        make(
            wav={"a": "a.wav", "b": "b.wav", "c": "c.wav", "e": "e.wav"},
            text={"a": "ONE", "b": "", "d": "FOUR", "e": "FIVE"},
            utt2spk={"a": "s", "b": "s", "c": "s", "d": "s"},
        )
    )
    assert dropped == {
        "b": "empty text",
        "c": "not in text",
        "d": "no audio",
        "e": "not in utt2spk",
    }
    assert set(data.wav) == set(data.text) == set(data.utt2spk) == {"a"}
    assert notes == []


def test_without_utt2spk_each_utterance_is_a_speaker_and_this_is_said():
    data, dropped, notes = fix(make(utt2spk={}))
    assert data.utt2spk == {"a": "a", "b": "b"}
    assert not dropped
    assert "speaker of its own" in notes[0]


def test_white_space_in_transcripts_becomes_single_spaces():
    data, _, _ = fix(make(text={"a": " ONE \u3000 TWO\u00a0", "b": "\u2003"}))
    assert data.text == {"a": "ONE TWO"}


def test_recordings_without_utterances_go_and_segments_without_recordings_too():
    data, dropped, _ = fix(
        make(
            wav={"r1": "1.wav", "r2": "2.wav"},
            segments={"a": Segment("r1", 0, 1), "b": Segment("r9", 0, 1)},
        )
    )
    assert dropped == {"b": "its recording is not in wav.scp"}
    assert data.wav == {"r1": "1.wav"}


@given(st.sets(keys), st.sets(keys), st.sets(keys))
@settings(deadline=None)
def test_fixing_leaves_equal_keys_and_accounts_for_all_others(audio, texts, speakers):
    data = DataDir(
        wav=dict.fromkeys(audio, "x.wav"),
        text=dict.fromkeys(texts, "WORDS"),
        utt2spk=dict.fromkeys(speakers, "s") or {"none": "s"},
    )
    fixed, dropped, _ = fix(data)
    assert set(fixed.wav) == set(fixed.text) == set(fixed.utt2spk)
    assert not set(fixed.text) & set(dropped)
    assert set(fixed.text) | set(dropped) == audio | texts | set(data.utt2spk)
    assert fix(fixed)[0] == fixed or not fixed.text


def test_speakers_to_utterances_sorts_both_levels():
    assert list(speakers_to_utterances({"b": "t", "c": "s", "a": "t"}).items()) == [
        ("t", ["a", "b"]),
        ("s", ["c"]),
    ]
