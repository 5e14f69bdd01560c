"""Try models on a grid of simulated cores: the best points, and what events save where.

A model's sparsification options are experiments of their own (other points, thresholds, levels):
name them all, and each is tried in every coding on every core.

With --untrained, the dense, naively sparse, event-driven, optimized and spiking SpeechMamba of one
backbone are drawn, made as sparse as the published models are, and recorded on noise: cycles follow
from sizes and events alone. One layer of the published size, with 16 and with 256 scan states:

  .venv/bin/python -m espnet_spike.bin.explore --untrained --num_blocks 1 --d_state 16 256 \\
    --loops blocked --grid conf/hardware/small.yaml --output_dir exp/published_layer
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, Parser, run
from espnet_spike.utils.files import plural
from espnet_spike.utils.resources import config_file, shipped

if TYPE_CHECKING:
    from espnet_spike.simulator.explore import Subject

_logger = logging.getLogger(__name__)
RESULT = "explore.json"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="espnet_spike.bin.explore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--asr_exp", type=Path, nargs="+", default=[], help="exp/<asr_tag>, ...")
    parser.add_argument("--data_dir", type=Path, help="features to record")
    parser.add_argument(
        "--untrained", action="store_true", help="draw models in place of --asr_exp"
    )
    parser.add_argument(
        "--asr_config", type=config_file, help="YAML with their backbone [the published one]"
    )
    parser.add_argument("--num_blocks", type=COUNT, help="of theirs [the backbone's]")
    parser.add_argument("--d_state", type=COUNT, nargs="+", help="of theirs [the backbone's]")
    parser.add_argument(
        "--loops",
        nargs="+",
        choices=("plain", "unrolled", "blocked"),
        default=["plain", "unrolled", "blocked"],
        help="of the kernels; the tables need no others than blocked [all three]",
    )
    parser.add_argument(
        "--frames", type=COUNT, default=250, help="of noise, after subsampling [250]"
    )
    parser.add_argument("--output_dir", type=Path, help="gets explore.json and simulated calls")
    parser.add_argument(
        "--grid",
        type=config_file,
        default=shipped("hardware/grid.yaml"),
        help="hardware YAML in which values may be lists",
    )
    parser.add_argument("--utterances", type=COUNT, default=5, help="how many to record [5]")
    parser.add_argument(
        "--cost_model",
        default="horowitz45_sram1m",
        help="prices of energy: a name in conf/processor_energy, or a YAML file",
    )
    parser.add_argument("--best", type=COUNT, default=10, help="points to print [10]")
    parser.add_argument("--nj", type=COUNT, help="simulators at once; one a core if not given")
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
    from espnet_spike.simulator.explore import explore, front_table, report

    check(args)
    subjects = untrained(args) if args.untrained else trained(args)
    loops = ["" if loop == "plain" else f"_{loop}" for loop in args.loops]
    exploration = explore(subjects, grid, args.cost_model, args.nj, loops)
    points = exploration.points
    print("\n".join(front_table(points, args.best)))
    print(
        f"\n{plural(len(points), 'point')} on {plural(len(grid), 'core')}; unbeaten: no other "
        f"is better in both time "
        f"and energy. Replay-extrapolated; energy estimated by {args.cost_model} ({prices.source})."
    )
    if lines := report(exploration):
        print("\n" + "\n".join(lines))
    if args.output_dir is not None:
        from espnet_spike.utils.files import write_json

        write_json(args.output_dir / RESULT, exploration.results, ensure_ascii=False)


def check(args: argparse.Namespace) -> None:
    """Check which models are asked for.

    Raises:
        UserError: options are missing, or belong to the other kind of model.
    """
    drawn = ("asr_config", "num_blocks", "d_state")
    if args.untrained:
        if args.asr_exp or args.data_dir:
            raise UserError("--untrained draws models: --asr_exp and --data_dir have no use")
        if args.output_dir is None:
            raise UserError("--untrained needs --output_dir", "simulated calls are kept in it")
        return
    if not args.asr_exp or args.data_dir is None:
        raise UserError("--asr_exp and --data_dir are needed", "or --untrained")
    if given := [f"--{name}" for name in drawn if getattr(args, name) is not None]:
        raise UserError(f"{', '.join(given)} need --untrained: a trained model has its own")


def trained(args: argparse.Namespace) -> "Iterator[Subject]":
    """Record the experiments, one after the other."""
    from espnet_spike.simulator.explore import Subject
    from espnet_spike.simulator.simulate import (
        FOLDER,
        check_experiment,
        model_name,
        record_experiment,
    )

    for path in args.asr_exp:  # all of them before the first is simulated, which takes minutes
        check_experiment(path, args.data_dir)
    for number, path in enumerate(args.asr_exp, 1):
        _logger.info("recording %s (%d of %d)", path.name, number, len(args.asr_exp))
        recording, _ = record_experiment(path, args.data_dir, args.utterances)
        log = (args.output_dir or path / FOLDER) / "calls.jsonl"
        yield Subject(path.name, model_name(path), recording, log, args.data_dir.name)


def untrained(args: argparse.Namespace) -> "Iterator[Subject]":
    """Draw and record the models of a backbone, one after the other."""
    from espnet_spike.simulator.explore import NOISE, Subject
    from espnet_spike.simulator.untrained import SHARES, read_backbone, record_untrained

    backbone, size = read_backbone(args.asr_config)
    if args.num_blocks is not None:
        backbone["num_blocks"] = args.num_blocks
    for states in args.d_state or [backbone.get("d_state")]:
        chosen = backbone | ({} if states is None else {"d_state": states})
        for model in SHARES:
            _logger.info("recording %s", model if states is None else f"{model}, {states} states")
            recording = record_untrained(model, chosen, size, args.frames)
            name = model if states is None else f"{model}, {states} states"
            yield Subject(name, model, recording, args.output_dir / "calls.jsonl", NOISE)


if __name__ == "__main__":
    run(main)
