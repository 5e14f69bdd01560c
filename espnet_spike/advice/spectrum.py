"""Recognise by their statistics what features are, so that vocal tracts can be warped in them.

Features come without a word on how they were made. Neighbouring filters of a log-mel spectrum say
nearly the same, coefficients of its cosine transform nothing of each other; Kaldi's lifter makes
high coefficients as large as low ones; and the mean over the filters is smaller than the sum. The
limits are ours, set halfway between what speech at 8 and 16 kHz gives under each convention.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

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
# numbers of either; 39 or 83 dims, say, hold deltas or pitch besides
FILTERS = (23, 24, 26, 40, 64, 80, 96, 128)
COEFFICIENTS = (12, 13, 20, 40)
ALIKE, APART = 0.7, 0.4  # mean correlation of neighbours: 0.85 and more of filters, 0.26 at most
LIFTERED = 0.5  # coefficients 9 to 11 by 1 to 3: 0.8 with Kaldi's lifter, 0.3 without
SUMMED = 0.35  # deviation of coefficients 9 to 11: 0.8 and more of a sum, 0.15 of a mean
NORMALISED = 0.2  # deviations this near to 1 were made so
SLOW = 0.3  # correlation with the frame before: 0.6 and more of speech, 0 of noise


def recognise(matrices: Sequence[np.ndarray]) -> str | None:
    """Return the convention that features follow, a key of ``CONVENTIONS``; None: no known one.

    Args:
        matrices: ``(T, D)`` each, of some utterances.
    """
    frames = np.concatenate([m - m.mean(0) for m in matrices]).astype(np.float64)
    dims, deviation = frames.shape[1], frames.std(0)
    if dims < min(COEFFICIENTS) or not deviation.all():
        return None
    if np.abs(deviation - 1).max() < NORMALISED:
        return None
    pairs = (frames[:, 1:] * frames[:, :-1]).mean(0) / (deviation[1:] * deviation[:-1])
    if dims in FILTERS and pairs.mean() > ALIKE:
        return LOG_MEL
    if dims not in COEFFICIENTS or np.abs(pairs).mean() > APART:
        return None
    if (frames[1:] * frames[:-1]).mean() < SLOW * (frames**2).mean():
        return None
    high = deviation[9:12].mean()
    if high > LIFTERED * deviation[1:4].mean():
        return _KALDI
    return _TORCHAUDIO if high > SUMMED else _SPHINX


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
