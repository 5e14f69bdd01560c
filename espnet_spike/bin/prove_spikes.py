"""Prove on whole test sets that a trained encoder computes the same with 0/1 spikes as with counts.

In float64 every spike count has to be equal in three forms: counts, slots of 0/1 spikes, and
membranes that fire and are reset slot by slot (LIF over frames: frame by frame); and no weight may
meet anything but 0 and 1, the layer that reads the features apart, and what a layer says is
real-valued by design: those weights are named. In fp32 a rounding can flip a count, which changes
what follows: the shares of flipped counts and of equal greedy CTC results are printed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, Parser, named_dirs, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.prove_spikes", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument(
        "--inference_asr_model",
        old=["--asr_model_file"],
        help="file name there; by default the best",
    )
    parser.add_argument("--utterances", type=COUNT, help="of each set, the first; else all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR", help="a set and its features")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line a set; exit with an error when the proof does not hold."""
    args = get_parser().parse_args(argv)
    sets = named_dirs(args.sets)
    from dataclasses import asdict

    from espnet_spike.export.spike_proof import prove_spikes
    from espnet_spike.utils.files import write_json

    proofs = prove_spikes(args.asr_exp, args.inference_asr_model, sets, args.utterances)
    print(
        "| set | utterances | longest, frames | float64: other counts | fired: other counts "
        "| products of weights with 0/1 | with anything else | fp32: other counts "
        "| fp32: same result |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, proof in proofs.items():
        print(
            f"| {name} | {proof.utterances} | {proof.longest} | {proof.double_flips} "
            f"| {proof.fire_flips} | {proof.products} | {sum(proof.violations.values())} "
            f"| {proof.fp32_flips:.4%} | {proof.same_ctc:.1%} |"
        )
    analog = {weight for proof in proofs.values() for weight in proof.analog}
    print(f"\nReads the features, which are no spikes: {', '.join(sorted(analog))}")
    if real := {weight for proof in proofs.values() for weight in proof.real}:
        selects = sum(proof.selects for proof in proofs.values())
        print(f"Scans that select by 0/1 spikes: {selects}")
        print(f"Real-valued by design, not on spikes: {', '.join(sorted(real))}")
    if args.json:
        figures = {name: asdict(proof) for name, proof in proofs.items()}
        write_json(args.json, figures)


if __name__ == "__main__":
    run(main)
