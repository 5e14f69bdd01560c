"""Compare experiments in one table: error rates, size, sparsity, operations, energy, speed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import GivenOnce, Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.compare", description=__doc__)
    exps = {"nargs": "*", "type": Path, "action": GivenOnce, "default": []}
    parser.add_argument(
        "asr_exp", metavar="EXP", help="exp/asr_X; the first is compared with", **exps
    )
    parser.add_argument("--asr_exp", metavar="EXP", help="the same, as an option", **exps)
    parser.add_argument("--inference_tag", help="the decoding to take; each one's newest if absent")
    parser.add_argument(
        "--energy_model", default="horowitz45_fp32", help="a cost model that stage 12 has used"
    )
    parser.add_argument(
        "--breakdown", action="store_true", help="print WER by length, speaker, word frequency, too"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there as CSV")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it there as a page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write what is printed there")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table as Markdown; write it in the forms asked for."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if not args.asr_exp:
        parser.error("the following arguments are required: EXP")
    from espnet_spike.results.comparison_table import (
        breakdown_lines,
        read_rows,
        to_csv,
        to_html,
        to_markdown,
    )
    from espnet_spike.utils.files import write_lines

    rows = read_rows(args.asr_exp, args.inference_tag)
    text = to_markdown(rows, args.energy_model)
    if args.breakdown:
        text += "\n" + breakdown_lines(rows)
    print(text)
    if args.markdown is not None:
        write_lines(args.markdown, text.splitlines())
    for path, make in ((args.csv, to_csv), (args.html, to_html)):
        if path is not None:
            write_lines(path, make(rows, args.energy_model).splitlines())


if __name__ == "__main__":
    run(main)
