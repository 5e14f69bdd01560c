"""Leave out the utterances that training cannot use."""

from collections.abc import Sequence

from espnet_spike.utils.cli import COUNT, Parser, pairs_of, run


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Copy feature directories without the utterances that are too short, too long "
        "or have more characters of text than frames. What was dropped is listed in dropped.txt. "
        "Not meant for test sets."
    )
    parser.add_argument("dirs", nargs="+", metavar="SRC DST", help="pairs of directories")
    parser.add_argument("--min_frames", type=COUNT, default=10, help="shortest utterance kept")
    parser.add_argument("--max_frames", type=COUNT, default=3000, help="longest utterance kept")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    pairs = pairs_of(parser, args.dirs, "SRC DST")
    if args.min_frames > args.max_frames:
        parser.error("--min_frames must be at most --max_frames")
    from espnet_spike.data.filtering import Limits, filter_dir

    for source, target in pairs:
        if source.resolve() == target.resolve():
            parser.error(f"{source} and {target} are the same directory")
        filter_dir(source, target, Limits(args.min_frames, args.max_frames))


if __name__ == "__main__":
    run(main)
