"""Make a token list from training transcripts."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from espnet_spike.data import tokens
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import iter_table, write_bytes, write_lines

logger = logging.getLogger("tokenize")
SHOWN = 10  # unknown units named a set


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Make a token list (and a sentencepiece model) from the transcripts of a "
        "Kaldi text file, and count what is unknown in others."
    )
    parser.add_argument("--token_type", choices=tokens.TOKEN_TYPES, default="bpe", help="unit")
    parser.add_argument("--bpemode", choices=tokens.BPE_MODES, default="unigram", help="algorithm")
    parser.add_argument("--nbpe", type=int, default=30, help="pieces of the bpe vocabulary")
    parser.add_argument("--text", type=Path, required=True, help="training transcripts")
    parser.add_argument(
        "--oov_texts", type=Path, nargs="*", default=[], help="count what is unknown in these"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens.txt")
    return parser


class Transcripts:
    """The transcripts of a Kaldi text, read anew each time: those of a large corpus stay there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return (words for _, words in iter_table(self.path) if words)


def make_tokens(
    texts: Iterable[str], out: Path, token_type: str, nbpe: int, bpemode: str
) -> list[str]:
    """Write ``tokens.txt``, for ``bpe`` also ``bpe.model``, ``bpe.vocab`` and ``train.txt``.

    Returns:
        The token list.
    """
    out.mkdir(parents=True, exist_ok=True)
    if token_type == "bpe":
        model = tokens.train_sentencepiece(texts, nbpe, bpemode, logger.warning)
        pieces = tokens.pieces_of(model)
        write_lines(out / "train.txt", texts)
        write_lines(out / "bpe.vocab", (f"{piece}\t{score:g}" for piece, score in pieces))
        write_bytes(out / "bpe.model", model)
        units = [piece for piece, _ in pieces if piece != tokens.UNKNOWN]
    else:
        counts = tokens.count_units(texts, token_type)
        special = {tokens.BLANK, tokens.UNKNOWN, tokens.SOS_EOS} & set(counts)
        if special:
            raise UserError(f"the transcripts hold {min(special)}, a name with a meaning here")
        units = sorted(counts, key=lambda unit: (-counts[unit], unit))
    names = tokens.token_list(units)
    write_lines(out / "tokens.txt", names)
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.nbpe < 1:
        parser.error("--nbpe must be at least 1")
    texts = Transcripts(args.text)
    if not any(texts):
        raise UserError(f"{args.text}: no transcripts")
    names = make_tokens(texts, args.out, args.token_type, args.nbpe, args.bpemode)
    logger.info("%s: %d tokens from %d transcripts", args.out, len(names), sum(1 for _ in texts))
    model = (args.out / "bpe.model").read_bytes() if args.token_type == "bpe" else None
    for path in args.oov_texts:
        others = Transcripts(path)
        unknown, hit = tokens.unknown_units(others, args.token_type, names, model)
        if not unknown:
            logger.info("%s: nothing out of vocabulary", path)
            continue
        most = ", ".join(f"{unit!r} {count}" for unit, count in unknown.most_common(SHOWN))
        logger.warning(
            "%s: %d out-of-vocabulary units in %d of %d utterances become %s: %s",
            path,
            unknown.total(),
            hit,
            sum(1 for _ in others),
            tokens.UNKNOWN,
            most + (", ..." if len(unknown) > SHOWN else ""),
        )


if __name__ == "__main__":
    run(main)
