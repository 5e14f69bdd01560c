"""Leave out the utterances that training cannot use."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from espnet_spike.data.feature_dir import Row, iter_rows, write_rows
from espnet_spike.data.feature_extractor import hand_on
from espnet_spike.data.filtering import Limits, reason_to_drop
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import write_table

logger = logging.getLogger("filter_utts")


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Copy feature directories without the utterances that are too short, too long "
        "or have more characters of text than frames. What was dropped is listed in dropped.txt. "
        "Not meant for test sets."
    )
    parser.add_argument("dirs", nargs="+", metavar="SRC DST", help="pairs of directories")
    parser.add_argument("--min_frames", type=int, default=10, help="shortest utterance kept")
    parser.add_argument("--max_frames", type=int, default=3000, help="longest utterance kept")
    return parser


def filter_dir(source: Path, target: Path, limits: Limits) -> dict[str, str]:
    """Write ``target`` with what is kept of ``source``; return what was dropped and why.

    Raises:
        UserError: nothing is left.
    """
    dropped: dict[str, str] = {}

    def kept() -> Iterator[Row]:
        for row in iter_rows(source):
            if reason := reason_to_drop(row.frames, row.text, limits):
                dropped[row.utt] = reason
            else:
                yield row

    count = write_rows(target, kept())
    counts = Counter(reason.partition(":")[0] for reason in dropped.values())
    summary = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none"
    if not count:
        raise UserError(
            f"{source}: no utterance is left (dropped: {summary})",
            "change --min_frames or --max_frames, or look at the data",
        )
    hand_on(source, target)
    write_table(target / "dropped.txt", dropped)
    logger.info(
        "%s: %d of %d utterances kept; dropped: %s",
        target,
        count,
        count + len(dropped),
        summary,
    )
    return dropped


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if len(args.dirs) % 2:
        parser.error("directories come in pairs: SRC DST")
    if not 0 < args.min_frames <= args.max_frames:
        parser.error("--min_frames must be at least 1 and at most --max_frames")
    for source, target in zip(args.dirs[::2], args.dirs[1::2], strict=True):
        if Path(source).resolve() == Path(target).resolve():
            parser.error(f"{source} and {target} are the same directory")
        filter_dir(Path(source), Path(target), Limits(args.min_frames, args.max_frames))


if __name__ == "__main__":
    run(main)
