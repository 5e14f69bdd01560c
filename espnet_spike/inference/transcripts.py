"""What transcription yields, and the forms it is written in: text, JSON, SRT, CTM."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from espnet_spike.inference.ctc import IDEOGRAPHS, Word

GAP = 0.8  # seconds of silence that end a caption
LONGEST = 6.0  # seconds of a caption
WIDEST = 80  # characters of a caption


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
    """All that was recognised in a file, in order."""

    name: str
    file: str
    seconds: float
    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the whole file."""
        return " ".join(piece.text for piece in self.pieces if piece.text)

    @property
    def words(self) -> list[Word]:
        """The words of the whole file."""
        return [word for piece in self.pieces for word in piece.words]


def join_words(words: Iterable[str]) -> str:
    """Join words by spaces, ideographs without."""
    text = ""
    for word in words:
        wide = text and text[-1] >= IDEOGRAPHS and word >= IDEOGRAPHS
        text += word if wide or not text else f" {word}"
    return text


def captions(transcript: Transcript) -> list[Word]:
    """Group the words into captions of a readable length."""
    found: list[list[Word]] = []
    for word in transcript.words:
        last = found[-1] if found else None
        if (
            last is None
            or word.start - last[-1].end > GAP
            or word.end - last[0].start > LONGEST
            or len(join_words([w.word for w in last] + [word.word])) > WIDEST
        ):
            found.append([word])
        else:
            last.append(word)
    return [Word(join_words(w.word for w in ws), ws[0].start, ws[-1].end) for ws in found]


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"


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
        f"{number}\n{_clock(line.start)} --> {_clock(line.end)}\n{line.word}\n\n"
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
