"""What the numbers of a beam search may be: checked before anything is decoded.

ESPnet takes any of them. A beam of as many tokens as there are, or of none, finds nothing, and a
weight outside [0, 1] rewards what the model holds for wrong: the hypotheses look like silence.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from espnet_spike.errors import UserError


class Bounds(NamedTuple):
    """What a number may be, ESPnet's default, and how to say it."""

    low: float
    high: float
    default: float
    said: str
    whole_below_zero: bool = False


_LENGTH = "a share of the encoder's frames, or a whole number below zero for that many tokens"
BOUNDS = {
    "beam_size": Bounds(1, math.inf, 20, "a whole number from 1 up"),
    "nbest": Bounds(1, math.inf, 1, "a whole number from 1 up"),
    "ctc_weight": Bounds(0, 1, 0.5, "a number in [0, 1]"),
    "ctc_window_margin": Bounds(0, math.inf, 100, "a whole number from 0 up"),
    "lm_weight": Bounds(0, math.inf, 1, "a number from 0 up"),
    "ngram_weight": Bounds(0, math.inf, 0.9, "a number from 0 up"),
    "penalty": Bounds(-math.inf, math.inf, 0, "a finite number"),
    "maxlenratio": Bounds(0, math.inf, 0, _LENGTH, whole_below_zero=True),
    "minlenratio": Bounds(0, 1, 0, f"{_LENGTH}, in [0, 1]", whole_below_zero=True),
}


def search_values(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, float]:
    """Return the numbers of a search: of the configuration, with the options over it.

    What is no number is left to ESPnet's parser, whose message names the option.
    """
    given: dict[str, Any] = dict(config)
    for word, following in itertools.zip_longest(words, words[1:]):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given[name[2:]] = value if equals else following
    found = {}
    for key, bounds in BOUNDS.items():
        try:
            value = given.get(key, bounds.default)
            found[key] = bounds.default if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found[key] = bounds.default
    return found


def check_search_values(config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Check the numbers of a search.

    Raises:
        UserError: one that no search can do with; names all of them.
    """
    values = search_values(config, words)
    problems = [
        f"{key} is {values[key]:g}, but must be {bounds.said}"
        for key, bounds in BOUNDS.items()
        if not _allowed(values[key], bounds)
    ]
    shortest, longest = values["minlenratio"], values["maxlenratio"]
    if not problems and longest and (shortest < 0) == (longest < 0):
        if abs(shortest) > abs(longest):
            problems.append(f"minlenratio {shortest:g} asks for more than maxlenratio {longest:g}")
    if problems:
        raise UserError("beam search: " + "; ".join(problems))


def _allowed(value: float, bounds: Bounds) -> bool:
    if not math.isfinite(value):
        return False
    if bounds.whole_below_zero and value <= -1 and value == int(value):
        return True
    return bounds.low <= value <= bounds.high


def largest_beam(tokens: int) -> int:
    """Return the largest beam for a vocabulary: any token but ``<blank>`` can come first."""
    return max(tokens - 1, 1)
