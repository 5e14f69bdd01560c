import numpy as np
import pytest
import soundfile

from espnet_spike.bin import prepare_data_dir
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.data.validation import check_audio
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import make_data_dir, tone


@pytest.fixture
def data_dir(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 1.0, "b": 0.5, "c": 0.2})
    return tmp_path / "d"


def prepare(path, *options):
    prepare_data_dir.main([str(path), *options])
    return DataDir.read(path)


def state(path):
    """Return every file with its content and time."""
    files = sorted(path.rglob("*"))
    return {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files if f.is_file()}


def test_a_good_directory_is_left_alone(data_dir, caplog):
    caplog.set_level("INFO")
    before = state(data_dir)
    prepare(data_dir)
    assert state(data_dir) == before
    assert "3 utterances, 2 speakers, 0.00 h" in caplog.text


def test_fixing_is_done_once(data_dir):
    (data_dir / "text").write_text("c THREE\na ONE\nb\n")
    prepare(data_dir)
    before = state(data_dir)
    prepare(data_dir)
    assert state(data_dir) == before


def test_unsorted_tables_are_sorted(data_dir):
    for name in ("wav.scp", "text", "utt2spk"):
        lines = (data_dir / name).read_text().splitlines()
        (data_dir / name).write_text("\n".join(reversed(lines)) + "\n")
    prepare(data_dir)
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        lines = (data_dir / name).read_bytes().splitlines()
        assert lines == sorted(lines)


def test_transcripts_are_normalized_when_asked_for(data_dir):
    (data_dir / "text").write_text("a e\u0301\nb \uff21\nc THREE\n")
    assert prepare(data_dir).text["a"] == "e\u0301"
    text = prepare(data_dir, "--normalization", "nfc").text
    assert text == {"a": "\u00e9", "b": "\uff21", "c": "THREE"}
    assert prepare(data_dir, "--normalization", "nmt_nfkc").text["b"] == "A"


def test_empty_transcripts_are_dropped_counted_listed_and_kept_in_the_backup(data_dir, caplog):
    original = "a ONE\nb\nc   \n"
    (data_dir / "text").write_text(original)
    data = prepare(data_dir)
    assert set(data.text) == set(data.wav) == set(data.utt2spk) == {"a"}
    assert "dropped 2 utterances, empty text: b, c" in caplog.text
    assert (data_dir / "dropped.txt").read_text() == "b empty text\nc empty text\n"
    assert (data_dir / ".backup/text").read_text() == original


def test_keys_that_do_not_match_are_dropped_and_counted(data_dir, caplog):
    (data_dir / "text").write_text("a ONE\nb TWO\nz LOST\n")
    data = prepare(data_dir)
    assert set(data.text) == {"a", "b"}
    assert "dropped 1 utterance, not in text: c" in caplog.text
    assert "dropped 1 utterance, no audio: z" in caplog.text


def test_no_common_key_is_an_error(data_dir):
    (data_dir / "text").write_text("x ONE\ny TWO\n")
    with pytest.raises(UserError, match=r"no utterance is left"):
        prepare(data_dir)


def test_a_missing_utt2spk_is_made_and_said_and_spk2utt_rebuilt(data_dir, caplog):
    (data_dir / "utt2spk").unlink()
    (data_dir / "spk2utt").unlink()
    data = prepare(data_dir)
    assert data.utt2spk == {"a": "a", "b": "b", "c": "c"}
    assert "speaker of its own" in caplog.text
    assert (data_dir / "spk2utt").read_text() == "a a\nb b\nc c\n"


def test_a_wrong_spk2utt_is_rebuilt(data_dir):
    (data_dir / "spk2utt").write_text("speaker0 a b c d\n")
    prepare(data_dir)
    assert (data_dir / "spk2utt").read_text() == "speaker0 a c\nspeaker1 b\n"


def test_unreadable_audio_is_an_error_that_names_each_and_changes_nothing(data_dir):
    (data_dir / "text").write_text("c THREE\na ONE\nb TWO\n")  # unsorted: there is a thing to fix
    wav = DataDir.read(data_dir).wav
    with open(wav["a"], "r+b") as file:
        file.truncate(1000)
    with open(wav["c"], "wb"):
        pass
    before = state(data_dir)
    with pytest.raises(UserError) as caught:
        prepare(data_dir)
    assert state(data_dir) == before
    message = caught.value.message
    assert "2 recordings or segments cannot be used" in message
    assert "a: " in message and "truncated" in message
    assert "c: " in message and "0 bytes" in message


def test_of_many_problems_the_first_are_shown(tmp_path):
    data = make_data_dir(tmp_path / "d", {f"u{n}": 0.1 for n in range(9)})
    for file in data.wav.values():
        (tmp_path / file).unlink()
    with pytest.raises(UserError, match=r"9 recordings") as caught:
        prepare(tmp_path / "d")
    assert caught.value.message.count("does not exist") == 5
    assert "and 4 more" in caught.value.message


def test_audio_that_is_not_finite_is_an_error(data_dir):
    wave = np.full(16000, np.nan, np.float32)
    soundfile.write(DataDir.read(data_dir).wav["b"], wave, 16000, "FLOAT")
    with pytest.raises(UserError, match=r"b: .*not finite"):
        prepare(data_dir)


def test_several_channels_are_counted(data_dir, caplog):
    stereo = np.stack([tone(0.5), tone(0.5)], axis=1)
    soundfile.write(DataDir.read(data_dir).wav["b"], stereo, 16000)
    prepare(data_dir)
    assert "1 recording of several channels" in caplog.text


def test_commands_need_permission(data_dir, tmp_path):
    wav = DataDir.read(data_dir).wav
    lines = [f"{utt} cat '{file}' |" for utt, file in wav.items()]
    (data_dir / "wav.scp").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"a: the wav.scp entry runs a command") as caught:
        prepare(data_dir)
    assert "--allow_pipes true" in str(caught.value)
    assert set(prepare(data_dir, "--allow_pipes", "true").wav) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("segment", "good"),
    [
        ("0 1", True),
        ("0.5 -1", True),
        ("0.99 1.005", True),
        ("0.5 1.5", False),
        ("0.5 0.5", False),
        ("0.6 0.5", False),
        ("-0.1 0.5", False),
        ("1.5 -1", False),
        ("0 nan", False),
    ],
)
def test_segments_lie_in_their_recordings(data_dir, segment, good):
    (data_dir / "segments").write_text(f"seg-1 a {segment}\n")
    (data_dir / "text").write_text("seg-1 ONE\n")
    (data_dir / "utt2spk").write_text("seg-1 s\n")
    if good:
        assert set(prepare(data_dir).wav) == {"a"}
    else:
        with pytest.raises(UserError, match=r"seg-1: segment"):
            prepare(data_dir)


def test_a_directory_with_features_only_is_mended_too(data_dir):
    (data_dir / "wav.scp").unlink()
    (data_dir / "feats.scp").write_text("b f.ark:5\na f.ark:9\n")
    data = prepare(data_dir)
    assert set(data.feats) == set(data.text) == {"a", "b"}


def test_several_directories_are_prepared(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("x", "y"):
        make_data_dir(tmp_path / name, {"a": 0.1})
    prepare_data_dir.main([str(tmp_path / "x"), str(tmp_path / "y")])
    assert caplog.text.count("1 utterance, 1 speaker") == 2


def test_hours_are_those_of_the_utterances(data_dir):
    data = DataDir.read(data_dir)
    assert check_audio(data, allow_pipes=False) == (pytest.approx(1.7 / 3600), [])
    data.segments = {"a1": Segment("a", 0.25, 0.75), "a2": Segment("a", 0.5, -1.0)}
    hours, notes = check_audio(data, allow_pipes=False)
    assert hours == pytest.approx(1.0 / 3600) and notes == []
