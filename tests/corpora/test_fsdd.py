import io
import random
import tarfile
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.corpora import fsdd
from espnet_spike.corpora.fsdd import Recording, Utterance
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.data.validation import prepare
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table
from tests.helpers.corpora import corpus_dir
from tests.helpers.data_dirs import tone

SIZES = {"train": 1500, "dev": 109, "test": 113, "test_seen": 44}  # with the default seed


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=15)
def test_no_recording_is_in_two_sets_and_held_out_ones_are_used_exactly_once(seed):
    sets = fsdd.compose_sets(200, seed)
    used = {
        name: Counter(recording for utt in utts for recording in utt.recordings)
        for name, utts in sets.items()
    }
    names = list(used)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            assert not used[name].keys() & used[other].keys()
    for name, count in (("dev", 500), ("test", 500), ("test_seen", 200)):
        assert len(used[name]) == count
        assert set(used[name].values()) == {1}
    assert {rec.speaker for rec in used["train"]} == set(fsdd.TRAIN_SPEAKERS)
    assert {rec.speaker for rec in used["test_seen"]} == set(fsdd.TRAIN_SPEAKERS)
    assert {rec.speaker for rec in used["dev"]} == {"lucas"}
    assert {rec.speaker for rec in used["test"]} == {"theo"}
    assert {rec.index for rec in used["train"]} <= set(range(5, 50))
    assert {rec.index for rec in used["test_seen"]} == set(range(5))
    for utts in sets.values():
        assert len({utt.name for utt in utts}) == len(utts)
        for utt in utts:
            assert 3 <= len(utt.recordings) <= 6
            assert {utt.name.split("-")[0]} == {rec.speaker for rec in utt.recordings}


def test_training_uses_all_its_recordings_about_equally_often():
    train = fsdd.compose_sets(1500, 0)["train"]
    assert len(train) == 1500
    assert set(Counter(utt.recordings[0].speaker for utt in train).values()) == {375}
    counts = Counter(recording for utt in train for recording in utt.recordings)
    assert len(counts) == 4 * 450
    for speaker in fsdd.TRAIN_SPEAKERS:
        own = [count for recording, count in counts.items() if recording.speaker == speaker]
        assert max(own) - min(own) <= 1
    assert len({utt.recordings for utt in train}) == 1500


def test_sets_depend_on_the_seed_only():
    assert fsdd.compose_sets(100, 1) == fsdd.compose_sets(100, 1)
    assert fsdd.compose_sets(100, 1) != fsdd.compose_sets(100, 2)


def test_the_default_sets_do_not_change():
    """Published results stand on them."""
    sets = fsdd.compose_sets(1500, 0)
    assert {name: len(utts) for name, utts in sets.items()} == SIZES
    assert sets["dev"][0].words == "TWO THREE EIGHT"
    assert sets["train"][-1].words == "EIGHT THREE ZERO"


@given(st.integers(3, 600), st.integers(0, 99))
@settings(deadline=None)
def test_lengths_leave_nothing_over(total, seed):
    lengths = fsdd.draw_lengths(total, random.Random(seed))
    assert sum(lengths) == total
    assert all(3 <= length <= 6 for length in lengths)


def test_joined_audio_is_the_digits_at_their_level_between_gaps_of_noise():
    digits = [Recording("theo", digit, 0) for digit in (1, 2, 3)]
    waves = {
        rec: np.full(1000 * (n + 1), level, np.int16)
        for n, (rec, level) in enumerate(zip(digits, (100, -20000, 32767), strict=True))
    }
    wave = fsdd.join(Utterance("theo-x-0", tuple(digits)), waves, 0)
    assert wave.dtype == np.int16
    loud = np.abs(wave) > 50
    edges = np.flatnonzero(np.diff(loud.astype(int)))
    assert len(edges) == 6
    runs = np.diff(np.concatenate(([-1], edges, [len(wave) - 1])))
    assert list(runs[1::2]) == [1000, 2000, 3000]
    assert all(400 <= gap <= 1600 for gap in runs[::2])
    gaps = wave[~loud]
    assert 1.5 < gaps.std() < 2.5
    assert wave[edges[0] + 1 : edges[1] + 1].mean() == pytest.approx(100, abs=1)
    assert wave[edges[2] + 1 : edges[3] + 1].mean() == pytest.approx(-20000, abs=1)
    assert wave.max() == 32767
    np.testing.assert_array_equal(fsdd.join(Utterance("theo-x-0", tuple(digits)), waves, 0), wave)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("fsdd")
    corpus = corpus_dir("fsdd")
    fsdd.main(["--corpus_dir", str(corpus), "--data_dir", f"{path}/data"])
    return path


def test_the_corpus_gives_sets_with_nothing_to_mend(recipe, caplog):
    for name, size in SIZES.items():
        data = prepare(recipe / "data" / name)
        assert len(data.text) == size
        assert set(" ".join(data.text.values()).split()) == set(fsdd.WORDS)
        joined = read_table(recipe / "data" / name / "utt2recordings")
        for utt, recordings in joined.items():
            digits = [fsdd.WORDS[int(recording[0])] for recording in recordings.split()]
            assert data.text[utt] == " ".join(digits)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_training_set_has_about_an_hour_and_no_digital_silence(recipe):
    seconds = 0.0
    for value in DataDir.read(recipe / "data/train").wav.values():
        wave, rate = soundfile.read(value, dtype="int16")
        assert rate == 8000
        seconds += len(wave) / rate
        blocks = wave[: len(wave) // 200 * 200].reshape(-1, 200)  # frames of 25 ms
        assert (blocks.std(axis=1) > 0.5).all()
    assert 3600 < seconds < 4000


def test_the_archive_of_the_public_home_is_unpacked_and_prepared(tmp_path, monkeypatch):
    """With recordings of the right names, in the layout of a GitHub archive."""
    content = io.BytesIO()
    soundfile.write(content, tone(0.1, 8000), 8000, format="WAV")
    speakers = (*fsdd.TRAIN_SPEAKERS, fsdd.DEV_SPEAKER, fsdd.TEST_SPEAKER)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as tar:
        for recording in fsdd.all_recordings(speakers, range(50)):
            name = f"free-spoken-digit-dataset-1.0.10/recordings/{recording.name}.wav"
            info = tarfile.TarInfo(name)
            info.size = content.getbuffer().nbytes
            tar.addfile(info, io.BytesIO(content.getvalue()))
    monkeypatch.setattr(fsdd, "URL", (tmp_path / "a.tar.gz").as_uri())
    monkeypatch.chdir(tmp_path)
    fsdd.main(["--train_utterances", "20"])
    for name, size in (SIZES | {"train": 20}).items():
        data = prepare(tmp_path / "data" / name)
        assert len(data.text) == size
        assert all(value.startswith(f"data/wav/{name}/") for value in data.wav.values())
    before = (tmp_path / "data/train/wav.scp").read_bytes()
    audio = (tmp_path / "data/wav/train/george-train-0000.wav").read_bytes()
    (tmp_path / "a.tar.gz").unlink()
    fsdd.main(["--train_utterances", "20"])  # nothing is fetched again
    assert (tmp_path / "data/train/wav.scp").read_bytes() == before
    assert (tmp_path / "data/wav/train/george-train-0000.wav").read_bytes() == audio


def test_the_recordings_folder_itself_can_be_given(recipe):
    folder = corpus_dir("fsdd")
    assert fsdd.find_recordings(folder) == fsdd.find_recordings(folder / "recordings")


def test_a_folder_without_the_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no FSDD recordings") as caught:
        fsdd.main(["--corpus_dir", str(tmp_path)])
    assert "--corpus_dir" in caught.value.hint


def test_missing_recordings_are_counted_and_named(tmp_path):
    soundfile.write(tmp_path / "0_george_0.wav", np.zeros(800), 8000)
    with pytest.raises(UserError, match=r"2999 of 3000 recordings missing: 0_george_1"):
        fsdd.find_recordings(tmp_path)


def test_a_recording_at_another_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(800), 16000)
    with pytest.raises(UserError, match=r"expected mono audio at 8000 Hz"):
        fsdd.read_recording(tmp_path / "x.wav")
