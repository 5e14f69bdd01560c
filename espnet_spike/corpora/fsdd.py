"""Connected digits from the Free Spoken Digit Dataset.

The corpus holds isolated digits, ``{digit}_{speaker}_{index}.wav``, 8 kHz, six speakers. Three to
six digits of one speaker are joined with short gaps of low noise.

================  =======================================  ====================================
set               recordings                               use of a recording
================  =======================================  ====================================
``train``         5 to 49 of george, jackson, nicolas,     recurs in random combinations
                  yweweler
``test_seen``     0 to 4 of the same four (the corpus's    once
                  own test split)
``dev``           all of lucas                             once
``test``          all of theo                              once
================  =======================================  ====================================

Run in the recipe folder: ``../../.venv/bin/python -m espnet_spike.corpora.fsdd``.
"""

import logging
import random
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_spike.corpora.download import download, extract
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, SEED, Parser, run
from espnet_spike.utils.files import name_some, new_folder, plural, write_table

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("fsdd")

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
TRAIN_SPEAKERS = ("george", "jackson", "nicolas", "yweweler")
DEV_SPEAKER, TEST_SPEAKER = "lucas", "theo"
RECORDINGS = 50  # of each digit by each speaker
HELD_BACK = 5  # of them, the first, in the corpus's own test split
SHORTEST, LONGEST = 3, 6  # digits an utterance
RATE = 8000  # Hz
GAP = (0.05, 0.20)  # seconds before, between and after digits
NOISE = 2.0  # standard deviation in int16 units: digital silence would give frames at log(epsilon)


@dataclass(frozen=True, order=True)
class Recording:
    """One isolated digit."""

    speaker: str
    digit: int
    index: int

    @property
    def name(self) -> str:
        """File name without its ending."""
        return f"{self.digit}_{self.speaker}_{self.index}"


@dataclass(frozen=True)
class Utterance:
    """Digits to be joined."""

    name: str
    recordings: tuple[Recording, ...]

    @property
    def words(self) -> str:
        """The transcript."""
        return " ".join(WORDS[recording.digit] for recording in self.recordings)


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description="Prepare FSDD: data/train, data/dev, data/test, data/test_seen.")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--downloads", type=Path, default=Path("downloads"), help="download here")
    parser.add_argument(
        "--corpus_dir",
        type=Path,
        help="a copy of the corpus instead of a download: its folder or the recordings folder",
    )
    parser.add_argument("--train_utterances", type=COUNT, default=1500, help="size of train")
    parser.add_argument("--seed", type=SEED, default=0, help="of the combinations and gaps")
    return parser


def all_recordings(speakers: Sequence[str], indices: range) -> list[Recording]:
    """Return the recordings of some speakers, all digits, sorted."""
    return sorted(Recording(s, d, i) for s in speakers for d in range(10) for i in indices)


def draw_lengths(total: int, rng: random.Random) -> list[int]:
    """Cut ``total`` recordings into random utterance lengths, none left over.

    >>> sum(draw_lengths(500, random.Random(0)))
    500
    """
    lengths = []
    while total:
        # after this utterance there must be none or at least the shortest one left
        fitting = [n for n in range(SHORTEST, LONGEST + 1) if n == total or total - n >= SHORTEST]
        lengths.append(rng.choice(fitting))
        total -= lengths[-1]
    return lengths


def compose(set_name: str, recordings: list[Recording], seed: int) -> list[Utterance]:
    """Join each recording into exactly one utterance of its speaker, in random order."""
    utterances = []
    for speaker in sorted({recording.speaker for recording in recordings}):
        rng = random.Random(f"{seed}/{set_name}/{speaker}")
        deck = [recording for recording in recordings if recording.speaker == speaker]
        rng.shuffle(deck)
        for number, length in enumerate(draw_lengths(len(deck), rng)):
            chosen, deck = tuple(deck[:length]), deck[length:]
            utterances.append(Utterance(f"{speaker}-{set_name}-{number:04d}", chosen))
    return utterances


def compose_train(recordings: list[Recording], count: int, seed: int) -> list[Utterance]:
    """Join recordings into ``count`` utterances, spread evenly over the speakers.

    A speaker's recordings are dealt like a pack of cards that is shuffled anew when it is used
    up, so all of them occur about equally often.
    """
    utterances = []
    speakers = sorted({recording.speaker for recording in recordings})
    for place, speaker in enumerate(speakers):
        rng = random.Random(f"{seed}/train/{speaker}")
        own = [recording for recording in recordings if recording.speaker == speaker]
        deck: list[Recording] = []
        for number in range(len(range(place, count, len(speakers)))):
            chosen: list[Recording] = []
            for _ in range(rng.randint(SHORTEST, LONGEST)):
                if not deck:
                    deck = rng.sample(own, len(own))
                chosen.append(deck.pop())
            utterances.append(Utterance(f"{speaker}-train-{number:04d}", tuple(chosen)))
    return utterances


def compose_sets(train_utterances: int, seed: int) -> dict[str, list[Utterance]]:
    """Return the utterances of all four sets."""
    late, early = range(HELD_BACK, RECORDINGS), range(HELD_BACK)
    unseen = range(RECORDINGS)
    return {
        "train": compose_train(all_recordings(TRAIN_SPEAKERS, late), train_utterances, seed),
        "dev": compose("dev", all_recordings([DEV_SPEAKER], unseen), seed),
        "test": compose("test", all_recordings([TEST_SPEAKER], unseen), seed),
        "test_seen": compose("test_seen", all_recordings(TRAIN_SPEAKERS, early), seed),
    }


def join(utterance: Utterance, waves: dict[Recording, "np.ndarray"], seed: int) -> "np.ndarray":
    """Return the audio of an utterance: gaps before, between and after its digits, noise over all.

    Levels are left as they are: two speakers are 14 dB quieter than the others.

    Args:
        utterance: what to join.
        waves: samples ``(N,)`` int16 of each recording.
        seed: of gaps and noise, which also depend on the utterance's name.

    Returns:
        Samples ``(N,)`` int16 at 8 kHz.
    """
    import numpy as np

    rng = np.random.default_rng([seed, zlib.crc32(utterance.name.encode())])
    gaps = rng.uniform(*GAP, size=len(utterance.recordings) + 1)
    parts = [np.zeros(round(gaps[0] * RATE))]
    for recording, gap in zip(utterance.recordings, gaps[1:], strict=True):
        parts += [waves[recording], np.zeros(round(gap * RATE))]
    wave = np.concatenate(parts)
    wave += rng.normal(0.0, NOISE, size=len(wave))
    return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)


def find_recordings(corpus_dir: Path) -> Path:
    """Return the folder with the recordings.

    Raises:
        UserError: it is not there, or recordings are missing.
    """
    for folder in (corpus_dir / "recordings", corpus_dir):
        if any(folder.glob("*_*_*.wav")):
            break
    else:
        raise UserError(
            f"{corpus_dir}: no FSDD recordings ({{digit}}_{{speaker}}_{{index}}.wav)",
            "--corpus_dir takes the corpus folder or its recordings folder",
        )
    speakers = (*TRAIN_SPEAKERS, DEV_SPEAKER, TEST_SPEAKER)
    names = [recording.name for recording in all_recordings(speakers, range(RECORDINGS))]
    missing = [name for name in names if not (folder / f"{name}.wav").is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {plural(len(names), 'recording')} missing: "
            f"{name_some(missing)}",
            "version 1.0.10 or later of the corpus is needed",
        )
    return folder


def read_recording(path: Path) -> "np.ndarray":
    """Return the samples ``(N,)`` int16 of a recording.

    Raises:
        UserError: unreadable, or not mono at 8 kHz.
    """
    import soundfile

    try:
        wave, rate = soundfile.read(path, dtype="int16")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read: {error}", "fetch the corpus again") from error
    if rate != RATE or wave.ndim != 1 or not len(wave):
        raise UserError(f"{path}: expected mono audio at {RATE} Hz, got {wave.shape} at {rate} Hz")
    return wave


def prepare(recordings: Path, data_dir: Path, train_utterances: int, seed: int) -> None:
    """Write the four data directories, their audio under ``data_dir/wav``.

    ``utt2recordings`` in each says what an utterance was joined from.
    """
    import soundfile
    from tqdm import tqdm

    sets = compose_sets(train_utterances, seed)
    used = {recording for utts in sets.values() for utt in utts for recording in utt.recordings}
    waves = {recording: read_recording(recordings / f"{recording.name}.wav") for recording in used}
    audio = data_dir / "wav"
    with new_folder(audio) as staging:
        for name, utterances in sets.items():
            (staging / name).mkdir()
            for utterance in tqdm(utterances, desc=name, unit="utt", delay=1):
                wave = join(utterance, waves, seed)
                soundfile.write(staging / name / f"{utterance.name}.wav", wave, RATE, "PCM_16")
        shutil.rmtree(audio, ignore_errors=True)
    for name, utterances in sets.items():
        data = DataDir(
            wav={utt.name: str(audio / name / f"{utt.name}.wav") for utt in utterances},
            text={utt.name: utt.words for utt in utterances},
            utt2spk={utt.name: utt.recordings[0].speaker for utt in utterances},
        )
        data.write(data_dir / name)
        joined = {utt.name: " ".join(rec.name for rec in utt.recordings) for utt in utterances}
        write_table(data_dir / name / "utt2recordings", joined)
        logger.info(
            "%s: %s, %s of %s",
            data_dir / name,
            plural(len(utterances), "utterance"),
            plural(sum(len(utt.recordings) for utt in utterances), "word"),
            ", ".join(sorted(set(data.utt2spk.values()))),
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.train_utterances < len(TRAIN_SPEAKERS):
        parser.error(f"--train_utterances must be at least {len(TRAIN_SPEAKERS)}")
    corpus = args.corpus_dir
    if corpus is None:
        archive = download(
            URL,
            args.downloads / "free-spoken-digit-dataset-1.0.10.tar.gz",
            hint="fetch it elsewhere (15 MB), unpack it and give --corpus_dir DIR",
        )
        corpus = extract(archive, args.downloads / "fsdd", strip=1)
    prepare(find_recordings(corpus), args.data_dir, args.train_utterances, args.seed)


if __name__ == "__main__":
    run(main)
