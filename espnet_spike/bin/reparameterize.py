"""Merge a trained encoder's matrices for inference and prove it on real utterances."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, Parser, run, str2bool
from espnet_spike.utils.files import plural


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.reparameterize", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument(
        "--inference_asr_model",
        old=["--asr_model_file"],
        help="file name there; by default the best",
    )
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="features of utterances to prove it on"
    )
    parser.add_argument("--utterances", type=COUNT, default=20, help="how many of them")
    parser.add_argument(
        "--fold_qk",
        type=str2bool,
        default=True,
        help="merge W_Q and W_K: additions only, but more weights",
    )
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        help="experiment folder to write; decode it as any other",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_spike.export.reparameterize import reparameterize

    proof = reparameterize(
        args.asr_exp,
        args.inference_asr_model,
        args.data_dir,
        args.out,
        args.fold_qk,
        args.utterances,
    )
    print(
        f"{plural(proof.utterances, 'utterance')}: merged layers differ by "
        f"{proof.layer_fp32:.1e} (fp32, "
        f"relative), the encoder by {proof.double:.1e} with {proof.double_flips} other counts "
        f"(float64); in fp32 {proof.fp32_flips:.2%} of the counts flip, the output differs by "
        f"{proof.fp32:.1e}, {proof.same_ctc:.0%} of the greedy CTC results are the same"
    )
    print(f"written: {args.out}")


if __name__ == "__main__":
    run(main)
