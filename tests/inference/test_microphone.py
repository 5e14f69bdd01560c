"""A microphone, with a faked sounddevice: what is said is transcribed, live if it can be."""

import os
import re
import signal
import sys
import threading
import types

import numpy as np
import pytest

from espnet_spike.bin import transcribe
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.errors import UserError
from espnet_spike.inference import microphone as module
from espnet_spike.inference.microphone import Microphone, until_interrupted
from tests.helpers.untrained import untrained_experiment

CONF = {
    **{"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1},
    **{"d_state": 8, "conv_channels": 8, "pos_enc": "none", "attention_window": [5, 0]},
}
FS = 8000


def spoken(seconds, seed=0):
    """Return noise whose level and colour change, int16."""
    g = np.random.default_rng(seed)
    count = round(seconds * FS)
    level = np.repeat(g.uniform(1, 900, count // 400 + 1), 400)[:count]
    wave = np.cumsum(g.standard_normal(count) * level) * g.choice([-1, 1], count)
    return (wave / np.abs(wave).max() * 20000).astype(np.int16)


class Status:
    def __init__(self, input_overflow):
        self.input_overflow = input_overflow


class FakeSounddevice(types.ModuleType):
    """One input of ``rate`` Hz that says ``wave`` from a thread, then calls ``after``."""

    class PortAudioError(Exception):
        pass

    def __init__(self, wave, rate=FS, after=lambda: None, overflow=False):
        super().__init__("sounddevice")
        self.wave, self.rate, self.after, self.overflow = wave, rate, after, overflow
        self.InputStream = lambda **options: Stream(self, **options)

    def query_devices(self, device=None, kind=None):
        found = {"name": "Desk", "max_input_channels": 1, "default_samplerate": float(self.rate)}
        if kind is None:
            return [{"name": "Loud", "max_input_channels": 0}, found]
        if device not in (None, 1, "Desk"):
            raise ValueError(f"No input device matching {device!r}")
        return found

    def check_input_settings(self, device, channels, dtype, extra, samplerate):
        assert (channels, dtype) == (1, "int16")
        if samplerate != self.rate:
            raise self.PortAudioError("Invalid sample rate")


class Stream:
    def __init__(self, fake, samplerate, blocksize, device, channels, dtype, callback):
        assert samplerate == fake.rate
        self.fake, self.blocksize, self.callback = fake, blocksize, callback
        self.thread = threading.Thread(target=self.say)

    def say(self):
        buffer = np.zeros((self.blocksize, 1), np.int16)  # used again, as PortAudio does
        for start in range(0, len(self.fake.wave), self.blocksize):
            part = self.fake.wave[start : start + self.blocksize]
            buffer[: len(part), 0] = part
            status = Status(self.fake.overflow and start == 0)
            self.callback(buffer[: len(part)], len(part), None, status)
        self.fake.after()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def streaming_exp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "asr_streaming"
    folder.mkdir()
    untrained_experiment(folder, "speech_mamba", CONF | {"causal": True})
    FeatureExtractor(FS, FbankConfig()).write(folder)
    (folder / "inference.yaml").write_text("beam_size: 2\nctc_weight: 1.0\n")
    return folder


def run(monkeypatch, capsys, fake, exp, *words):
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    transcribe.main(["--asr_exp", str(exp), "--search", "greedy", "--microphone", *words])
    printed = capsys.readouterr()
    shown = re.findall(r"^ +([\d.]+) s  (.*)$", printed.err, flags=re.MULTILINE)
    return printed.out, shown


def test_a_model_that_streams_prints_as_it_hears(
    monkeypatch, capsys, streaming_exp, tmp_path, caplog
):
    wave = spoken(2.0)
    fake = FakeSounddevice(wave, after=interrupt, overflow=True)
    out, shown = run(monkeypatch, capsys, fake, streaming_exp)
    name, text = out.rstrip("\n").split("\t")
    assert name == "microphone" and len(text) > 3
    assert len(shown) > 1 and all(text.startswith(part.strip()) for _, part in shown)
    assert [float(seconds) for seconds, _ in shown] == sorted(float(s) for s, _ in shown)
    assert float(shown[0][0]) < 2.0
    assert "lost samples 1 time" in caplog.text

    import soundfile

    soundfile.write(tmp_path / "same.wav", wave, FS)
    words = ["--asr_exp", str(streaming_exp), "--search", "greedy", str(tmp_path / "same.wav")]
    transcribe.main(words)
    assert capsys.readouterr().out == f"same\t{text}\n"


def test_a_recording_ends_after_some_seconds_and_other_rates_are_resampled(
    monkeypatch, capsys, streaming_exp, tmp_path
):
    wave = np.repeat(spoken(3.0), 2)
    fake = FakeSounddevice(wave, rate=2 * FS)
    words = ("--microphone_seconds", "1.5", "--microphone_device", "1", "--format", "json")
    _, shown = run(monkeypatch, capsys, fake, streaming_exp, *words, "--output_dir", str(tmp_path))
    import json

    found = json.loads((tmp_path / "microphone.json").read_text())
    assert found["seconds"] == pytest.approx(1.5, abs=0.01) and found["file"] == "Desk"
    assert found["text"] and all(float(seconds) <= 1.5 for seconds, _ in shown)


def test_a_model_that_needs_the_whole_is_given_it(monkeypatch, capsys, tmp_path, caplog):
    exp = tmp_path / "asr_whole"
    exp.mkdir()
    untrained_experiment(exp, "speech_mamba", CONF | {"attention_window": None, "causal": False})
    FeatureExtractor(FS, FbankConfig()).write(exp)
    (exp / "inference.yaml").write_text("beam_size: 2\nctc_weight: 1.0\n")
    fake = FakeSounddevice(spoken(1.0))
    out, shown = run(monkeypatch, capsys, fake, exp, "--microphone_seconds", "1")
    assert out.startswith("microphone\t") and len(out) > 14 and not shown
    assert "text comes when the recording has ended" in caplog.text


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"package sounddevice, the extra 'microphone'") as caught:
        transcribe.main(["--asr_exp", str(tmp_path), "--microphone"])
    assert "sounddevice>=" in caught.value.hint

    def no_library(name):
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(module.importlib, "import_module", no_library)
    with pytest.raises(UserError, match="does not find PortAudio") as caught:
        Microphone()
    assert "libportaudio2" in caught.value.hint


def test_devices_that_fail_are_named(monkeypatch):
    fake = FakeSounddevice(spoken(0.5))
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    with pytest.raises(UserError, match="no microphone 'Phone'") as caught:
        Microphone("Phone")
    assert "1 Desk" in caught.value.hint and "Loud" not in caught.value.hint
    monkeypatch.setattr(module, "SILENCE", 0.3)
    blocks = Microphone("Desk").blocks(FS, threading.Event())
    assert sum(len(next(blocks)) for _ in range(4)) == 4000
    with pytest.raises(UserError, match="Desk has given nothing"):
        next(blocks)

    def busy(**options):
        raise fake.PortAudioError("Device unavailable")

    fake.InputStream = busy
    with pytest.raises(UserError, match="Desk cannot be recorded: Device unavailable"):
        next(Microphone().blocks(FS, threading.Event()))


def test_the_first_interruption_ends_the_recording_and_the_second_the_program():
    before = signal.getsignal(signal.SIGINT)
    with until_interrupted() as ended:
        interrupt()
        assert ended.is_set()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--microphone", "a.wav"],
        ["a.wav", "--microphone_seconds", "3"],
        ["--microphone", "--microphone_seconds", "nan"],
        ["a.wav", "--raw_fs", "8000"],
    ],
)
def test_options_that_do_not_go_together_exit_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        transcribe.main(["--asr_exp", "exp/asr_x", *words])
    assert caught.value.code == 2 and "error:" in capsys.readouterr().err
