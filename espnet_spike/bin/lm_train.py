"""Train an ESPnet language model on transcripts, for shallow fusion; guarded as asr_train is."""

import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.tasks import determinism
from espnet_spike.training.options import add_training_options
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.resources import config_file


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(description=__doc__)
    parser.add_argument("--lm_config", type=config_file, required=True, help="YAML of the training")
    parser.add_argument(
        "--train_text", type=Path, nargs="+", required=True, help="Kaldi text, one file or several"
    )
    parser.add_argument(
        "--valid_text", type=Path, required=True, help="to choose the best epoch by"
    )
    parser.add_argument("--stats_dir", type=Path, required=True, help="gets the lengths of lines")
    add_training_options(parser, "lm")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    if "deterministic" in options:
        determinism.ask()
    from espnet_spike.experiment import read_epochs
    from espnet_spike.training.progress import perplexity_of
    from espnet_spike.training.request import lm_request
    from espnet_spike.training.train import train

    best = train(lm_request(vars(options)))
    if best is not None:
        losses = [epoch["valid"].get("loss") for epoch in read_epochs(best.parent)]
        lowest = min((loss for loss in losses if loss is not None), default=None)
        found = perplexity_of(lowest)
        said = "" if found is None else f", perplexity {found:.4g} a token in the best epoch"
        logging.getLogger(__name__).info("trained: %s%s", best, said)


if __name__ == "__main__":
    run(main)
