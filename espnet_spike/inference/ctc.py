"""Connectionist temporal classification (Graves et al., 2006): best path, alignment, words.

Everything that reads a CTC path does it here, so that a report and a transcript of the same tokens
hold the same words at the same times.
"""

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espnet_spike.data.tokens import SPACE, UNKNOWN, UNSPOKEN

HOLD = 0.4  # seconds that a word lasts behind its last frame at most; ours

Span = tuple[int, int]
"""First frame of a token, and the frame after its last."""


@dataclass(frozen=True)
class Word:
    """A word and its time in seconds from the beginning of the file."""

    word: str
    start: float
    end: float


def collapse(path: Any, blank: int = 0, before: int = -1) -> tuple[list[int], list[Span]]:
    """Remove repetitions and blanks from a path; return the tokens and the frames of each.

    A path may come in parts: with ``before``, a token that goes on from the part before is not
    given again.

    Args:
        path: ``(T',)`` token of each frame, an array or a tensor on the CPU.
        blank: the token that says nothing.
        before: token of the frame before the first; -1 for none.
    """
    path = np.asarray(path)
    starts = np.flatnonzero(path != np.append(before, path)[:-1])
    ends = np.append(starts, len(path))[1:]
    said = path[starts] != blank
    spans = np.stack([starts, ends], axis=1)[said]
    return path[starts][said].tolist(), [(first, last) for first, last in spans.tolist()]


def best_path(log_probs: np.ndarray, blank: int = 0) -> list[int]:
    """Return the tokens of greedy CTC for ``log_probs`` ``(T', V)``."""
    return collapse(log_probs.argmax(-1), blank)[0]


def quietest(log_posteriors: np.ndarray, earliest: float) -> float:
    """Return where to cut, in frames: the middle of the longest run of blanks.

    Only frames after the share ``earliest`` count. Of runs of the same length the later is taken.
    Where no frame is blank the frame with the most probable blank is.

    Args:
        log_posteriors: ``(T, V)``, blank first.
        earliest: share of the frames.
    """
    first = int(len(log_posteriors) * earliest)
    blank = log_posteriors[first:].argmax(axis=1) == 0
    if not blank.any():
        return first + int(log_posteriors[first:, 0].argmax()) + 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], blank.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    longest = np.flatnonzero(ends - starts == (ends - starts).max())[-1]
    return first + float(starts[longest] + ends[longest]) / 2


def align(log_posteriors: np.ndarray, ids: Sequence[int]) -> list[Span] | None:
    """Return the frames in which the best CTC path that spells ``ids`` says each token.

    None when there are too few frames for the tokens. The Viterbi search is written out here since
    ``torchaudio.functional.forced_align`` (2.11) does not find the best path where two ways to a
    state are equally probable, which saturated posteriors are.

    Args:
        log_posteriors: ``(T, V)``, blank first.
        ids: the tokens.
    """
    if not len(ids) or not len(log_posteriors):
        return None if len(ids) else []
    states = np.zeros(2 * len(ids) + 1, dtype=np.int64)
    states[1::2] = ids
    emitted = log_posteriors[:, states]  # (T, S)
    frames, count = emitted.shape
    # from the state before the blank between them, unless the tokens are the same
    skip = np.zeros(count, dtype=bool)
    skip[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(count, -np.inf)
    best[:2] = emitted[0, :2]
    came = np.zeros((frames, count), dtype=np.int8)
    for t in range(1, frames):
        choices = np.stack([best, np.append(-np.inf, best[:-1]), np.full(count, -np.inf)])
        choices[2, 2:] = np.where(skip[2:], best[:-2], -np.inf)
        came[t] = choices.argmax(axis=0)
        best = choices[came[t], np.arange(count)] + emitted[t]
    state = count - 1 if best[-1] >= best[-2] else count - 2
    if not np.isfinite(best[state]):
        return None
    spans = [[frames, 0] for _ in ids]
    for t in range(frames - 1, -1, -1):
        if state % 2:
            span = spans[state // 2]
            span[0], span[1] = min(span[0], t), max(span[1], t + 1)
        state -= int(came[t, state])
    return [(first, last) for first, last in spans]


def writes_spaces(names: Sequence[str], token_type: str) -> bool:
    """Tell from a vocabulary whether the text that it was learnt of has spaces between words.

    A script that is written without them does not decide it alone: transcripts may have been cut
    into words. Then every other piece of a SentencePiece model or so begins with a space.

    Args:
        names: the tokens.
        token_type: ``bpe``, ``char`` or ``word``.
    """
    if token_type == "word":
        return True
    letters = [name.replace("\u2581", "") for name in names if name not in _NAMES]
    unspaced = [text for text in letters if text and is_unspaced(text[0])]
    if 2 * len(unspaced) <= sum(map(bool, letters)):
        return True
    if token_type == "char":
        return False
    return 4 * sum(name.startswith("\u2581") for name in names) > len(names)


_NAMES = UNSPOKEN | {UNKNOWN, SPACE}
_UNSPACED = (  # scripts without spaces between words, as Unicode's names of characters begin
    *("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "YI SYLLABLE"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "TAI ", "NEW TAI", "JAVANESE", "BALINESE"),
)


@functools.cache
def is_unspaced(character: str) -> bool:
    """Tell whether a character is of a script that is written without spaces between words."""
    return unicodedata.name(character, "").startswith(_UNSPACED)


def token_words(
    tokens: Sequence[str], token_type: str, spaces: bool | None = None
) -> list[tuple[str, int, int]]:
    """Group tokens into words: ``(word, first token, last token + 1)``.

    A word begins at ``▁`` (sentencepiece), after ``<space>`` (characters) and at every token of a
    word model. Where the text has no spaces between words, so does it at every token of a script
    without them.

    Args:
        tokens: without blanks.
        token_type: ``bpe``, ``char`` or ``word``.
        spaces: see `writes_spaces`; None asks it about these tokens.
    """
    spaces = writes_spaces(tokens, token_type) if spaces is None else spaces
    words: list[tuple[str, int, int]] = []
    begin = True
    for index, token in enumerate(tokens):
        if token == SPACE:
            begin = True
            continue
        letters = token.replace("\u2581", "")
        wide = not spaces and letters[:1] != "" and is_unspaced(letters[0])
        mark = unicodedata.category(letters[0])[0] == "M" if letters else False
        begin = begin or token_type == "word" or token.startswith("\u2581") or (wide and not mark)
        if not letters:
            begin = True
            continue
        if begin or not words:
            words.append((letters, index, index + 1))
        else:
            word, first, _ = words[-1]
            words[-1] = (word + letters, first, index + 1)
        begin = wide
        if wide and index + 1 < len(tokens):  # a vowel sign belongs to the letter before it
            following = tokens[index + 1]
            begin = unicodedata.category(following[0])[0] != "M"
    return words


def held(words: Sequence[Word], until: float) -> list[Word]:
    """Let each word last to where the next one begins, `HOLD` seconds at most.

    CTC emits a token in a frame or two; the sound goes on.

    Args:
        words: in order, ending with the last frame of their last token.
        until: seconds at which all ends.
    """
    nexts = [*(word.start for word in words), until][1:]  # none where no word was said
    return [
        Word(word.word, word.start, max(word.end, min(word.end + HOLD, following, until)))
        for word, following in zip(words, nexts, strict=True)
    ]


def timed_words(
    tokens: Sequence[str],
    spans: Sequence[Span],
    frame: float,
    token_type: str,
    spaces: bool | None = None,
) -> list[Word]:
    """Return the words that tokens spell, from the first frame of the first to the last one.

    CTC emits a token in a frame or two somewhere within its sound: times are rough, see `held`.

    Args:
        tokens: without blanks.
        spans: the frames of each.
        frame: seconds from one frame to the next.
        token_type: ``bpe``, ``char`` or ``word``.
        spaces: see `token_words`.
    """
    return [
        Word(word, spans[first][0] * frame, spans[last - 1][1] * frame)
        for word, first, last in token_words(tokens, token_type, spaces)
    ]
