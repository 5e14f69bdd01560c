"""Give a trained dense SpeechMamba magnitude thresholds of a mean sparsity, without any training.

The baseline that learnt sparsity is compared with. One percentile of the magnitudes is taken at
every point F1 to F8; which one follows from the sparsity wanted on some training utterances. The
result is an experiment folder that decodes like any other.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, SEED, SHARE, Parser, run


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(prog="espnet_spike.bin.naive_sparse", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="trained, of speech_mamba")
    parser.add_argument("--train_dir", type=Path, required=True, help="as in training")
    parser.add_argument("--output_dir", type=Path, required=True, help="the new experiment")
    parser.add_argument("--sparsity", type=SHARE, default=0.2, help="mean share of zeros wanted")
    parser.add_argument("--utterances", type=COUNT, default=100, help="that it is measured on")
    parser.add_argument("--seed", type=SEED, default=0, help="of the choice of utterances")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_spike.training.sparsify import sparsify_naively

    best = sparsify_naively(
        args.asr_exp, args.train_dir, args.output_dir, args.sparsity, args.utterances, args.seed
    )
    logging.getLogger(__name__).info("thresholds for a sparsity of %g: %s", args.sparsity, best)


if __name__ == "__main__":
    run(main)
