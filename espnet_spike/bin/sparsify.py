"""Make a trained event-driven model sparser: calibrate thresholds on data, then fine-tune.

The training YAML asks for it by `sparsify` under `spike_meta`; without that nothing is done. The
same command again resumes.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.tasks import determinism
from espnet_spike.training.options import add_training_options
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.resources import config_file

STEPS = ("calibrate", "finetune")


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--asr_config",
        old=["--config"],
        dest="config",
        type=config_file,
        required=True,
        help="YAML of the training",
    )
    parser.add_argument("--asr_exp", type=Path, required=True, help="the trained experiment")
    parser.add_argument("--train_dir", type=Path, required=True, help="as in training")
    parser.add_argument("--valid_dir", type=Path, required=True, help="likewise")
    parser.add_argument("--stats_dir", type=Path, required=True, help="made by collect_stats")
    parser.add_argument("--steps", type=_steps, default=STEPS, help="some of: calibrate finetune")
    parser.add_argument(
        "--verbose", action="store_true", help="tell of every threshold that is tried"
    )
    add_training_options(parser, "asr")
    return parser


def _steps(value: str) -> tuple[str, ...]:
    steps = tuple(value.split())
    if not steps or set(steps) - set(STEPS):
        raise argparse.ArgumentTypeError(f"{value!r} is none of {' '.join(STEPS)}")
    return steps


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = vars(get_parser().parse_args(argv))
    if "deterministic" in options:
        determinism.ask()
    logger = logging.getLogger(__name__)
    from espnet_spike.advice.verdict import give_verdict
    from espnet_spike.training.request import asr_request
    from espnet_spike.training.sparsify import sparsify

    asr_exp, steps = options.pop("asr_exp"), options.pop("steps")
    if options.pop("verbose"):
        logging.getLogger("espnet_spike.training.calibration").setLevel(logging.DEBUG)
    best = sparsify(asr_request(options), asr_exp, steps)
    if best is None:
        logger.info("skipped: %s has no spike_meta.sparsify", options["config"])
    else:
        logger.info("sparsified: %s", best)
        if "finetune" in steps:
            give_verdict(options["output_dir"], options["train_dir"], options["valid_dir"])


if __name__ == "__main__":
    run(main)
