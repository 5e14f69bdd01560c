"""Count the operations and the energy of a trained model on test sets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, Parser, named_dirs, run, str2bool

MODELS = "horowitz45_fp32 horowitz45_fp16 horowitz45_int8 lemaire45_int32"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.count", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, help="exp/<asr_tag>")
    parser.add_argument(
        "--inference_asr_model", help="model file in asr_exp; the decoded one when not given"
    )
    parser.add_argument(
        "--energy_model",
        default=MODELS,
        help="cost models: names in conf/energy or YAML files; the first is the main one",
    )
    parser.add_argument(
        "--spike_mode",
        choices=("integer", "binary", "fire"),
        help="how the encoder runs; with --T and --T_rule, as decoded when none is given",
    )
    parser.add_argument("--T", type=COUNT, help="levels of the IMLS neurons")
    parser.add_argument("--T_rule", choices=("keep", "rescale"), help="of the thresholds")
    parser.add_argument(
        "--fold_qk", type=str2bool, default=False, help="count attention with W_Q and W_K merged"
    )
    parser.add_argument(
        "--forms",
        type=str2bool,
        default=False,
        help="count all forms besides: integer counts and 0/1 spikes, W_Q and W_K apart and merged",
    )
    parser.add_argument(
        "--twin_exp",
        type=Path,
        help="exp/asr_X of the trained dense twin; that which the training started from if absent",
    )
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        help="exp/<asr_tag>/<inference_tag>",
    )
    parser.add_argument(
        "--assumptions",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="count nothing, but print, of counted sets (exp/<asr_tag>/<inference_tag>/<set>), the "
        "ratios of energy under each assumption in turn, and write them to output_dir",
    )
    parser.add_argument("sets", nargs="*", metavar="NAME=DIR", help="a set and its features")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Count every set and print a line each."""
    parser = get_parser()
    args = parser.parse_args(argv)
    needed = {"--asr_exp": args.asr_exp, "NAME=DIR": args.sets}
    if not args.assumptions and (lacking := [name for name, value in needed.items() if not value]):
        parser.error(f"the following arguments are required: {', '.join(lacking)}")
    if args.assumptions and (unused := [name for name, value in needed.items() if value]):
        parser.error(f"--assumptions reads what was counted and takes no {', '.join(unused)}")
    sets = named_dirs(args.sets)
    import logging

    from espnet_spike.errors import UserError

    logging.getLogger().setLevel(logging.ERROR)
    from espnet_spike.counting.energy import read_cost_model

    given = args.energy_model
    names = [given] if Path(given).is_file() else given.split()  # a path may hold spaces
    models = [read_cost_model(name) for name in names]
    if not models:
        raise UserError("--energy_model is empty", f"give for example {MODELS.split()[0]}")
    if args.assumptions:
        from espnet_spike.counting.assumptions import write

        print("\n".join(write(args.out, args.assumptions, models)))
        return
    from espnet_spike.counting.count import count_sets
    from espnet_spike.encoders.spike_options import SpikeOptions
    from espnet_spike.results.energy_tables import count_lines

    results = count_sets(
        args.asr_exp,
        sets,
        args.out,
        models,
        args.inference_asr_model,
        SpikeOptions.from_options(args),
        args.fold_qk,
        args.twin_exp,
        args.forms,
    )
    print("\n".join(count_lines(results)))


if __name__ == "__main__":
    run(main)
