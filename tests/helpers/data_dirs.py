"""Small data directories for tests."""

from pathlib import Path

import numpy as np
import soundfile

from espnet_spike.data.kaldi_dir import DataDir


def tone(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Return noise with a hum in it, int16."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wave = 3000 * np.sin(2 * np.pi * 200 * time) + 500 * rng.standard_normal(len(time))
    return wave.astype(np.int16)


def make_data_dir(path: Path, lengths: dict[str, float], rate: int = 16000) -> DataDir:
    """Write a data directory with an utterance of each length in seconds, two speakers."""
    audio = path.parent / f"{path.name} audio"  # the space is on purpose
    audio.mkdir(parents=True, exist_ok=True)
    data = DataDir()
    for number, (utt, seconds) in enumerate(lengths.items()):
        file = audio / f"{utt}.wav"
        soundfile.write(file, tone(seconds, rate, number), rate)
        data.wav[utt] = str(file)
        data.text[utt] = f"WORD {'ABCDEFGHIJ'[number % 10]}"
        data.utt2spk[utt] = f"speaker{number % 2}"
    data.write(path)
    return data
