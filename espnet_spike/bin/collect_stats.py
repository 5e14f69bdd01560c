"""Collect the shapes and feature statistics that training needs, and check that they are finite."""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.training.options import add_training_options
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.resources import config_file


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--asr_config", type=config_file, required=True, help="YAML of the training"
    )
    parser.add_argument(
        "--train_dir", type=Path, required=True, help="holds feats.scp, feats_shape and text"
    )
    parser.add_argument("--valid_dir", type=Path, required=True, help="likewise")
    add_training_options(parser, "asr")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    from espnet_spike.training.request import statistics_request
    from espnet_spike.training.statistics import collect

    collect(statistics_request(vars(options)))


if __name__ == "__main__":
    run(main)
