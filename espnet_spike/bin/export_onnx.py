"""Export encoder and CTC of a trained model as ONNX, in the form that sherpa-onnx loads.

Writes model.onnx, tokens.txt and export.json into --out, and model.int8.onnx with --int8. The
graph takes log-mel features of samples in the range of +-1 and normalises them itself. It is
compared with torch, on all utterances of --check_dir too; when more differs than rounding explains,
the command fails. Error rates of --check_dir are those of greedy CTC.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.export_onnx", description=__doc__)
    parser.add_argument(
        "--asr_exp", type=Path, required=True, help="exp/<asr_tag>, or a pack of it (.zip)"
    )
    parser.add_argument("--inference_asr_model", help="model file in asr_exp; the best by default")
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets all files",
    )
    parser.add_argument("--int8", action="store_true", help="also with weights in one byte")
    parser.add_argument(
        "--check_dir", type=Path, nargs="+", default=[], metavar="DIR", help="features of a set"
    )
    parser.add_argument(
        "--normalization",
        help="of the texts; if absent, what the model's decodings were scored under",
    )
    SpikeOptions.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export, check, and print what came out."""
    args = get_parser().parse_args(argv)
    spike_options = SpikeOptions.from_options(args)
    for folder in args.check_dir:
        if not folder.is_dir():
            raise UserError(f"--check_dir {folder}: no such folder", "such as dump/fbank/test")
    check_dirs = {folder.name: folder for folder in args.check_dir}
    if len(check_dirs) < len(args.check_dir):
        names = " ".join(sorted(folder.name for folder in args.check_dir))
        raise UserError(f"--check_dir: two folders are named alike: {names}")
    import logging

    from espnet_spike.export.onnx_experiment import export_experiment

    logging.getLogger().setLevel(logging.ERROR)  # ESPnet prints the model at length
    exported = export_experiment(
        args.asr_exp,
        args.out,
        args.inference_asr_model,
        spike_options,
        args.int8,
        check_dirs,
        args.normalization,
        say=partial(print, flush=True),
    )
    print("\n".join(exported.usage()))


if __name__ == "__main__":
    run(main)
