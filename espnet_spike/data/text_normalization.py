"""Named profiles of text normalisation, for transcripts and for scoring.

The name of the profile is printed with every error rate: rates under different profiles cannot be
compared.
"""

import functools
import unicodedata
from collections.abc import Callable
from typing import Any

from espnet_spike.errors import UserError, did_you_mean

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\uff07`\u00b4", "'"))


def squeeze(text: str) -> str:
    """Make white space single spaces."""
    return " ".join(text.split())


def words(text: str) -> str:
    """Compose (NFKC) and drop punctuation and symbols; an apostrophe inside a word stays.

    What is written inside a word stays there: combining marks, and the joiners that scripts of
    India, Sri Lanka and Iran are spelt with. Soft hyphens, variation selectors and other invisible
    characters go and split nothing; a zero width space is a space.

    >>> words("Don\u2019t \u2013 well-known \u201eF\u00fc\u00dfe\u201c, 50\xa0%!")
    "Don't well known F\u00fc\u00dfe 50"
    """
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = "".join(map(_as_written, text))
    kept = []
    for position, character in enumerate(text):
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if character == "'" and not (_in_word(before) and _in_word(after)):
            kept.append(" ")
        elif character in _JOINERS and not _joins(character, before, after):
            continue
        elif unicodedata.category(character) == "Mn" and (not kept or kept[-1] == " "):
            continue  # the mark of a symbol that has gone
        else:
            kept.append(character)
    return squeeze("".join(kept))


_ZWNJ, _ZWJ = _JOINERS = "\u200c\u200d"
# combining grapheme joiner, Hangul fillers, variation selectors: nothing is seen of them
_INVISIBLE = {0x34F, 0x115F, 0x1160, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
_WITHOUT_JOINERS = ("LATIN", "GREEK", "CYRILLIC")  # ligatures at most
_VIRAMA = 9  # canonical combining class


def _as_written(character: str) -> str:
    """Return a character of text, a space for what parts words, nothing for what is not seen."""
    if character == "'" or character in _JOINERS:
        return character
    category = unicodedata.category(character)
    if ord(character) in _INVISIBLE or category == "Me":
        return ""
    if category == "Cf":
        return " " if character == "\u200b" else ""
    return " " if category[0] in "PSZC" else character


def _in_word(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LMN"


def _joins(joiner: str, before: str, after: str) -> bool:
    """Tell whether a joiner is part of the spelling, in a word or at the end of a chillu."""
    if not _in_word(before) or unicodedata.name(before, "").startswith(_WITHOUT_JOINERS):
        return False
    return _in_word(after) or (joiner == _ZWJ and unicodedata.combining(before) == _VIRAMA)


@functools.cache
def _sentencepiece_rule(name: str) -> Callable[[str], str]:
    import sentencepiece

    make: Any = sentencepiece.SentencePieceNormalizer
    return make(rule_name=name).normalize


PROFILES: dict[str, Callable[[str], str]] = {
    "none": squeeze,
    "nfc": lambda text: squeeze(unicodedata.normalize("NFC", text)),
    # what sentencepiece does by default: for models whose tokens were learnt under it
    "nmt_nfkc": lambda text: squeeze(_sentencepiece_rule("nmt_nfkc")(text)),
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
