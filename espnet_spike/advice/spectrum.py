"""Recognise by their statistics what features are, so that vocal tracts can be warped in them.

Features come without a word on how they were made. Neighbouring filters of a log-mel spectrum say
nearly the same, coefficients of its cosine transform nothing of each other; Kaldi's lifter makes
high coefficients as large as low ones; and the mean over the filters is smaller than the sum.
Transforms that are learnt (LDA, fMLLR, bottlenecks) are uncorrelated and slow too, but have neither
the level in the first dim, nor dims that change the faster the higher they are at the scale of
logarithms. The limits are ours, set halfway between what speech at 8 and 16 kHz gives under each
convention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espnet_spike.errors import UserError

LOG_MEL = "log mel"
CONVENTIONS: dict[str, dict[str, Any]] = {  # options of nn.augmentation.Spectrum
    LOG_MEL: {"kind": "log_mel"},
    "cepstra as Kaldi makes them": {"kind": "cepstra"},
    "cepstra as Sphinx makes them": {
        **{"kind": "cepstra", "num_mel_bins": 40, "dct": "mean", "lifter": 0},
        **{"low_freq": 130, "high_freq": 6800},
    },
    "cepstra as torchaudio makes them": {
        **{"kind": "cepstra", "num_mel_bins": 40, "dct": "ortho", "lifter": 0, "low_freq": 0},
    },
}
_KALDI, _SPHINX, _TORCHAUDIO = list(CONVENTIONS)[1:]
SAID = "said by --features"
GIVEN = ("mel", "cepstra", "other")  # what a user can say of features
# numbers of either; 39 or 83 dims, say, hold deltas or pitch, and 12 cepstra may lack the 0th
FILTERS = (23, 24, 26, 40, 64, 80, 96, 128)
COEFFICIENTS = (13, 20, 40)
ALIKE, APART = 0.7, 0.4  # mean correlation of neighbours: 0.85 and more of filters, 0.26 at most
NEARER = 0.05  # neighbours correlate by 0.11 more than filters half of the spectrum apart
LIFTERED = 0.5  # coefficients 9 to 11 by 1 to 3: 0.8 with Kaldi's lifter, 0.3 without
LARGE = 6.0  # deviation of Kaldi's coefficients 1 to 3: 14, in natural logarithms; 1 to 3 of fMLLR
LEVEL = 2.0  # the 0th, which is the level, by 1 to 3, without lifter: 5 and more
SUMMED = 0.35  # deviation of coefficients 9 to 11: 0.8 and more of a sum, 0.15 of a mean
NORMALISED = 0.2  # deviations this near to 1 were made so
SLOW = 0.3  # correlation with the frame before: 0.6 and more of speech, 0 of noise
FASTER = 0.05  # coefficients 9 to 11 less than 1 to 3: 0.14 and more; 0 of a random walk


@dataclass(frozen=True)
class Guess:
    """What features seem to be.

    Attributes:
        convention: a key of ``CONVENTIONS``; None: of another kind, or it is not certain.
        grounds: what that rests on.
    """

    convention: str | None
    grounds: str


def recognise(matrices: Sequence[np.ndarray], given: str | None = None) -> Guess:
    """Return the convention that features follow; what is not certain counts as another one.

    Args:
        matrices: ``(T, D)`` each, of some utterances.
        given: what is known of them, one of ``GIVEN``: of cepstra, which ones is left to see.

    Raises:
        UserError: too few dims for what is given.
    """
    frames = np.concatenate([m - m.mean(0) for m in matrices]).astype(np.float64)
    dims, deviation = frames.shape[1], frames.std(0)
    if given == "other":
        return Guess(None, SAID)
    if given == "mel":
        return Guess(LOG_MEL, SAID)
    if given == "cepstra":
        if dims < 12:
            raise UserError(
                f"--features cepstra: {dims} dims are too few to see how they were made",
                "say --features other, and add augment: features to the configuration yourself",
            )
        found = _cepstra(deviation)
        return Guess(found, "cepstra said by --features, which ones by the size of their dims")
    if dims not in {*FILTERS, *COEFFICIENTS}:
        return Guess(None, "not as many dims as filters or cepstra are used to have")
    if not deviation.all():
        return Guess(None, "a dim is constant")
    if np.abs(deviation - 1).max() < NORMALISED:
        return Guess(None, "all dims are scaled to a deviation of 1")
    lag = (frames[1:] * frames[:-1]).mean(0) / deviation**2
    if (frames[1:] * frames[:-1]).mean() < SLOW * (frames**2).mean():
        return Guess(None, "a frame says nothing of the next, as it does in speech")
    near = _correlation(frames, deviation, 1)
    if dims in FILTERS and near.mean() > ALIKE:
        far = _correlation(frames, deviation, dims // 2).mean()
        said = f"neighbouring dims correlate by {near.mean():.2f}, distant ones by {far:.2f}"
        return Guess(LOG_MEL if near.mean() - far > NEARER else None, said)
    apart = np.abs(near).mean()
    if dims not in COEFFICIENTS or apart > APART:
        said = f"neighbouring dims correlate by {near.mean():.2f}"
        return Guess(None, f"{said}, those of log mel by more than {ALIKE:g}")
    low, high = lag[1:4].mean(), lag[9:12].mean()
    said = (
        f"dims correlate by {apart:.2f}, from frame to frame by {low:.2f} and high ones {high:.2f}"
    )
    if low - high < FASTER:
        return Guess(None, f"{said}: high cepstra change faster")
    found = _cepstra(deviation)
    if found == _KALDI and deviation[1:4].mean() < LARGE:
        return Guess(None, f"{said}, and are too small for cepstra")
    if found != _KALDI and deviation[0] < LEVEL * deviation[1:4].mean():
        return Guess(None, f"{said}, and the first is not the level")
    return Guess(found, said)


def _cepstra(deviation: np.ndarray) -> str:
    """Return the convention of cepstra, by the deviations ``(D,)`` of their dims."""
    high = deviation[9:12].mean()
    if high > LIFTERED * deviation[1:4].mean():
        return _KALDI
    return _TORCHAUDIO if high > SUMMED else _SPHINX


def _correlation(frames: np.ndarray, deviation: np.ndarray, distance: int) -> np.ndarray:
    """Return the correlations of dims of ``frames`` ``(T, D)`` that are ``distance`` apart."""
    products = (frames[:, distance:] * frames[:, :-distance]).mean(0)
    return products / (deviation[distance:] * deviation[:-distance])


def spectrum_options(convention: str, dims: int, rate: int | None) -> dict[str, Any]:
    """Return ``features`` of ``model_conf.augment``.

    Args:
        convention: a key of ``CONVENTIONS``.
        dims: D.
        rate: sampling rate of the audio in Hz; None: not known, then 16 kHz.
    """
    options = dict(CONVENTIONS[convention])
    if rate is not None:
        options["fs"] = rate
    if options["kind"] == "cepstra" and dims > options.get("num_mel_bins", 23):
        options["num_mel_bins"] = dims  # as of Kaldi's mfcc_hires.conf
    return options
