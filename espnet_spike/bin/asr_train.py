"""Train an ASR model with ESPnet, guarded: it ends with status 0 only if something was learnt.

The same command again resumes an interrupted training, or returns at once when all is done. Given
the arguments of espnet2.bin.asr_train instead, it is that command with this package's encoders.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.tasks import determinism
from espnet_spike.tasks.arguments import is_stock, without_meta
from espnet_spike.training.options import add_training_options
from espnet_spike.utils.cli import Parser, run, str2bool
from espnet_spike.utils.resources import config_file


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
    parser.add_argument(
        "--train_dir", type=Path, required=True, help="holds feats.scp, feats_shape and text"
    )
    parser.add_argument("--valid_dir", type=Path, required=True, help="likewise")
    parser.add_argument("--stats_dir", type=Path, required=True, help="made by collect_stats")
    parser.add_argument(
        "--twin",
        action="store_true",
        default=argparse.SUPPRESS,  # not there when not given: earlier requests stay the same
        help="train the dense twin of the configuration, for init_from: twin",
    )
    add_training_options(parser, "asr")
    parser.add_argument(
        "--require_learnt",
        type=str2bool,
        default=argparse.SUPPRESS,  # no part of a request
        help="fail if the model is no better than a constant output",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if argv is None else argv
    if is_stock(words):
        from espnet_spike.tasks.asr import SpikeASRTask

        # what else is in that command line, ESPnet answers for: no check before, no verdict after
        with tempfile.TemporaryDirectory() as folder:
            SpikeASRTask.main(cmd=without_meta(words, Path(folder)))
        return
    options = get_parser().parse_args(words)
    if "deterministic" in options:
        determinism.ask()
    from espnet_spike.advice.verdict import give_verdict, require
    from espnet_spike.training.request import asr_request
    from espnet_spike.training.train import train

    request = vars(options)
    must_have_learnt = request.pop("require_learnt", False)  # no part of what is trained
    best = train(asr_request(request))
    if best is None:
        return
    logging.getLogger(__name__).info("trained: %s", best)
    verdict = give_verdict(options.output_dir, options.train_dir, options.valid_dir)
    if must_have_learnt:
        require(verdict)


if __name__ == "__main__":
    run(main)
