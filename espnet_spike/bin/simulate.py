"""Count the cycles of a trained encoder on a simulated RISC-V core (Ibex).

Writes EXP/simulate/NAME.json, NAME.png and events.npz, and a summary into EXP/results.json. The
same command again takes what has been simulated before from EXP/simulate/calls.jsonl.

With --integer_wer nothing is simulated: the whole set is decoded, once by the float encoder and
once by the encoder in int8 weights and int16 activations, and both error rates are printed. That is
for iml_spikeformer; other encoders are refused.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.data.text_normalization import PROFILES
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, Parser, run
from espnet_spike.utils.files import plural
from espnet_spike.utils.resources import config_file, shipped


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="espnet_spike.bin.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--asr_exp", type=Path, help="exp/<asr_tag>")
    parser.add_argument("--data_dir", type=Path, help="features of utterances to record")
    parser.add_argument(
        "--hardware",
        type=config_file,
        nargs="+",
        default=[shipped("hardware/small.yaml")],
        help="YAML of a core, or several [conf/hardware/small.yaml]",
    )
    parser.add_argument("--utterances", type=COUNT, default=20, help="how many to record [20]")
    parser.add_argument("--nj", type=COUNT, help="simulators at once [one a core]")
    parser.add_argument(
        "--compiler",
        choices=("zig", "gcc"),
        default="zig",
        help="of the kernels: the extra's, or riscv64-unknown-elf-gcc of the system [zig]",
    )
    parser.add_argument(
        "--integer_wer",
        action="store_true",
        help="decode --data_dir with the encoder in integers, in numpy (greedy CTC)",
    )
    parser.add_argument(
        "--calibration_dir",
        type=Path,
        help="features on whose first --utterances the ranges of activations are measured, "
        "for --integer_wer [--data_dir]",
    )
    parser.add_argument(
        "--normalization",
        choices=tuple(PROFILES),
        help="what is done to both texts before comparing, for --integer_wer: that of the recipe's "
        "stage score [none]",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of --integer_wer here too"
    )
    parser.add_argument(
        "--check", action="store_true", help="only say what is missing to simulate, if anything"
    )
    return parser


def check_needed(args: argparse.Namespace) -> None:
    """See that there is something to work on.

    Raises:
        UserError: an option is missing.
    """
    if args.asr_exp is None or args.data_dir is None:
        raise UserError("--asr_exp and --data_dir are needed")


def print_integer_wer(args: argparse.Namespace) -> None:
    """Decode a set by both forms of the encoder; print where they differ, and the error rates."""
    check_needed(args)
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}")
    from dataclasses import asdict

    from espnet_spike.simulator.integer.decode import decode_in_integers
    from espnet_spike.utils.files import write_json

    calibration = args.calibration_dir or args.data_dir
    found = decode_in_integers(
        *(args.asr_exp, args.data_dir, calibration, args.utterances),
        normalization=args.normalization or "none",
    )
    for utt, (ref, of_float, of_integer) in found.differing.items():
        print(f"{utt}\n  ref      {ref}\n  float    {of_float}\n  integer  {of_integer}")
    print(
        "| set | utterances | words | WER float | WER integer | CER float | CER integer "
        "| other hypotheses | same counts | saturated activations | saturated sums |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {args.data_dir.name} | {found.utterances} | {found.words} | {found.float_wer:.1f} "
        f"| {found.integer_wer:.1f} | {found.float_cer:.1f} | {found.integer_cer:.1f} "
        f"| {len(found.differing)} | {found.same_counts:.1%} "
        f"| {found.saturated_activations:.4%} | {found.saturated_sums:.4%} |"
    )
    if found.saturated:
        print("\n| layer | saturated activations | saturated sums |\n|---|---:|---:|")
        for name, (activations, sums) in found.saturated.items():
            print(f"| {name} | {activations:.4%} | {sums:.4%} |")
        print()
    for name, share in found.too_narrow().items():
        print(
            f"warning: {name}: {share:.2%} of its values are larger than its registers: the set "
            "goes beyond the utterances that the ranges were measured on (--calibration_dir, "
            "--utterances)",
            file=sys.stderr,
        )
    same = calibration.resolve() == args.data_dir.resolve()
    print(
        f"int8 weights with a scale for each output channel, int16 activations; ranges of the "
        f"first {plural(args.utterances, 'utterance')} of "
        f"{'the decoded set itself' if same else calibration}; "
        f"the encoder's output is {found.output_error:.1%} off; greedy CTC; "
        f"text normalization: {found.normalization}"
    )
    if args.json:
        rates = ("float_wer", "integer_wer", "float_cer", "integer_cer")
        figures = {name: getattr(found, name) for name in rates}
        sets = {"data": str(args.data_dir), "calibration": str(calibration)}
        sets |= {"calibration_utterances": args.utterances}
        write_json(args.json, asdict(found) | figures | sets, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.integer_wer:
        print_integer_wer(args)
        return
    if args.calibration_dir or args.json or args.normalization:
        raise UserError(
            "--calibration_dir, --normalization and --json are of --integer_wer",
            "add --integer_wer",
        )
    from espnet_spike.simulator import toolchain
    from espnet_spike.simulator.hardware import read_hardware

    if lack := toolchain.available(args.compiler):
        raise UserError(lack, toolchain.install_hint())
    if args.check:
        return
    check_needed(args)
    hardware = {path.stem: read_hardware(path) for path in args.hardware}
    if len(hardware) < len(args.hardware):
        raise UserError("--hardware: two files have the same name")
    from espnet_spike.simulator.simulate import simulate_experiment

    found = simulate_experiment(
        args.asr_exp, args.data_dir, hardware, args.utterances, args.nj, args.compiler
    )
    for name, figures in found.items():
        fit = figures["fit"]
        print(
            f"{name}: {plural(figures['utterances'], 'utterance')}, "
            f"{plural(figures['frames'], 'frame')}; "
            f"{figures['simulated']['calls']} calls simulated, outputs bit for bit as modelled; "
            f"fit on held-out calls within {fit['held_out_max']:.2%}"
        )
        print(f"  front end and encoder; left out: {', '.join(figures['left_out'])}")
        for coding, counts in figures["codings"].items():
            print(
                f"  {coding:15} {counts['cycles']:12.0f} cycles a frame, "
                f"{counts['instructions']:12.0f} instructions, {counts['memory']:10.0f} loads and "
                f"stores, {counts['latency_ms']:9.3f} ms"
            )


if __name__ == "__main__":
    run(main)
