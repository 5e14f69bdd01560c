"""Measure a data set: what the size of a training follows from."""

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from espnet_spike.advice.spectrum import LOG_MEL, Guess, recognise
from espnet_spike.data.ark import ArkReader
from espnet_spike.data.audio import AudioInfo
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.files import plural

FRAME_RATE = 100  # a second, of features: Kaldi's frame shift of 10 ms
FILTERS = 80  # of conf/fbank.yaml
LETTERS_A_SECOND = 15  # of read speech, to guess the length of what cannot be opened
DECILES = 10
SAMPLE = 50  # utterances to recognise features by

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What the size of a training follows from.

    Attributes:
        seconds: of speech in the training set.
        utterances, speakers: of the training set.
        words, letters: of its transcripts; letters without spaces.
        alphabet: different letters.
        ideographic: most letters are ideographs, which no space parts into words.
        dims: feature dimension.
        lengths: of utterances in seconds, the nine deciles.
        longest: utterance in seconds.
        rates: sampling rates in Hz; empty of features.
        convention: how the features are made, see `recognise`; None: not known.
        grounds: what that rests on; empty of audio, whose features are made here.
    """

    seconds: float
    utterances: int
    speakers: int
    words: int
    letters: int
    alphabet: int
    ideographic: bool
    dims: int
    lengths: tuple[float, ...]
    longest: float
    rates: tuple[int, ...] = ()
    convention: str | None = LOG_MEL
    grounds: str = ""

    @property
    def hours(self) -> float:
        """Hours of speech."""
        return self.seconds / 3600

    @property
    def units_a_second(self) -> float:
        """Letters and spaces in a second of speech, which tokens are at most."""
        return (self.letters + (0 if self.ideographic else self.words)) / self.seconds


def measure(
    data: DataDir, recordings: Mapping[str, AudioInfo], features: str | None = None
) -> Measured:
    """Measure a training set.

    Args:
        data: its tables.
        recordings: by value of ``wav.scp``, what the headers say. A recording that is missing, for
            a command makes it, counts with the length that its transcript lets expect.
        features: what is known of features that come without audio, see `recognise`.

    Raises:
        UserError: features of different dimensions, or unreadable ones.
    """
    texts = data.text.values()
    letters = "".join(letter for text in texts for letter in text if not letter.isspace())
    if data.feats:
        lengths, dims, guess = _look_at_features(data, features)
        rates: set[int] = set()
    else:
        lengths, dims, guess = _audio_lengths(data, recordings), FILTERS, Guess(LOG_MEL, "")
        rates = {info.rate for info in recordings.values()}
    ideographs = sum("\u2e80" <= letter <= "\u9fff" for letter in letters)
    values = list(lengths.values())
    deciles = statistics.quantiles(values, n=DECILES) if len(values) > 1 else values
    return Measured(
        seconds=sum(values),
        utterances=len(values),
        speakers=len(set(data.utt2spk.values())),
        words=sum(len(text.split()) for text in texts),
        letters=len(letters),
        alphabet=len(set(letters)),
        ideographic=ideographs > len(letters) / 2,
        dims=dims,
        lengths=tuple(min(max(value, min(values)), max(values)) for value in deciles),
        longest=max(values),
        rates=tuple(sorted(rates)),
        convention=guess.convention,
        grounds=guess.grounds,
    )


def _look_at_features(data: DataDir, features: str | None) -> tuple[dict[str, float], int, Guess]:
    """Return lengths in seconds, the dimension, and what the features seem to be."""
    lengths, dims = {}, {}
    with ArkReader() as reader:
        for utt, entry in data.feats.items():
            frames, size = reader.shape(utt, entry)
            lengths[utt] = frames / FRAME_RATE
            dims.setdefault(size, utt)
    if len(dims) > 1:
        some = ", ".join(f"{utt} has {size}" for size, utt in dims.items())
        raise UserError(
            f"the feature dimension differs: {some}", "features of a set are made alike"
        )
    sample = [*data.feats][:: max(len(data.feats) // SAMPLE, 1)]
    with ArkReader() as reader:
        matrices = [reader.read_matrix(utt, data.feats[utt]) for utt in sample]
    return lengths, next(iter(dims)), recognise(matrices, features)


def _audio_lengths(data: DataDir, recordings: Mapping[str, AudioInfo]) -> dict[str, float]:
    lengths, guessed = {}, 0
    for utt, text in data.text.items():
        segment = data.segments.get(utt)
        info = recordings.get(data.wav[segment.recording if segment else utt])
        if segment and segment.end != -1:
            seconds = segment.end - segment.start
        elif info is not None:
            seconds = info.duration - (segment.start if segment else 0.0)
        else:
            seconds, guessed = len(text) / LETTERS_A_SECOND, guessed + 1
        lengths[utt] = seconds / data.utt2speed.get(utt, 1.0)
    if guessed:
        _logger.warning(
            "no length is known of %s, for commands in wav.scp make them; "
            "guessed by transcripts of %d letters each second",
            plural(guessed, "utterance"),
            LETTERS_A_SECOND,
        )
    return lengths
