"""Compare two systems on the same utterances by a paired bootstrap.

compare_decodes exp/asr_a/decode_x exp/asr_b/decode_x
compare_decodes --group exp/asr_a_seed*/decode_x --vs exp/asr_b_seed*/decode_x
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import plural


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="espnet_spike.bin.compare_decodes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dirs",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="two decode folders, or a set folder of each",
    )
    parser.add_argument(
        "--group", nargs="+", type=Path, default=[], help="runs of the first system, pooled"
    )
    parser.add_argument(
        "--vs", nargs="+", type=Path, default=[], help="runs of the second system, pooled"
    )
    parser.add_argument("--metric", choices=("wer", "cer", "ter"), default="wer", help="rate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line a set and system, and the difference."""
    args = get_parser().parse_args(argv)
    first, second = args.group, args.vs
    if args.dirs and not first and not second and len(args.dirs) == 2:
        first, second = [args.dirs[0]], [args.dirs[1]]
    elif args.dirs or not first or not second:
        raise UserError(
            f"{plural(len(args.dirs), 'folder')}, {len(first)} in --group, {len(second)} in --vs",
            "give two folders, or --group DIR ... --vs DIR ...",
        )
    from espnet_spike.results.comparison import compare_systems
    from espnet_spike.utils.files import write_json

    report = {"metric": args.metric, "sets": {}}
    print(f"first:  {' '.join(map(str, first))}\nsecond: {' '.join(map(str, second))}")
    for name, comparison in compare_systems(first, second, args.metric):
        print("\n".join([f"\n{name}: {args.metric.upper()} %", *comparison.lines()]))
        report["sets"][name] = comparison.figures()
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    run(main)
