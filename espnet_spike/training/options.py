"""The options that the training commands share."""

import argparse
from pathlib import Path

from espnet_spike.tasks.arguments import DISTRIBUTED
from espnet_spike.utils.cli import COUNT, NATURAL, SEED


def add_training_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options that the ASR and LM training commands share."""
    parser.add_argument("--output_dir", type=Path, required=True, help="experiment folder")
    parser.add_argument("--token_list", type=Path, required=True, help="one token per line")
    parser.add_argument("--token_type", default="bpe", choices=["bpe", "char", "word"], help="unit")
    parser.add_argument("--bpemodel", type=Path, help="sentencepiece model, for token_type bpe")
    parser.add_argument("--ngpu", type=NATURAL, default=0, help="0 trains on the CPU")
    parser.add_argument("--seed", type=SEED, default=0, help="of weights, data order, dropout")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        default=argparse.SUPPRESS,  # not there when not given: earlier requests stay the same
        help="the same weights to the bit whenever trained with as many threads",
    )
    if what == "asr":
        parser.add_argument(
            "--num_splits",
            type=COUNT,
            default=argparse.SUPPRESS,
            help="read the lists of the training data in that many parts, to save memory",
        )
    parser.add_argument(
        f"--{what}_args",
        default="",
        help='options of ESPnet, stronger than the YAML: "--max_epoch 3 --optim_conf lr=0.001"',
    )
    group = parser.add_argument_group("several processes", "as ESPnet's options; also by torchrun")
    for name in DISTRIBUTED:
        group.add_argument(f"--{name}", help="as of ESPnet")
