"""What is transcribed, under which names, in which order, and into which files."""

import io
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_spike.data.audio import inspect, read
from espnet_spike.errors import UserError
from espnet_spike.inference.audio_inputs import find_audio, find_sources, in_order, output_paths


def test_audio_is_found_in_folders_and_named(tmp_path):
    for name in ("a/x.wav", "b/x.FLAC", "b/notes.txt", "y.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_audio([tmp_path / "a", tmp_path / "y.ogg"]) == {
        "x": tmp_path / "a/x.wav",
        "y": tmp_path / "y.ogg",
    }
    found = find_audio([tmp_path])
    assert len(found) == 3 and all("/" not in name for name in found)
    with pytest.raises(UserError, match="no such file"):
        find_audio([tmp_path / "none.wav"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio in it"):
        find_audio([tmp_path / "empty"])


def test_folders_are_gone_through_with_links_and_what_cannot_be_read_is_named(tmp_path):
    for name in ("a/x.wav", "a/b/y.OPUS", "a/z.m4a", "a/b/clip.mp4", "elsewhere/w.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "a")  # in a circle
    foreign = []
    assert set(find_audio([tmp_path / "a"], foreign=foreign)) == {"x", "y", "w"}
    assert sorted(path.name for path in foreign) == ["clip.mp4", "z.m4a"]
    foreign = []
    assert set(find_audio([tmp_path / "a"], recursive=False, foreign=foreign)) == {"x"}
    assert [path.name for path in foreign] == ["z.m4a"]
    (tmp_path / "a/x.wav").unlink()
    with pytest.raises(UserError, match=r"1 that it cannot: z\.m4a") as caught:
        find_audio([tmp_path / "a"], recursive=False)
    assert "ffmpeg" in caught.value.hint


def test_no_file_is_lost_whatever_they_are_called(tmp_path, monkeypatch):
    names = ("here/a/x.wav", "a/x.wav", "here/a-x.wav", "here/b/x.wav")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    files = [Path("a/x.wav"), Path("../a/x.wav"), Path("a-x.wav"), Path("b/x.wav")]
    found = find_audio(files)
    assert list(found.values()) == files
    assert list(found)[::3] == ["a-x.wav", "b-x.wav"]


def test_files_of_a_folder_come_in_natural_order(tmp_path):
    names = ["b.wav", "talk10.wav", "talk2.wav", "Talk1.wav", "part 9/x1.wav", "part 10/x0.wav"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    wanted = ["b.wav", "part 9/x1.wav", "part 10/x0.wav", "Talk1.wav", "talk2.wav", "talk10.wav"]
    assert [str(p.relative_to(tmp_path)) for p in find_audio([tmp_path]).values()] == wanted
    given = [tmp_path / "talk10.wav", tmp_path / "b.wav", tmp_path / "talk2.wav"]
    assert list(find_audio(given).values()) == given


def test_a_list_keeps_its_utterances(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b c.wav", "utt2.wav"):
        soundfile.write(name, np.zeros(800, np.int16), 8000)
    scp = Path("wav.scp")
    scp.write_text("utt2 b c.wav\nspk/utt10 flac -c -d -s a.wav |\n")
    found = find_sources([Path("utt2.wav"), scp, Path("a.wav")])
    assert list(found) == ["utt2-2", "utt2", "spk/utt10", "a"]
    assert found["utt2"].path == "b c.wav" and found["spk/utt10"].path == "a.wav"
    assert found["utt2-2"] == Path("utt2.wav")
    scp.write_text("utt cat a.wav |\n")
    with pytest.raises(UserError, match=r"utt: the wav\.scp entry runs a command"):
        find_sources([scp])
    assert find_sources([scp], allow_pipes=True)["utt"].command == "cat a.wav"
    scp.write_text("utt a.wav\nutt a.wav\n")
    with pytest.raises(UserError, match="utt is given twice"):
        find_sources([scp])
    scp.write_text("utt a.wav\n")
    Path("other.scp").write_text("utt utt2.wav\n")
    with pytest.raises(UserError, match=r"other\.scp: utt is in wav\.scp too"):
        find_sources([scp, Path("other.scp")])
    scp.write_text("\n")
    with pytest.raises(UserError, match=r"wav\.scp lists no audio"):
        find_sources([scp])


def test_of_a_kaldi_directory_the_list_is_named(tmp_path):
    (tmp_path / "wav.scp").write_text("utt a.wav\n")
    with pytest.raises(UserError, match="no audio in it") as caught:
        find_audio([tmp_path])
    assert "wav.scp" in caught.value.hint


class Pipe(io.BytesIO):
    """Standard input."""

    buffer = property(lambda self: self)


def piped(monkeypatch, content, raw_fs=None):
    monkeypatch.setattr(sys, "stdin", Pipe(content))
    return find_sources([Path("-")], raw_fs=raw_fs)["stdin"]


def as_wav(wave, fs=8000, **how):
    file = io.BytesIO()
    soundfile.write(file, wave, fs, **{"format": "WAV", **how})
    return file.getvalue()


WAVE = (np.random.default_rng(0).standard_normal(1000) * 3000).astype(np.int16)


@pytest.mark.parametrize("length", [None, 0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_standard_input_is_a_wav_whose_length_may_be_unknown(monkeypatch, length):
    content = bytearray(as_wav(WAVE))
    assert content[36:40] == b"data"
    if length is not None:  # as ffmpeg, sox and GStreamer write into a pipe
        content[4:8] = content[40:44] = length.to_bytes(4, "little")
    source = piped(monkeypatch, bytes(content))
    assert inspect(source, "stdin").frames == 1000
    np.testing.assert_array_equal(read(source, "stdin")[0], WAVE)


def test_standard_input_is_samples_or_any_other_format(monkeypatch, caplog):
    source = piped(monkeypatch, WAVE.astype("<i2").tobytes(), raw_fs=12000)
    samples, rate = read(source, "stdin")
    np.testing.assert_array_equal(samples, WAVE)
    assert (rate, inspect(source, "stdin").frames) == (12000, 1000)
    piped(monkeypatch, b"abc", raw_fs=8000)
    assert "ends within a sample" in caplog.text
    assert inspect(piped(monkeypatch, as_wav(WAVE, format="FLAC")), "stdin").frames == 1000


def test_bad_standard_input_is_an_error(monkeypatch):
    with pytest.raises(UserError, match="standard input is empty"):
        piped(monkeypatch, b"")
    with pytest.raises(UserError, match="no audio that libsndfile can read") as caught:
        inspect(piped(monkeypatch, WAVE.tobytes()), "stdin")
    assert "--raw_fs" in caught.value.hint
    with pytest.raises(UserError, match="no raw samples"):
        piped(monkeypatch, as_wav(WAVE), raw_fs=8000)
    with pytest.raises(UserError, match="truncated"):
        inspect(piped(monkeypatch, as_wav(WAVE)[:900]), "stdin")
    with pytest.raises(UserError, match="several Ogg streams"):
        inspect(piped(monkeypatch, 2 * as_wav(WAVE, format="OGG")), "stdin")
    with pytest.raises(UserError, match="holds no samples"):
        inspect(piped(monkeypatch, as_wav(WAVE[:0])), "stdin")
    terminal = Pipe(b"")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(UserError, match="nothing is piped"):
        find_sources([Path("-")])


@pytest.mark.parametrize("letter", ["a", "é", "語", "𝄞"])
def test_names_of_255_bytes_get_files_of_their_own(tmp_path, letter):
    room = 255 - len(".wav")
    size = len(letter.encode())
    stems = [(room // size - 1) * letter + end for end in (letter, "x", "y")]
    stems.append("short")
    for stem in stems:
        assert len((tmp_path / f"{stem}.wav").name.encode()) <= 255
        (tmp_path / f"{stem}.wav").touch()
    found = find_audio([tmp_path])
    paths = output_paths(found, tmp_path, ".subtitles")
    assert len(set(paths.values())) == 4 and paths["short"].name == "short.subtitles"
    for path in paths.values():
        path.write_text("x")
        assert path.suffix == ".subtitles"
        assert "\ufffd" not in unicodedata.normalize("NFC", path.name)


def test_utterances_with_slashes_get_files_of_their_own(tmp_path):
    names = ["a/b", "a-b", "a-b-2", "c"]
    paths = output_paths(names, tmp_path, ".txt")
    assert list(paths) == names
    assert [os.path.basename(paths[n]) for n in names[1:]] == ["a-b.txt", "a-b-2.txt", "c.txt"]
    assert paths["a/b"] == tmp_path / "a-b-3.txt"


def test_what_is_done_comes_in_order_and_a_failure_loses_none():
    def done():
        yield from "bdc"
        failed.append("a")
        yield from "e"
        raise UserError("broken")

    failed = []
    seen = []
    with pytest.raises(UserError, match="broken"):
        for one in in_order(done(), str, "abcde", failed):
            seen.append(one)
    assert seen == list("bcde")
    assert list(in_order(iter("cab"), str, "abc", [])) == list("abc")
