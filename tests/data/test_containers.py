"""Joined and half-loaded files are named, not read in part."""

import numpy as np
import pytest
import soundfile

from espnet_spike.data.audio import inspect, parse_source
from espnet_spike.data.containers import CUT, JOINED, LONGER, extent
from espnet_spike.errors import UserError

KINDS = {
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
    "flac": {"format": "FLAC"},
}


def encoded(folder, kind, seconds, seed, rate=16000):
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(rate * seconds))
    path = folder / f"{seed}-{rate}.{kind}"
    soundfile.write(path, wave, rate, **KINDS[kind])
    return path


def check(path):
    return inspect(parse_source(str(path), "utt"), "utt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.05, 3.0])
def test_whole_files_pass(tmp_path, kind, seconds):
    assert check(encoded(tmp_path, kind, seconds, 1)).frames == round(16000 * seconds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", [0.1, 2.0])
def test_joined_files_are_refused(tmp_path, kind, second):
    parts = [encoded(tmp_path, kind, 3.0, 1), encoded(tmp_path, kind, second, 2)]
    path = tmp_path / f"both.{kind}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(UserError, match=rf"utt: .*both\.{kind} is ") as caught:
        check(path)
    if kind == "flac":  # in which libFLAC finds no last sample
        return
    assert f"is {JOINED} (" in caught.value.message and "; 3.00 s" in caught.value.message
    assert "ffmpeg" in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_half_of_a_file_is_refused(tmp_path, kind, share):
    content = encoded(tmp_path, kind, 3.0, 1).read_bytes()
    path = tmp_path / f"half.{kind}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"utt: .*half\.{kind}"):
        check(path)


def test_an_ogg_stream_cut_between_pages_lacks_its_end(tmp_path):
    content = encoded(tmp_path, "ogg", 8.0, 1).read_bytes()
    path = tmp_path / "cut.ogg"
    path.write_bytes(content[: content.rindex(b"OggS")])
    assert extent(path, "OGG", 1) == (CUT, "the end of the Ogg stream is missing")


def test_mp3_without_a_count_of_its_frames(tmp_path):
    """Constant bit rate, the header of Xing's kind taken off: the frames alone count."""
    path = tmp_path / "x.mp3"
    wave = 0.1 * np.random.default_rng(1).standard_normal(48000)
    soundfile.write(path, wave, 16000, format="MP3", bitrate_mode="CONSTANT")
    content = path.read_bytes()
    heads = [content.find(name) for name in (b"Xing", b"Info")]
    assert max(heads) > 0
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x10" + bytes(16) + content + b"TAG" + bytes(125))
    assert extent(path, "MP3", 48000) == ("", "")
    start = content.find(b"\xff\xf3", max(heads))  # of the frame behind
    path.write_bytes(content[start:])
    assert extent(path, "MP3", 48000) == ("", "")
    assert extent(path, "MP3", 24000)[0] == JOINED


def ape(item, header=True):
    """Return an APEv2 tag with one binary item, such as a picture."""
    items = len(item).to_bytes(4, "little") + bytes(4) + b"Cover Art (front)\0" + item
    size = (len(items) + 32).to_bytes(4, "little")
    ends = [
        b"APETAGEX"
        + (2000).to_bytes(4, "little")
        + size
        + (1).to_bytes(4, "little")
        + (header << 31 | first << 29).to_bytes(4, "little")
        + bytes(8)
        for first in (True, False)
    ]
    return (ends[0] if header else b"") + items + ends[1]


@pytest.mark.parametrize("id3", [b"", b"TAG" + bytes(125)])
@pytest.mark.parametrize("header", [True, False])
def test_frames_in_the_picture_of_a_tag_are_no_audio(tmp_path, header, id3):
    path = encoded(tmp_path, "mp3", 1.0, 1)
    other = encoded(tmp_path, "mp3", 3.0, 2).read_bytes()
    audio = path.read_bytes()
    path.write_bytes(audio + ape(other[len(other) // 4 :], header) + id3)
    assert check(path).frames == 16000
    path.write_bytes(ape(other[len(other) // 4 :]) + audio + id3)
    with path.open("rb") as file:
        assert extent(file, "MP3", 16000) == ("", "")
    # a footer that lies about its size hides nothing
    lie = bytearray(ape(b"x", header))
    lie[-20:-16] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(audio + other + bytes(lie) + id3)
    with pytest.raises(UserError, match=JOINED):
        check(path)


def test_other_formats_pass(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16000)
    assert extent(tmp_path / "x.flac", "FLAC", 100) == ("", "")


CHUNKED = {"wav": ("WAV", b"data", "little"), "aiff": ("AIFF", b"SSND", "big")}


@pytest.mark.parametrize("kind", CHUNKED)
@pytest.mark.parametrize("outer", [False, True])
def test_samples_behind_those_that_the_header_counts_are_not_dropped(tmp_path, kind, outer):
    """Half of the samples are in the chunk; the file is whole, its outer size right or not."""
    form, name, order = CHUNKED[kind]
    wave = 0.1 * np.random.default_rng(1).standard_normal(8000)
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, wave, 8000, format=form, subtype="PCM_16")
    assert check(path).frames == 8000
    content = bytearray(path.read_bytes())
    at = content.index(name) + 4
    content[at : at + 4] = (8000).to_bytes(4, order)
    if outer:
        content[4:8] = (len(content) - 8 - 8000).to_bytes(4, order)
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"utt: .*x\.{kind}") as caught:
        check(path)
    if kind == "wav":  # libsndfile may refuse the other itself
        assert f"is {LONGER}" in caught.value.message and "0.50 s" in caught.value.message


def test_joined_wavs_are_refused_and_what_may_follow_the_samples_passes(tmp_path):
    wave = 0.1 * np.random.default_rng(1).standard_normal(8001)
    path = tmp_path / "x.wav"
    soundfile.write(path, wave, 8000, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content + content)
    with pytest.raises(UserError, match=r"utt: .*x\.wav"):
        check(path)
    odd = b"note" + (3).to_bytes(4, "little") + b"abc\0"  # before the samples
    path.write_bytes(content[:36] + odd + content[36:])
    assert check(path).frames == 8001
    path.write_bytes(content[:36] + odd + b"data" + (800).to_bytes(4, "little") + content[44:])
    assert extent(path, "WAV", 400)[0] == LONGER
    notes = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    for behind in (notes, notes + notes, bytes(512), b"ID3\x04" + bytes(60), b"TAG" + b"x" * 125):
        path.write_bytes(content + behind)
        assert check(path).frames == 8001
    soundfile.write(path, wave, 8000, subtype="PCM_U8")  # an odd number of bytes
    content = path.read_bytes()
    for whole in (content, content[:-1], content + notes, content[:-1] + notes):
        path.write_bytes(whole)
        assert check(path).frames == 8001
    unknown = content.replace(b"data" + (8001).to_bytes(4, "little"), b"data" + b"\xff" * 4)
    path.write_bytes(unknown)  # written to a pipe
    assert extent(path, "WAV", 8001) == ("", "")
