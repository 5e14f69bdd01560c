"""Check Kaldi data directories and fix them in place."""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.data.dropping import ScoredSets
from espnet_spike.data.text_normalization import PROFILES
from espnet_spike.data.validation import prepare
from espnet_spike.utils.cli import Parser, run, str2bool


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Check Kaldi data directories and fix them in place: tables are sorted and "
        "brought to the same utterances, utterances without words are dropped and counted, "
        "spk2utt is rebuilt, every audio file is opened. The tables as they were go to .backup, "
        "what was dropped to dropped.txt."
    )
    parser.add_argument("data_dirs", nargs="+", metavar="DIR", help="directories to check")
    parser.add_argument(
        "--allow_pipes",
        type=str2bool,
        default=False,
        help="run wav.scp commands other than plain flac, sph2pipe and sox reads",
    )
    parser.add_argument(
        "--normalization",
        choices=list(PROFILES),
        default="none",
        help="what is done to the transcripts",
    )
    ScoredSets.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    scored = ScoredSets.of(args)
    for data_dir in args.data_dirs:
        prepare(Path(data_dir), args.allow_pipes, args.normalization, scored)


if __name__ == "__main__":
    run(main)
