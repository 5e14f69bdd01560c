"""What transcription yields, and the forms it is written in: text, JSON, SRT, CTM."""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from espnet_spike.inference.ctc import Word, is_unspaced

GAP = 0.5  # seconds without a word that end a caption
SHORTEST, LONGEST = 1.0, 6.0  # seconds of a caption
LINE = 42  # columns of each of its two lines


@dataclass(frozen=True)
class Piece:
    """A stretch that was decoded as one utterance, in seconds.

    Attributes:
        start, end: in the file.
        text: what was recognised; blank in silence.
        score: of the beam search.
        words: with their times; empty when they were not asked for.
        aligned: times are from the alignment; otherwise the words are spread over the piece.
    """

    start: float
    end: float
    text: str
    score: float
    words: tuple[Word, ...] = ()
    aligned: bool = True


@dataclass
class Transcript:
    """All that was recognised in a file, in order.

    Attributes:
        spaces: the model writes spaces between words, see ``inference.ctc.writes_spaces``.
    """

    name: str
    file: str
    seconds: float
    pieces: list[Piece] = field(default_factory=list)
    spaces: bool = True

    @property
    def text(self) -> str:
        """The text of the whole file."""
        return join_words((piece.text for piece in self.pieces), self.spaces)

    @property
    def words(self) -> list[Word]:
        """The words of the whole file."""
        return [word for piece in self.pieces for word in piece.words]


def join_words(words: Iterable[str], spaces: bool = False) -> str:
    """Join words by spaces.

    Args:
        words: or stretches of text.
        spaces: also between two characters of scripts that are written without them.
    """
    text = ""
    for word in filter(None, words):
        wide = text and is_unspaced(text[-1]) and is_unspaced(word[0])
        text += word if not text or (wide and not spaces) else f" {word}"
    return text


@dataclass(frozen=True)
class _Placed:
    """A word, and the text that it stands in, that of ``piece``, from ``first`` to ``last``."""

    word: Word
    text: str
    first: int
    last: int
    piece: Piece | None


def _placed(piece: Piece) -> list[_Placed]:
    """Find the words of a piece in its text; each alone where the text is spelt otherwise."""
    found, at = [], 0
    for word in piece.words:
        first = piece.text.find(word.word, at)
        if first < 0:
            return [_Placed(word, word.word, 0, len(word.word), None) for word in piece.words]
        at = first + len(word.word)
        found.append(_Placed(word, piece.text, first, at, piece))
    return found


def _text(words: Sequence[_Placed], spaces: bool) -> str:
    """Return the text of words as the model wrote it, with what stands between them."""
    parts: list[str] = []
    before: _Placed | None = None
    for word in words:
        if before is not None and word.piece is not None and before.piece is word.piece:
            parts[-1] += word.text[before.last : word.last]
        else:
            parts.append(word.text[word.first : word.last])
        before = word
    return join_words(parts, spaces)


def captions(transcript: Transcript) -> list[Word]:
    """Group the words into captions of a readable length, as subtitles have it.

    Each fits two lines of `LINE` columns and lasts `SHORTEST` to `LONGEST` seconds, shorter only
    where the next one begins.
    """
    spaces = transcript.spaces
    found: list[list[_Placed]] = []
    for word in (part for piece in transcript.pieces for w in _placed(piece) for part in _parts(w)):
        last = found[-1] if found else []
        begun = word.word.start - last[0].word.start if last else 0.0
        silent = last and word.word.start - last[-1].word.end > GAP and begun >= SHORTEST
        too_long = last and word.word.end - last[0].word.start > LONGEST
        if not last or silent or too_long or not wrap(_text([*last, word], spaces)):
            found.append([word])
        else:
            last.append(word)
    starts = [words[0].word.start for words in found]
    limits = [*starts[1:], max(transcript.seconds, 0.0)][: len(found)]  # none where all is silent
    lines = []
    for words, start, limit in zip(found, starts, limits, strict=True):
        end = max(words[-1].word.end, min(start + SHORTEST, limit))
        lines.append(Word(_text(words, spaces), start, min(end, start + LONGEST)))
    return lines


def _parts(placed: _Placed) -> Iterator[_Placed]:
    """Cut a word that does not fit a caption into some that do, each with its share of the time."""
    word = placed.word
    pieces = [""]
    for character in word.word:
        if columns(pieces[-1] + character) > LINE and unicodedata.category(character)[0] != "M":
            pieces.append("")
        pieces[-1] += character
    if len(pieces) <= 2:
        yield placed
        return
    step = (word.end - word.start) / len(word.word)
    at = 0
    for piece in pieces:
        start = word.start + at * step
        at += len(piece)
        # a text of its own, so that nothing is put between it and what follows but a line's end
        yield _Placed(Word(piece, start, word.start + at * step), piece, 0, len(piece), None)


def columns(text: str) -> int:
    """Return the columns that a text takes: two for East Asian wide characters, none for marks."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def wrap(text: str) -> list[str]:
    """Cut a text into one line of at most `LINE` columns, or two as equal as can be.

    Lines end at spaces, and between characters of scripts that have none. Empty where two lines do
    not hold it.
    """
    if columns(text) <= LINE:
        return [text]
    if columns(text) > 2 * LINE + 1:
        return []
    ends = [place for place in range(1, len(text)) if _may_end(text, place)]
    pairs = [(text[:place].rstrip(), text[place:].lstrip()) for place in ends]
    width, pair = min(
        ((max(map(columns, pair)), pair) for pair in pairs), default=(LINE + 1, ("", ""))
    )
    return list(pair) if width <= LINE else []


def _may_end(text: str, place: int) -> bool:
    """Tell whether a line may end before a place."""
    before, after = text[place - 1], text[place]
    if unicodedata.category(after)[0] in "MP":
        return False
    return before == " " or (is_unspaced(before) and is_unspaced(after))


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"


def _lines(text: str) -> str:
    return "\n".join(wrap(text) or [text])


def to_text(transcript: Transcript) -> str:
    """One line: name, tab, text."""
    return f"{transcript.name}\t{transcript.text}\n"


def to_json(transcript: Transcript) -> str:
    """One line of JSON; times in seconds."""
    content = {
        "name": transcript.name,
        "file": transcript.file,
        "seconds": round(transcript.seconds, 3),
        "text": transcript.text,
        "pieces": [asdict(piece) for piece in transcript.pieces],
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_srt(transcript: Transcript) -> str:
    """Subtitles."""
    return "".join(
        f"{number}\n{_clock(line.start)} --> {_clock(line.end)}\n{_lines(line.word)}\n\n"
        for number, line in enumerate(captions(transcript), 1)
    )


def to_ctm(transcript: Transcript) -> str:
    """NIST's CTM: file, channel, start, duration, word; white space in a name becomes ``_``."""
    name = "_".join(transcript.name.split())
    return "".join(
        f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.word}\n"
        for word in transcript.words
    )


FORMATS = {"text": to_text, "json": to_json, "srt": to_srt, "ctm": to_ctm}
WITH_TIMES = ("json", "srt", "ctm")
ENDINGS = {"text": ".txt", "json": ".json", "srt": ".srt", "ctm": ".ctm"}
