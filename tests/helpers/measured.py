"""Measured data sets of any size, with the words and letters of read English."""

from dataclasses import replace
from typing import Any

from espnet_spike.advice.measure import Measured


def speech(hours: float, dims: int = 80, **changes: Any) -> Measured:
    """Return so many hours of speech in utterances of four seconds."""
    seconds = 3600 * hours
    measured = Measured(
        seconds=seconds,
        utterances=max(round(seconds / 4), 1),
        speakers=10,
        words=round(2.7 * seconds),
        letters=round(12 * seconds),
        alphabet=27,
        ideographic=False,
        dims=dims,
        lengths=(1.5, 2.0, 2.5, 3.0, 4.0, 4.5, 5.0, 6.0, 7.0),
        longest=9.0,
        rates=(16000,),
    )
    return replace(measured, **changes)
