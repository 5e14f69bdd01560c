"""Make a token list from training transcripts."""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.data.tokens import BPE_MODES, TOKEN_TYPES, make_token_list
from espnet_spike.utils.cli import COUNT, Parser, run


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Make a token list (and a sentencepiece model) from the transcripts of a "
        "Kaldi text file, and count what is unknown in others."
    )
    parser.add_argument("--token_type", choices=TOKEN_TYPES, default="bpe", help="unit")
    parser.add_argument("--bpemode", choices=BPE_MODES, default="unigram", help="algorithm")
    parser.add_argument("--nbpe", type=COUNT, default=30, help="pieces of the bpe vocabulary")
    parser.add_argument("--text", type=Path, required=True, help="training transcripts")
    parser.add_argument(
        "--oov_texts", type=Path, nargs="*", default=[], help="count what is unknown in these"
    )
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        help="folder for tokens.txt",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    make_token_list(args.text, args.out, args.token_type, args.nbpe, args.bpemode, args.oov_texts)


if __name__ == "__main__":
    run(main)
