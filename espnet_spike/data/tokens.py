"""Token lists: sentencepiece pieces, characters or words, as ESPnet numbers them."""

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.utils.files import (
    iter_table,
    plural,
    present,
    read_text,
    write_bytes,
    write_lines,
)

_logger = logging.getLogger(__name__)
SHOWN = 10  # unknown units named per set
TOKEN_TYPES = ("bpe", "char", "word")
BPE_MODES = ("unigram", "bpe")
BLANK, UNKNOWN, SOS_EOS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
UNSPOKEN = frozenset({BLANK, SOS_EOS, "<sos>", "<eos>"})  # tokens that stand for no sound


def token_list(units: Iterable[str]) -> list[str]:
    """Return ``<blank>``, ``<unk>``, the units, ``<sos/eos>``, the order that ESPnet expects."""
    return [BLANK, UNKNOWN, *units, SOS_EOS]


def read_token_list(path: Path) -> list[str]:
    """Return the tokens of a file, one a line, as ESPnet numbers them.

    Raises:
        UserError: no such file, not UTF-8, an empty line, a token twice, or a special token that is
            not in its place: another one would be taken for blank, or for the end.
    """
    if not present(path):
        raise UserError(f"no such token list: {path}", "run the token stage (5)")
    # ESPnet strips what is behind the first character
    names = [
        line[:1] + line[1:].rstrip() for line in read_text(path).removesuffix("\n").split("\n")
    ]
    cure = "make it again by the token stage (5), or copy it from where the model was trained"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if "" in names or twice:
        found = (
            f"{twice[0]!r} twice" if twice and twice[0] else f"an empty line {names.index('') + 1}"
        )
        raise UserError(f"{path} has {found}", cure)
    if UNKNOWN not in names or names[0] != BLANK or names[-1] != SOS_EOS:
        raise UserError(f"{path} does not hold {BLANK} first, {UNKNOWN}, and {SOS_EOS} last", cure)
    return names


def spoken(ids: Iterable[int], names: Sequence[str]) -> list[int]:
    """Leave out the tokens that stand for no sound, so that no text and no score holds them.

    Args:
        ids: of a hypothesis.
        names: the token list.
    """
    return [number for number in ids if names[number] not in UNSPOKEN]


def split_units(words: str, token_type: str) -> list[str]:
    """Cut a transcript into characters (a space is ``<space>``) or words.

    >>> split_units("A CD", "char")
    ['A', '<space>', 'C', 'D']
    """
    if token_type == "word":
        return words.split()
    return [SPACE if character == " " else character for character in words]


def count_units(texts: Iterable[str], token_type: str) -> Counter[str]:
    """Count the characters or words of transcripts."""
    counts: Counter[str] = Counter()
    for words in texts:
        counts.update(split_units(words, token_type))
    return counts


def train_sentencepiece(
    texts: Iterable[str], size: int, mode: str, warn: Callable[[str], None]
) -> bytes:
    """Train a sentencepiece model on transcripts.

    Args:
        texts: transcripts; gone through a second time if the size does not fit.
        size: pieces wanted, ``<unk>`` among them.
        mode: ``unigram`` or ``bpe``.
        warn: called with a sentence when the text does not allow the size and the nearest possible
            one is taken.

    Returns:
        The serialized model.

    Raises:
        UserError: sentencepiece refuses for another reason.
    """
    import sentencepiece

    trainer: Any = sentencepiece.SentencePieceTrainer  # it gets its methods at run time
    asked = size
    while True:
        model = io.BytesIO()
        try:
            trainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                model_type=mode,
                character_coverage=1.0,
                max_sentence_length=1 << 20,
                bos_id=-1,
                eos_id=-1,
                unk_id=0,
                # the transcripts have been normalised, or not, as the user chose; under another
                # rule (sentencepiece's own is nmt_nfkc) no hypothesis could equal its reference
                normalization_rule_name="identity",
                minloglevel=2,
            )
            return model.getvalue()
        except SystemError as error:  # what reading the text raised
            raise error.__cause__ or error from None
        except (RuntimeError, OSError) as error:
            fitting = _fitting_size(str(error))
            # each complaint is followed once: too many pieces down, too few up
            if fitting is None or size != asked:
                raise UserError(f"sentencepiece: {error}") from error
            side = "more" if asked > fitting else "fewer"
            warn(f"nbpe {asked} is {side} than this text allows; {plural(fitting, 'piece')} used")
            size = fitting


def _fitting_size(complaint: str) -> int | None:
    """Return the vocabulary size that sentencepiece's complaint names, or None."""
    too_high = re.search(r"Please set it to a value <= (\d+)", complaint)
    too_low = re.search(r"smaller than required_chars. \d+ vs (\d+)", complaint)
    match = too_high or too_low
    return int(match[1]) if match else None


def _processor(model: bytes | None) -> Any:
    """Return a sentencepiece model, whose class gets its methods at run time."""
    import sentencepiece

    make: Any = sentencepiece.SentencePieceProcessor
    return make(model_proto=model)


def read_bpe_model(path: Path | None) -> Any:
    """Return the ``SentencePieceProcessor`` of a ``bpe.model``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if path is None or not present(path):
        raise UserError(f"no SentencePiece model at {path}", "give it as --bpemodel FILE")
    try:
        processor = _processor(path.read_bytes() or b" ")  # of nothing it would make an empty one
        if not len(processor):
            raise ValueError("it has no pieces")
        return processor
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or no SentencePiece model: {error}",
            "copy it again, from where the model was trained",
        ) from error


def pieces_of(model: bytes) -> list[tuple[str, float]]:
    """Return the pieces of a sentencepiece model with their scores, ``<unk>`` among them."""
    processor = _processor(model)
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]


def unknown_units(
    texts: Iterable[str], token_type: str, tokens: Iterable[str], model: bytes | None = None
) -> tuple[Counter[str], int]:
    """Count what becomes ``<unk>``.

    Args:
        texts: transcripts.
        token_type: ``bpe``, ``char`` or ``word``.
        tokens: the token list, for characters and words.
        model: the sentencepiece model, for ``bpe``.

    Returns:
        Unknown stretches (``bpe``), characters or words with their counts; the number of
        transcripts that hold one.
    """
    unknown: Counter[str] = Counter()
    hit = 0
    if token_type == "bpe":
        processor = _processor(model)

        def find(words: str) -> list[str]:
            encoded = processor.encode(words, out_type="immutable_proto")
            return [p.surface for p in encoded.pieces if p.id == processor.unk_id()]

    else:
        known = set(tokens)

        def find(words: str) -> list[str]:
            return [unit for unit in split_units(words, token_type) if unit not in known]

    for words in texts:
        found = find(words)
        unknown.update(found)
        hit += bool(found)
    return unknown, hit


def changed_texts(
    texts: Iterable[str], token_type: str, model: bytes | None = None
) -> tuple[int, str]:
    """Count transcripts without unknown units that their tokens do not spell as they were.

    Args:
        texts: transcripts.
        token_type: ``bpe``, ``char`` or ``word``.
        model: the sentencepiece model, for ``bpe``.

    Returns:
        How many, and the first with what becomes of it, for a message.
    """
    if token_type == "bpe":
        processor = _processor(model)

        def again(words: str) -> str:
            ids = processor.encode(words)
            return words if processor.unk_id() in ids else processor.decode(ids)

    else:

        def again(words: str) -> str:
            units = split_units(words, token_type)
            if token_type == "word":
                return " ".join(units)
            return "".join(" " if unit == SPACE else unit for unit in units)

    count, first = 0, ""
    for words in texts:
        spelt = again(words)
        if spelt != words:
            count += 1
            first = first or f"{words!a} becomes {spelt!a}"
    return count, first


class Transcripts:
    """The transcripts of a Kaldi text, read anew each time: those of a large corpus stay there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return (words for _, words in iter_table(self.path) if words)

    def some(self) -> "Transcripts":
        """Return these.

        Raises:
            UserError: there are none.
        """
        if not any(True for _ in self):
            raise UserError(f"{self.path}: no transcripts", "copy it again, or leave it out")
        return self


def make_tokens(
    texts: Iterable[str], out: Path, token_type: str, nbpe: int, bpemode: str
) -> list[str]:
    """Write ``tokens.txt``, for ``bpe`` also ``bpe.model``, ``bpe.vocab`` and ``train.txt``.

    Args:
        texts: transcripts, gone through several times.
        out: the folder.
        token_type: one of ``TOKEN_TYPES``.
        nbpe: pieces of the ``bpe`` vocabulary.
        bpemode: one of ``BPE_MODES``.

    Returns:
        The token list.

    Raises:
        UserError: a word or character is the name of a special token, or sentencepiece refuses.
    """
    named = {BLANK, UNKNOWN, SOS_EOS, SPACE}
    if token_type == "word":
        named -= {SPACE}  # a word as any other
    special = {name for words in texts if "<" in words for name in named if name in words}
    if special:
        raise UserError(
            f"the transcripts hold {min(special)}, a name with a meaning here",
            "it would be spelt < u n k >: take it out of text, or leave those utterances out",
        )
    out.mkdir(parents=True, exist_ok=True)
    if token_type == "bpe":
        model = train_sentencepiece(texts, nbpe, bpemode, _logger.warning)
        pieces = pieces_of(model)
        write_lines(out / "train.txt", texts)
        write_lines(out / "bpe.vocab", (f"{piece}\t{score:g}" for piece, score in pieces))
        write_bytes(out / "bpe.model", model)
        units = [piece for piece, _ in pieces if piece != UNKNOWN]
    else:
        counts = count_units(texts, token_type)
        units = sorted(counts, key=lambda unit: (-counts[unit], unit))
    names = token_list(units)
    write_lines(out / "tokens.txt", names)
    return names


def make_token_list(
    text: Path, out: Path, token_type: str, nbpe: int, bpemode: str, others: Iterable[Path] = ()
) -> None:
    """Make a token list from training transcripts; say what is unknown in others.

    Transcripts that the tokens do not give back are counted.

    Args:
        text: Kaldi text of the training set.
        out, token_type, nbpe, bpemode: see ``make_tokens``.
        others: Kaldi texts to look for unknown units in.

    Raises:
        UserError: no transcripts; see ``make_tokens``.
    """
    texts = Transcripts(text)
    texts.some()
    names = make_tokens(texts, out, token_type, nbpe, bpemode)
    read = plural(sum(1 for _ in texts), "transcript")
    _logger.info("%s: %s from %s", out, plural(len(names), "token"), read)
    model = (out / "bpe.model").read_bytes() if token_type == "bpe" else None
    for path in (text, *others):
        changed, example = changed_texts(Transcripts(path), token_type, model)
        if changed:
            _logger.warning(
                "%s: %s not as the tokens spell them: %s",
                *(path, plural(changed, "transcript"), example),
            )
    for path in others:
        transcripts = Transcripts(path)
        unknown, hit = unknown_units(transcripts, token_type, names, model)
        if not unknown:
            _logger.info("%s: nothing out of vocabulary", path)
            continue
        most = ", ".join(f"{unit!r} {count}" for unit, count in unknown.most_common(SHOWN))
        _logger.warning(
            "%s: %s in %d of %s, written as %s: %s",
            path,
            plural(unknown.total(), "out-of-vocabulary unit"),
            hit,
            plural(sum(1 for _ in transcripts), "utterance"),
            UNKNOWN,
            most + (", ..." if len(unknown) > SHOWN else ""),
        )


def tokenizer_of(
    token_type: str, names: Sequence[str], model: bytes | None = None
) -> Callable[[str], list[int]]:
    """Return what turns a transcript into ids, those of ESPnet's tokenizer and converter.

    Args:
        token_type: one of ``TOKEN_TYPES``.
        names: the token list.
        model: the sentencepiece model, for ``bpe``.
    """
    numbers = {name: number for number, name in enumerate(names)}
    unknown = numbers[UNKNOWN]
    if token_type == "bpe":
        processor = _processor(model)

        def cut(words: str) -> list[str]:
            return processor.encode(words, out_type=str)

    else:

        def cut(words: str) -> list[str]:
            return split_units(words, token_type)

    return lambda words: [numbers.get(unit, unknown) for unit in cut(words)]
