"""Names of experiment folders, made from the options that change what is trained or decoded.

Prints one tag::

    python -m espnet_spike.bin.experiment_tag --config conf/train_x.yaml --args "..." --suffix ...
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser

# These may change between two calls without starting a new experiment: a longer training goes on
# in the same folder.
RESUMABLE_KEYS = frozenset(
    {"max_epoch", "patience", "num_workers", "ngpu", "log_interval", "log_level", "use_tensorboard"}
)


def arguments_tag(arguments: str) -> str:
    """Turn extra arguments into part of a folder name.

    >>> arguments_tag("--encoder_conf T=4 --max_epoch 90 --ctc_weight 0.5")
    '_encoder_confT=4_ctc_weight0.5'
    """
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UserError(
            f"cannot read the arguments {arguments!r}: {error}", "check the quotes"
        ) from None
    tag, keep = "", True
    for word in words:
        if word.startswith("--"):
            key, _, value = word.removeprefix("--").partition("=")
            keep = key.replace("-", "_") not in RESUMABLE_KEYS
            tag += f"_{key}{value}" if keep else ""
        elif keep:
            tag += word
    return re.sub(r"[^\w.=+-]", "_", tag)


def experiment_tag(config: str, arguments: str = "", suffixes: Sequence[str] = ()) -> str:
    """Return ``<config name without .yaml and 'train_'>_<suffixes>_<arguments>``.

    >>> experiment_tag("conf/train_transformer.yaml", "", ["fbank", "bpe30"])
    'transformer_fbank_bpe30'
    """
    base = Path(config).stem.removeprefix("train_")
    return "_".join([base, *filter(None, suffixes)]) + arguments_tag(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tag."""
    parser = Parser(
        prog="espnet_spike.bin.experiment_tag", description="Print the name of an experiment."
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--args", default="")
    parser.add_argument("suffixes", nargs="*")
    options = parser.parse_args(argv)
    print(experiment_tag(options.config, options.args, options.suffixes))


if __name__ == "__main__":
    from espnet_spike.utils.cli import run

    run(main)
