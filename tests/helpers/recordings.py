"""Audio files of a user."""

import numpy as np
import pytest
import soundfile

from tests.helpers.data_dirs import tone


@pytest.fixture
def audio(tmp_path, monkeypatch):
    """Four files: FLAC, Ogg, float WAV at 44.1 kHz, and a stereo one whose right side is silent."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my audio"
    folder.mkdir()
    for number, (name, rate) in enumerate(
        [("a 1.flac", 16000), ("b.ogg", 48000), ("c.wav", 44100), ("d.wav", 8000)]
    ):
        wave = tone(1.0 + number / 10, rate, number).astype(np.float64) / 32768
        if name == "d.wav":
            wave = np.stack([wave, np.zeros_like(wave)], axis=1)
        soundfile.write(folder / name, wave, rate, **({"subtype": "FLOAT"} if number == 2 else {}))
    return folder
