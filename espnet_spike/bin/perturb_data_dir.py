"""Add copies of a data directory at other speeds."""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import Parser, run


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Speed perturbation: write a data directory with a copy of every utterance for "
        "each factor. The audio itself is resampled when features are extracted. Utterances and "
        "speakers of a factor other than 1 are named sp<factor>-<name>."
    )
    parser.add_argument("source", type=Path, help="data directory")
    parser.add_argument("target", type=Path, help="data directory to write")
    parser.add_argument("--factors", default="0.9 1.0 1.1", help="speeds, separated by spaces")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.source.resolve() == args.target.resolve():
        parser.error("source and target are the same directory")
    from espnet_spike.data.speed_perturbation import parse_factors, perturb_dir

    perturb_dir(args.source, args.target, parse_factors(args.factors))


if __name__ == "__main__":
    run(main)
