"""Pack a trained model with all that decoding needs into one file, and check that it loads."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import RATE, Parser, run
from espnet_spike.utils.resources import config_file


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.pack", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument("--lm_exp", type=Path, help="folder of a language model")
    parser.add_argument("--inference_config", type=config_file, help="YAML of the beam search")
    parser.add_argument("--inference_args", default="", help="ESPnet options that override it")
    parser.add_argument(
        "--fbank_config", type=config_file, help="YAML of the features, for audio input"
    )
    parser.add_argument("--fs", type=RATE, help="sampling rate of the audio in Hz")
    parser.add_argument("--token_list", type=Path, help="tokens.txt, to have it in the pack")
    parser.add_argument("--out", type=Path, required=True, help="archive to write, .zip or .tgz")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the archive."""
    args = get_parser().parse_args(argv)
    from espnet_spike.export.pack import Contents, check_name, pack
    from espnet_spike.inference.decode import fit_beam, read_settings

    check_name(args.out)  # before a model is read
    settings = read_settings(args.inference_config, args.inference_args)
    contents = Contents(
        asr_exp=args.asr_exp,
        lm_exp=args.lm_exp,
        settings=fit_beam(settings, args.asr_exp),
        fbank_config=args.fbank_config,
        fs=args.fs,
        token_list=args.token_list,
    )
    pack(contents, args.out)
    print(f"written and checked: {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main)
