"""Named profiles of text normalisation, for transcripts and for scoring.

The name of the profile is printed with every error rate: rates under different profiles cannot be
compared.
"""

import re
import unicodedata
from collections.abc import Callable

from espnet_spike.errors import UserError, did_you_mean

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\uff07`\u00b4", "'"))


def squeeze(text: str) -> str:
    """Make white space single spaces."""
    return " ".join(text.split())


def words(text: str) -> str:
    """Compose (NFKC) and drop punctuation and symbols; an apostrophe inside a word stays.

    >>> words("Don\u2019t \u2013 well-known \u201eF\u00fc\u00dfe\u201c, 50\xa0%!")
    "Don't well known F\u00fc\u00dfe 50"
    """
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = "".join(c if c == "'" or unicodedata.category(c)[0] not in "PSZC" else " " for c in text)
    return squeeze(re.sub(r"(?<!\w)'|'(?!\w)", " ", text))


PROFILES: dict[str, Callable[[str], str]] = {
    "none": squeeze,
    "upper": lambda text: words(text).upper(),
    "lower": lambda text: words(text).lower(),
    # for writing without spaces between words: what is counted is characters
    "characters": lambda text: words(text).upper().replace(" ", ""),
}


def profile(name: str) -> Callable[[str], str]:
    """Return the function of a profile.

    Raises:
        UserError: no such profile.
    """
    if name not in PROFILES:
        raise UserError(
            f"unknown text normalization {name!r}{did_you_mean(name, PROFILES)}",
            f"use one of: {', '.join(PROFILES)}",
        )
    return PROFILES[name]
