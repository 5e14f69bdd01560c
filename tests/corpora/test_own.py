"""Own data as people have it: real audio files of several formats, tables of several kinds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_spike.bin import prepare_data_dir
from espnet_spike.corpora import own
from espnet_spike.corpora.own import import_set
from espnet_spike.data.audio import parse_source, read
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import make_data_dir
from tests.helpers.tables import NAMES, write_csv


def test_a_stereo_file_needs_a_choice(audio):
    (audio / "d.wav").rename(audio.parent / "d.wav")
    path = write_csv(audio.parent / "all.csv")
    for name in NAMES[:3]:
        (audio / name).rename(audio.parent / name)
    with pytest.raises(UserError, match=r"d: .*d\.wav has 2 channels") as caught:
        import_set(path)
    assert "--channel 1" in caught.value.hint

    def level(channel):
        data = import_set(path, channel=channel)
        wave, _ = read(parse_source(data.wav["d"], "d"), "d")
        return float(np.abs(wave).mean()) if np.any(wave) else 0.0

    assert level("2") == 0.0 and level("1") == pytest.approx(2 * level("mean"), rel=0.01)
    with pytest.raises(UserError, match="there is no channel 3"):
        import_set(path, channel="3")
    with pytest.raises(UserError, match="--channel left"):
        import_set(path, channel="left")


def test_the_mean_of_channels_that_hold_the_same_and_no_others(audio):
    path = write_csv(audio / "all.csv")
    with pytest.raises(UserError, match=r"d: the 2 channels of .*d\.wav differ") as caught:
        import_set(path, channel="alike")
    assert "--channel 1" in caught.value.hint
    wave, rate = soundfile.read(audio / "d.wav")
    soundfile.write(audio / "d.wav", wave[:, [0, 0]], rate)
    headers = {}
    data = import_set(path, channel="alike", headers=headers)
    assert headers[data.wav["d"]].channels == 2 and headers[data.wav["d"]].rate == 8000
    assert headers.keys() == set(data.wav.values())


def test_pieces_of_files_become_segments(audio):
    rows = "path,text,offset,duration\nc.wav,eins,0.1,0.4\nc.wav,zwei,0.5,0.5\nb.ogg,drei,,\n"
    (audio / "pieces.csv").write_text(rows)
    data = import_set(audio / "pieces.csv")
    assert data.segments["c-0000100"] == Segment("rec000001", 0.1, 0.5)
    assert data.segments["b"] == Segment("rec000002", 0.0, -1.0)
    data.write(Path("data/x"))
    prepare_data_dir.main(["data/x"])
    assert DataDir.read(Path("data/x")).text == {
        "c-0000100": "eins",
        "c-0000500": "zwei",
        "b": "drei",
    }


def test_a_validation_set_at_hand_is_not_replaced_by_a_part_of_the_training_set(audio):
    path = write_csv(audio / "all.csv")
    words = ["--set", f"train={path}", "--set", f"dev={path}", "--channel", "1"]
    with pytest.raises(UserError, match=r"--set dev=.* and --valid_from_train 0\.5"):
        own.main([*words, "--valid_from_train", "0.5"])
    assert not Path("data").exists()


def test_what_a_kaldi_directory_lost_is_not_forgotten(tmp_path):
    make_data_dir(tmp_path / "k", {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.3})
    for table, utt in (("text", "b"), ("wav.scp", "c")):
        lines = (tmp_path / "k" / table).read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.split()[0] != utt]
        (tmp_path / "k" / table).write_text("".join(kept))
    data = import_set(tmp_path / "k", normalization="upper")
    assert set(data.text) == {"a", "d"}
    assert data.dropped == {"b": "not in text", "c": "no audio"}
    data.write(tmp_path / "x")
    with pytest.raises(UserError, match="would lose 2 utterances"):
        prepare_data_dir.main([str(tmp_path / "x"), "--test_dir", str(tmp_path / "x")])
