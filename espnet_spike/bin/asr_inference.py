"""Decode with ESPnet's asr_inference, this package's encoders and models being known to it.

Takes the options of espnet2.bin.asr_inference (its --help lists them). Or takes @FILE ..., each
file holding the options of one run, one word a line: the runs are decoded one after the other.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the help text; the options themselves are ESPnet's."""
    return Parser(
        prog="espnet_spike.bin.asr_inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-h] ESPNET_OPTIONS | @FILE [@FILE ...]",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ESPnet's inference once for the options given, or once for each @FILE."""
    _, words = get_parser().parse_known_args(argv)
    files = [Path(word.removeprefix("@")) for word in words if word.startswith("@")]
    if files and len(files) != len(words):
        raise UserError("@FILE and options together", "put the options into the files")
    if not words:
        raise UserError("nothing to decode", "see --help")
    runs = [file.read_text(encoding="utf-8").splitlines() for file in files] or [words]
    from espnet_spike.inference.worker import infer

    for run_words in runs:
        infer(run_words)


if __name__ == "__main__":
    run(main)
