"""Run one command of a recipe's stage, unless it is done; keep its log."""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.ranges import Number
from espnet_spike.utils.cli import Parser, Ranged, run
from espnet_spike.utils.stages import run_stage


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(prog="espnet_spike.bin.run_stage", description=__doc__)
    parser.add_argument("--stage", required=True, help="number and name, for messages")
    parser.add_argument("--name", required=True, help="of the marker and the log")
    parser.add_argument(
        "--expdir",
        type=Path,
        required=True,
        help="of logs, and of markers of what lies in no shared folder",
    )
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        default=[],
        dest="inputs",
        help="file or folder that it reads",
    )
    parser.add_argument(
        "--output",
        type=Path,
        action="append",
        default=[],
        dest="outputs",
        help="file, folder or pattern (*.pth) that it has to make",
    )
    parser.add_argument(
        "--optional_output",
        type=Path,
        action="append",
        default=[],
        dest="optional_outputs",
        help="file, folder or pattern that it may make",
    )
    parser.add_argument(
        "--shared",
        type=Path,
        action="append",
        default=[],
        help="folder that other experiments write to, too: what is made there has its marker there",
    )
    parser.add_argument(
        "--launcher", action="append", default=[], metavar="WORD", help="before the command"
    )
    parser.add_argument("--unhashed", action="append", default=[], help="option to leave out")
    parser.add_argument("--force", action="store_true", help="run even if done")
    parser.add_argument("--dry_run", action="store_true", help="print the command, run nothing")
    parser.add_argument(
        "--min_free_gb", type=Ranged(Number(0, 1e9)), default=0.0, help="of the disk, to begin"
    )
    parser.add_argument("command", nargs="+", help="after a bare --")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command given after ``--``."""
    run_stage(**vars(get_parser().parse_args(argv)))


if __name__ == "__main__":
    run(main)
