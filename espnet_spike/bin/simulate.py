"""Count the cycles of a trained encoder on a simulated RISC-V core (Ibex).

Writes EXP/simulate/NAME.json, NAME.png and events.npz, and a summary into EXP/results.json. The
same command again takes what has been simulated before from EXP/simulate/calls.jsonl.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
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
    parser.add_argument("--utterances", type=int, default=20, help="how many to record [20]")
    parser.add_argument("--nj", type=int, help="simulators at once [one a core]")
    parser.add_argument(
        "--compiler",
        choices=("zig", "gcc"),
        default="zig",
        help="of the kernels: the extra's, or riscv64-unknown-elf-gcc of the system [zig]",
    )
    parser.add_argument(
        "--check", action="store_true", help="only say what is missing to simulate, if anything"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_spike.simulator import toolchain
    from espnet_spike.simulator.hardware import read_hardware

    if lack := toolchain.available(args.compiler):
        raise UserError(lack, toolchain.install_hint())
    if args.check:
        return
    if args.asr_exp is None or args.data_dir is None:
        raise UserError("--asr_exp and --data_dir are needed")
    if args.utterances < 1:
        raise UserError(f"--utterances {args.utterances} must be at least 1")
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
