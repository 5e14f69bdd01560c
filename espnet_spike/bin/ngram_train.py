"""Estimate a token n-gram from transcripts by interpolated, modified Kneser-Ney smoothing."""

import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.ranges import Number
from espnet_spike.utils.cli import Parser, Ranged, run


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(prog="espnet_spike.bin.ngram_train", description=__doc__)
    parser.add_argument(
        "--train_text", type=Path, nargs="+", required=True, help="Kaldi text, one file or several"
    )
    parser.add_argument("--token_list", type=Path, required=True, help="tokens.txt")
    parser.add_argument("--token_type", default="bpe", choices=("bpe", "char", "word"), help="unit")
    parser.add_argument("--bpemodel", type=Path, help="bpe.model, for --token_type bpe")
    parser.add_argument(
        "--ngram_order",
        type=Ranged(Number(2, 6, whole=True)),
        default=3,
        help="the highest n, 2 to 6",
    )
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.token_type == "bpe" and args.bpemodel is None:
        get_parser().error("--token_type bpe needs --bpemodel")
    from espnet_spike.data.ngram import make_ngram
    from espnet_spike.data.tokens import Transcripts, read_token_list, tokenizer_of

    names = read_token_list(args.token_list)
    model = args.bpemodel.read_bytes() if args.token_type == "bpe" else None
    tokenize = tokenizer_of(args.token_type, names, model)
    sentences = (tokenize(words) for path in args.train_text for words in Transcripts(path).some())
    sizes = make_ngram(sentences, names, args.ngram_order, args.out)
    shown = ", ".join(f"{size} {n}-grams" for n, size in enumerate(sizes, 1))
    logging.getLogger(__name__).info("written: %s, %s", args.out, shown)


if __name__ == "__main__":
    run(main)
