import shutil

import pytest

from espnet_spike.bin import prepare_data_dir
from espnet_spike.corpora import an4, mini_an4
from espnet_spike.data.audio import inspect, parse_source
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError

SETS = ("train", "dev", "test")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mini_an4.main([])
    return tmp_path


def test_the_sets_are_real_speech_with_clean_transcripts(recipe):
    sets = {name: DataDir.read(recipe / "data" / name) for name in SETS}
    assert [len(data.text) for data in sets.values()] == [4, 1, 2]
    words = " ".join(text for data in sets.values() for text in data.text.values())
    assert set(words) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    assert sets["test"].text["fcaw-cen8-b"] == "ELEVEN TWENTY SEVEN FIFTY SEVEN"
    for data in sets.values():
        for utt, value in data.wav.items():
            assert utt.startswith(data.utt2spk[utt])
            info = inspect(parse_source(value, utt), utt)
            assert info.rate == 16000
            assert 0.5 < info.duration < 4


def test_no_utterance_is_in_two_sets_and_test_speakers_are_unseen(recipe):
    sets = {name: DataDir.read(recipe / "data" / name) for name in SETS}
    audio = [file for data in sets.values() for file in data.wav.values()]
    assert len(audio) == len(set(audio)) == 7
    known = set(sets["train"].utt2spk.values()) | set(sets["dev"].utt2spk.values())
    assert not known & set(sets["test"].utt2spk.values())
    letters = set("".join(sets["train"].text.values()))
    assert set("".join(sets["dev"].text.values())) <= letters


def test_there_is_nothing_to_mend(recipe, caplog):
    prepare_data_dir.main([f"data/{name}" for name in SETS])
    assert not caplog.records or all(record.levelname == "INFO" for record in caplog.records)


def test_it_can_be_run_again_and_mends_a_broken_extraction(recipe):
    before = (recipe / "data/train/wav.scp").read_bytes()
    shutil.rmtree(recipe / "downloads/an4/wav")
    (recipe / "downloads" / ".done-downloads.tar.gz").unlink()
    mini_an4.main([])
    assert (recipe / "data/train/wav.scp").read_bytes() == before
    prepare_data_dir.main(["data/train"])


def test_a_copy_of_the_corpus_can_be_given(recipe, tmp_path):
    mini_an4.main(["--corpus_dir", "downloads/an4", "--data_dir", "other"])
    for name in SETS:
        assert DataDir.read(recipe / "other" / name) == DataDir.read(recipe / "data" / name)


def test_a_folder_that_is_no_an4_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no AN4 corpus"):
        mini_an4.main(["--corpus_dir", str(tmp_path)])


def test_missing_audio_is_named(recipe):
    next((recipe / "downloads/an4/wav/an4_clstk").glob("*/an251*")).unlink()
    with pytest.raises(UserError, match=r"no audio for an251-fash-b"):
        mini_an4.main([])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("<s> YES </s> (an251-fash-b)", {"an251-fash-b": "YES"}),
        ("ELEVEN TWENTY (cen8-fcaw-b)", {"cen8-fcaw-b": "ELEVEN TWENTY"}),
    ],
)
def test_transcripts_lose_their_sentence_marks(tmp_path, line, expected):
    (tmp_path / "t").write_text(line + "\n")
    assert an4.read_transcripts(tmp_path / "t") == expected


def test_a_malformed_transcript_is_shown(tmp_path):
    (tmp_path / "t").write_text("YES an251-fash-b\n")
    with pytest.raises(UserError, match=r"got 'YES an251-fash-b'"):
        an4.read_transcripts(tmp_path / "t")
