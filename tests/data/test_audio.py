import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data.audio import change_rate, inspect, least_correlation, parse_source, read
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import tone


@pytest.mark.parametrize(
    ("value", "path", "channel"),
    [
        ("a b/c d.wav", "a b/c d.wav", None),
        ("flac -c -d -s x.flac |", "x.flac", None),
        ("flac -cds 'x y.flac' |", "x y.flac", None),
        ("flac --decode --stdout --silent x.flac|", "x.flac", None),
        ("/opt/kaldi/tools/sph2pipe_v2.5/sph2pipe -f wav x.sph |", "x.sph", None),
        ("sph2pipe -f wav -p -c 2 x.sph |", "x.sph", 1),
        ("sox x.mp3 -t wav - |", "x.mp3", None),
        ("sox -t flac x.flac -t wav - |", "x.flac", None),
    ],
)
def test_plain_reads_need_no_program(value, path, channel):
    source = parse_source(value, "utt")
    assert (source.path, source.command, source.channel) == (path, None, channel)


@pytest.mark.parametrize(
    "value",
    [
        "cat x.wav |",
        "sox x.wav -r 8000 -t wav - |",
        "sox x.wav -t wav - speed 0.9 |",
        "sox a.wav b.wav -t wav - |",
        "flac -c -d --skip=100 x.flac |",
        "flac -c x.wav |",
        "sph2pipe -f raw x.sph |",
        "sph2pipe -f wav -t 1:2 x.sph |",
        "flac -c -d -s x.flac | sox - -t wav - |",
        "flac -c -d -s $(rm x).flac |",
        "flac -c -d -s x.flac; rm x |",
        "flac -c -d -s 'unclosed |",
        "|",
    ],
)
def test_any_other_command_is_run_only_when_allowed(value):
    with pytest.raises(UserError, match=r"utt: the wav.scp entry runs a command") as caught:
        parse_source(value, "utt")
    assert "--allow_pipes true" in caught.value.hint
    assert parse_source(value, "utt", allow_pipes=True).command == value[:-1].strip()


def test_an_empty_entry_is_an_error():
    with pytest.raises(UserError, match=r"utt: no audio file"):
        parse_source("", "utt")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_samples_come_in_the_range_of_int16(tmp_path, ending, subtype):
    if not soundfile.check_format(ending.upper(), subtype):
        subtype = "PCM_16"
    wave = tone(0.1)
    path = tmp_path / f"x.{ending}"
    soundfile.write(path, wave / 32768, 16000, subtype)
    got, rate = read(parse_source(str(path), "utt"), "utt")
    assert rate == 16000
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, wave)


def test_channels_are_averaged_unless_one_is_chosen(tmp_path):
    left, right = tone(0.1, seed=1), tone(0.1, seed=2)
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 16000)
    mono, _ = read(parse_source(str(path), "utt"), "utt")
    np.testing.assert_allclose(mono, (left.astype(float) + right) / 2, atol=1e-2)
    second, _ = read(parse_source(f"sph2pipe -f wav -c 2 {path} |", "utt"), "utt")
    np.testing.assert_array_equal(second, right)


@pytest.mark.parametrize(
    ("second", "low", "high"),
    [(0.5, 0.99, 1.0), (0.0, 0.0, 0.0), (-1.0, -1.0, -0.99), (None, -0.2, 0.2)],
)
def test_channels_that_hold_the_same_are_told_from_others(tmp_path, second, low, high):
    first = tone(1.0).astype(np.float64) / 32768
    noise = np.random.default_rng(1).standard_normal(len(first)) / 10
    other = noise if second is None else second * first
    soundfile.write(tmp_path / "a.wav", np.stack([first, other], 1), 16000)
    found = least_correlation(parse_source(str(tmp_path / "a.wav"), "a"), "a")
    assert low - 1e-6 <= found <= high + 1e-6


def test_a_channel_that_is_not_there_is_an_error(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(0.1), 16000)
    source = parse_source(f"sph2pipe -f wav -c 2 {tmp_path}/x.wav |", "utt")
    with pytest.raises(UserError, match=r"utt: channel 2"):
        inspect(source, "utt")


@given(st.integers(0, 1599), st.integers(0, 1600))
@settings(deadline=None)
def test_a_segment_is_that_stretch_of_the_recording(tmp_path_factory, first, last):
    path = tmp_path_factory.getbasetemp() / "segment.wav"
    wave = tone(0.1)
    if not path.exists():
        soundfile.write(path, wave, 16000)
    got, _ = read(parse_source(str(path), "utt"), "utt", first / 16000, last / 16000)
    np.testing.assert_array_equal(got, wave[first:last])


def test_commands_run_when_allowed_and_their_failure_names_the_utterance(tmp_path):
    wave = tone(0.1)
    soundfile.write(tmp_path / "x.wav", wave, 16000)
    source = parse_source(f"cat '{tmp_path}/x.wav' |", "utt", allow_pipes=True)
    assert inspect(source, "utt").frames == len(wave)
    np.testing.assert_array_equal(read(source, "utt")[0], wave)
    bad = parse_source("echo oh no >&2; exit 3 |", "utt", allow_pipes=True)
    with pytest.raises(UserError, match=r"utt: the command .* ended with status 3") as caught:
        inspect(bad, "utt")
    assert "oh no" in caught.value.message


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFF624])
def test_a_size_left_open_by_a_writer_to_a_pipe_is_no_truncation(tmp_path, size):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(0.1), 16000)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert inspect(parse_source(str(path), "utt"), "utt").frames == 1600


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff", "au", "w64", "rf64", "mp3", "ogg"])
def test_truncated_files_are_found(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    soundfile.write(path, tone(2.0), 16000)
    whole = parse_source(str(path), "utt")
    assert inspect(whole, "utt").frames == pytest.approx(32000, abs=3000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(UserError, match=r"utt: .*x"):
        inspect(whole, "utt")


def test_a_truncated_sphere_file_is_found(tmp_path):
    header = (
        b"NIST_1A\n   1024\nsample_count -i 1600\nsample_rate -i 16000\nsample_n_bytes -i 2\n"
        b"sample_byte_format -s2 01\nchannel_count -i 1\nsample_coding -s3 pcm\nend_head\n"
    ).ljust(1024)
    path = tmp_path / "x.sph"
    path.write_bytes(header + tone(0.1).tobytes())
    source = parse_source(str(path), "utt")
    assert inspect(source, "utt").frames == 1600
    np.testing.assert_array_equal(read(source, "utt")[0], tone(0.1))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"utt: .*truncated"):
        inspect(source, "utt")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_found(tmp_path, bad):
    wave = (tone(1.0) / 32768).astype(np.float32)
    wave[7777] = bad
    soundfile.write(tmp_path / "x.wav", wave, 16000, "FLOAT")
    with pytest.raises(UserError, match=r"utt: .*not finite"):
        inspect(parse_source(str(tmp_path / "x.wav"), "utt"), "utt")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "0 bytes"), (b"no audio at all", "no audio that libsndfile")],
)
def test_unusable_files_name_the_utterance(tmp_path, content, message):
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"utt: .*{message}"):
        inspect(parse_source(str(path), "utt"), "utt")


def test_a_file_without_samples_is_an_error(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    with pytest.raises(UserError, match=r"holds no samples"):
        inspect(parse_source(str(tmp_path / "x.wav"), "utt"), "utt")


def frequency(wave, rate):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return np.argmax(spectrum) * rate / len(wave)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
@pytest.mark.parametrize(("rate", "new_rate"), [(16000, 16000), (8000, 16000), (44100, 16000)])
def test_resampling_keeps_the_pitch_and_speed_raises_it(rate, new_rate, speed):
    wave = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    got = change_rate(wave, rate, new_rate, speed)
    assert len(got) == pytest.approx(new_rate / speed, abs=1)
    assert frequency(got, new_rate) == pytest.approx(440 * speed, abs=1.5)
    assert np.abs(got).max() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "GSM610"),
        ("WAV", "G721_32"),
        ("AU", "G723_24"),
        ("WAV", "NMS_ADPCM_16"),
        ("WAV", "IMA_ADPCM"),
        ("SDS", "PCM_16"),
    ],
)
def test_codecs_of_which_the_length_is_not_known_are_read(tmp_path, kind, subtype):
    path = tmp_path / "x"
    wave = tone(1.0, 8000, 1).astype(np.float64) / 32768
    with soundfile.SoundFile(path, "w", 8000, 1, subtype, format=kind) as file:
        file.write(wave)
    source = parse_source(str(path), "u")
    info = inspect(source, "u")
    whole, rate = read(source, "u")
    assert info.frames == len(whole) and 8000 <= len(whole) < 8400 and rate == 8000
    assert np.corrcoef(whole[:8000], wave)[0, 1] > 0.9
    part, _ = read(source, "u", 0.25, 0.5)
    assert np.array_equal(part, whole[2000:4000])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_streamed_wav_is_read_or_named(tmp_path, size):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(0.5, 8000, 1), 8000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    source = parse_source(str(path), "u")
    if not size:
        with pytest.raises(UserError, match="holds no samples by its header, but 8044 bytes"):
            inspect(source, "u")
        return
    assert inspect(source, "u").frames == len(read(source, "u")[0]) == 4000


@pytest.mark.parametrize("entry", ["wav.ark:18", "wav.ark:18[0:9]", "x.wav[0:9]"])
def test_a_place_in_an_archive_is_named(tmp_path, entry):
    with pytest.raises(UserError, match="is a place in a Kaldi archive, or a range") as caught:
        inspect(parse_source(str(tmp_path / entry), "u"), "u")
    assert "segments" in caught.value.hint
