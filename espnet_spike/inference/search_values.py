"""What the numbers of a beam search are: checked before ESPnet is imported or anything decoded.

ESPnet takes any of them. A beam of as many tokens as there are, or of none, finds nothing, and a
weight outside [0, 1] rewards what the model holds for wrong: the hypotheses look like silence.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.ranges import DECODING, Ratio, check, check_lengths
from espnet_spike.ranges import Number as Bounds

# ESPnet's, of what is asked for here
DEFAULTS = {"beam_size": 20, "maxlenratio": 0, "minlenratio": 0}


def search_values(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of a search: of the configuration, with the options over it.

    What is no number is left to ESPnet's parser, whose message names the option.
    """
    given = DEFAULTS | given_options(config, words)
    found = dict(DEFAULTS)
    for key, bounds in DECODING.items():
        if isinstance(bounds, Bounds | Ratio) and key in given:
            value = _number(given[key])
            found |= {} if isinstance(value, str) or value is None else {key: value}
    return found


def given_options(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return what a configuration says, with the options over it, which are text."""
    given: dict[str, Any] = dict(config)
    for word, following in itertools.zip_longest(words, words[1:]):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given[name[2:]] = value if equals else following
    return given


def _number(value: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            pass
    return value


def check_search_values(config: Mapping[str, Any], words: Sequence[str], where: str = "") -> None:
    """Check the numbers of a search.

    Args:
        config: content of the inference config.
        words: options over it.
        where: the file, for messages.

    Raises:
        UserError: those that no search can do with; names all of them.
    """
    for values, place in (
        (search_values(config, []), where or "beam search"),
        (search_values(config, words), "beam search"),
    ):
        check(DECODING, values, place)
        check_lengths(values, place)


def check_idle(words: Sequence[str], lm: bool, ngram: bool) -> None:
    """Check that what is asked for by hand has something to weigh; ESPnet would pass over it.

    A configuration may hold both weights for decodings with and without.

    Args:
        words: options over the inference config.
        lm: whether there is a language model.
        ngram: whether there is an n-gram.

    Raises:
        UserError: a weight other than 0 of what is not there.
    """
    given = search_values({}, words)
    for key, there, what in (
        ("lm_weight", lm, "language model: --use_lm true makes one"),
        ("ngram_weight", ngram, "n-gram: --use_ngram true makes one"),
    ):
        if given.get(key) and not there:
            raise UserError(
                f"--inference_args: {key} {given[key]}, and there is no {what}",
                "give run.sh that, or leave the weight out",
            )


def largest_beam(tokens: int) -> int:
    """Return the largest beam for a vocabulary: any token but ``<blank>`` can come first."""
    return max(tokens - 1, 1)
