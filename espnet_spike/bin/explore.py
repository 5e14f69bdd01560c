"""Try trained models on a grid of simulated cores and print the best points.

A model's sparsification options are experiments of their own (other points, thresholds, levels):
name them all, and each is tried in every coding on every core.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.resources import config_file, shipped


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.explore", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, nargs="+", required=True, help="exp/<asr_tag>, ...")
    parser.add_argument("--data_dir", type=Path, required=True, help="features to record")
    parser.add_argument(
        "--grid",
        type=config_file,
        default=shipped("hardware/grid.yaml"),
        help="hardware YAML in which values may be lists",
    )
    parser.add_argument("--utterances", type=int, default=5, help="how many to record")
    parser.add_argument(
        "--cost_model",
        default="horowitz45_sram1m",
        help="prices of energy: a name in conf/processor_energy, or a YAML file",
    )
    parser.add_argument("--best", type=int, default=10, help="points to print")
    parser.add_argument("--nj", type=int, help="simulators at once; one a core if not given")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_spike.simulator import toolchain
    from espnet_spike.simulator.energy import read_prices
    from espnet_spike.simulator.hardware import read_grid

    if lack := toolchain.available():
        raise UserError(lack, toolchain.install_hint())
    grid, prices = list(read_grid(args.grid)), read_prices(args.cost_model)
    if any(hardware.multiplier == "none" for hardware in grid):
        raise UserError(f"{args.grid}: multiplier none cannot run a whole model", "leave it out")
    from espnet_spike.simulator.explore import explore, front_table
    from espnet_spike.simulator.simulate import FOLDER, record_experiment

    paths = {path.name: path for path in args.asr_exp}
    recordings = {
        name: record_experiment(path, args.data_dir, args.utterances)[0]
        for name, path in paths.items()
    }
    points = explore(
        recordings,
        grid,
        lambda name: paths[name] / FOLDER / "calls.jsonl",
        args.cost_model,
        args.nj,
    )
    print("\n".join(front_table(points, args.best)))
    print(
        f"\n{len(points)} points on {len(grid)} cores; unbeaten: no other is better in both time "
        f"and energy. Replay-extrapolated; energy estimated by {args.cost_model} ({prices.source})."
    )


if __name__ == "__main__":
    run(main)
