"""Report all experiments of a recipe: results.json of each, and one RESULTS.md."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.report", description=__doc__)
    parser.add_argument("--expdir", type=Path, required=True, help="folder of the experiments")
    parser.add_argument("--corpus", required=True, help="name of the recipe, for the heading")
    parser.add_argument("--corpus_dir", type=Path, help="shown as <corpus_dir> wherever it stands")
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file")
    parser.add_argument("--copy_to", type=Path, help="write the tables there too, between marks")
    parser.add_argument(
        "--baseline", help="tag without seed that the others are compared with by WER"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files and print the summary table."""
    args = get_parser().parse_args(argv)
    from espnet_spike.results.experiments import find_experiments, write_results
    from espnet_spike.results.markdown import copy_between_marks, render, summary_table
    from espnet_spike.utils.files import write_lines

    experiments = find_experiments(args.expdir)
    results = [write_results(experiment, args.corpus_dir) for experiment in experiments]
    lines = render(args.corpus, experiments, results, args.baseline)
    write_lines(args.out, lines)
    if args.copy_to:
        copy_between_marks(lines, args.copy_to)
    print("\n".join(summary_table(results)))
    print(f"\nwritten: {args.out}" + (f", {args.copy_to}" if args.copy_to else ""))


if __name__ == "__main__":
    run(main)
