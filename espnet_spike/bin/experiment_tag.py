"""Print the name of an experiment's folder, made from the options that change what comes out.

For example, of a training::

    .venv/bin/python -m espnet_spike.bin.experiment_tag --config conf/train_x.yaml --args "..." \\
        SUFFIX ...
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import Parser, run


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(prog="espnet_spike.bin.experiment_tag", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML of training or decoding")
    parser.add_argument("--args", default="", help="options over --config")
    parser.add_argument(
        "--conf_dirs",
        type=Path,
        nargs="+",
        default=[],
        help="folders whose configurations give their plain names, the first that has one",
    )
    parser.add_argument(
        "--expdir", type=Path, help="where a finished experiment keeps the plain name it has"
    )
    parser.add_argument("suffixes", nargs="*", metavar="SUFFIX", help="further parts of the name")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tag."""
    from espnet_spike.experiment import experiment_tag

    options = get_parser().parse_args(argv)
    print(
        experiment_tag(
            options.config, options.args, options.suffixes, options.conf_dirs, options.expdir
        )
    )


if __name__ == "__main__":
    run(main)
