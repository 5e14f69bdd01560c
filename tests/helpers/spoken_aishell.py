"""Make a corpus in the layout of AISHELL-1 out of synthetic speech, to run its recipe without it.

    python -m tests.helpers.spoken_aishell DIR &&
      egs/aishell/run.sh --corpus_dir DIR/data_aishell ...

Needs espeak-ng, which speaks Mandarin (``apt install espeak-ng``). Speakers differ in pitch, speed
and voice; each lies packed in ``wav/S0002.tar.gz``, as published.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from espnet_spike.corpora.aishell import TRANSCRIPT
from espnet_spike.data.audio import change_rate

RATE = 16000
SPEAKERS = {
    "train": ["S0002", "S0003", "S0004", "S0005", "S0006", "S0007", "S0008", "S0009"],
    "dev": ["S0724", "S0725"],
    "test": ["S0764", "S0765"],
}
VOICES = ("cmn", "cmn+f2", "cmn+m3", "cmn+f4")
SUBJECTS = "我们 今天 他 北京 公司 市场 学校 医生 上海 政府".split()
VERBS = "需要 发展 看到 研究 支持 希望 买 卖 认识 提高".split()
OBJECTS = "楼市 成交 经济 问题 电影 汽车 房子 孩子 音乐 价格".split()


def sentence(random_: random.Random) -> str:
    """Return a sentence whose words are apart, as the transcripts of the corpus are."""
    return " ".join(random_.choice(words) for words in (SUBJECTS, VERBS, OBJECTS))


def speak(text: str, voice: str, pitch: int, speed: int, path: Path) -> None:
    """Write ``text`` as speech, 16 kHz mono, 16 bits."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(path)]
    subprocess.run([*command, text], check=True)
    wave, rate = soundfile.read(path, dtype="float32")
    wave = change_rate(wave * 2**15, rate, RATE)
    soundfile.write(path, np.clip(np.round(wave), -(2**15), 2**15 - 1).astype(np.int16), RATE)


def make(target: Path, utterances: int) -> Path:
    """Write the corpus of that many utterances a speaker; return ``target/data_aishell``."""
    corpus = target / "data_aishell"
    random_ = random.Random(0)
    lines = []
    (corpus / "wav").mkdir(parents=True)
    number = 0
    for name, speakers in SPEAKERS.items():
        for speaker in speakers:
            voice, pitch, speed = (
                VOICES[number % 4],
                random_.randint(20, 80),
                130 + 10 * (number % 5),
            )
            number += 1
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch, name, speaker)
                folder.mkdir(parents=True)
                for count in range(utterances):
                    utt = f"BAC009{speaker}W{122 + count:04d}"
                    text = sentence(random_)
                    speak(text.replace(" ", ""), voice, pitch, speed, folder / f"{utt}.wav")
                    lines.append(f"{utt} {text}\n")
                with tarfile.open(corpus / "wav" / f"{speaker}.tar.gz", "w:gz") as tar:
                    tar.add(folder, f"{name}/{speaker}")
    transcript = corpus / TRANSCRIPT
    transcript.parent.mkdir()
    transcript.write_text("".join(lines), encoding="utf-8")
    return corpus


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="folder, to be made")
    parser.add_argument("--utterances", type=int, default=12, help="of each of the 12 speakers")
    args = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit("error: espeak-ng is not installed\n  hint: apt install espeak-ng")
    print(make(args.target, args.utterances))


if __name__ == "__main__":
    main()
