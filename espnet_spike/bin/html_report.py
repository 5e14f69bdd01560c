"""Write one self-contained page on an experiment: errors, learning, spikes, energy, provenance."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import Parser, named_dirs, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.html_report", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument("--inference_tag", required=True, help="folder of the decoding in it")
    parser.add_argument(
        "--utt", help="utterance of the first set to show in the encoder; about 4 s when not given"
    )
    parser.add_argument("--corpus_dir", type=Path, help="shown as <corpus_dir> wherever it stands")
    parser.add_argument("--out", type=Path, help="the page; report.html in asr_exp when not given")
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR", help="a set and its features")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    args = get_parser().parse_args(argv)
    sets = named_dirs(args.sets)
    import logging

    logging.getLogger().setLevel(logging.ERROR)
    from espnet_spike.results.html_page import build
    from espnet_spike.results.page_data import gather
    from espnet_spike.utils.files import write_lines

    out = args.out or args.asr_exp / "report.html"
    page = build(gather(args.asr_exp, args.inference_tag, sets, args.corpus_dir), args.utt)
    write_lines(out, [page.rstrip("\n")])
    print(f"written: {out}, {len(page.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    run(main)
