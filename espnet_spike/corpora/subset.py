"""A part of a data directory, so that error can be seen against hours of training speech.

Utterances come in an order that the seed alone decides, so that a shorter part lies within every
longer one. Run in a recipe folder that has run stage 1::

    ../../.venv/bin/python -m espnet_spike.corpora.subset data/train data/train_10min \\
        --minutes 10 --seed 1
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_spike.corpora.sets import write_sets
from espnet_spike.data.ark import ArkReader
from espnet_spike.data.audio import inspect, parse_source
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import POSITIVE, SEED, Parser, run

FRAME_SHIFT = 0.01  # s, of features
NEARLY = 0.95  # of what is asked for: where a set has that much, it is taken whole

logger = logging.getLogger("data")


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description="Write a part of a data directory, utterances drawn by a seed.")
    parser.add_argument("source", type=Path, help="data directory")
    parser.add_argument("target", type=Path, help="data directory to write")
    parser.add_argument("--minutes", type=POSITIVE, required=True, help="of speech in the part")
    parser.add_argument("--seed", type=SEED, default=1, help="of the order of the utterances")
    return parser


def lengths_of(data: DataDir) -> dict[str, float]:
    """Return the seconds of each utterance, from the headers of its files.

    Raises:
        UserError: a file cannot be opened, or a command would have to be run for it.
    """
    if data.feats:
        with ArkReader() as reader:
            frames = {utt: reader.shape(utt, entry)[0] for utt, entry in data.feats.items()}
        return {utt: FRAME_SHIFT * count for utt, count in frames.items()}
    recordings = {
        name: inspect(parse_source(value, name), name, check_samples=False).duration
        for name, value in data.wav.items()
    }
    lengths = {}
    for utt in data.text:
        segment = data.segments.get(utt)
        if segment is None:
            seconds = recordings[utt]
        else:
            end = recordings[segment.recording] if segment.end == -1 else segment.end
            seconds = end - segment.start
        lengths[utt] = seconds / data.utt2speed.get(utt, 1.0)
    return lengths


def draw(lengths: Mapping[str, float], seconds: float, seed: int) -> set[str]:
    """Return utterances of that much speech, the first of an order that the seed decides.

    Args:
        lengths: of all utterances, s.
        seconds: of speech that is wanted; the last utterance may exceed it.
        seed: of the order.

    Raises:
        UserError: there is less.
    """
    whole = sum(lengths.values())
    if not 0 < seconds * NEARLY <= whole:
        raise UserError(
            f"--minutes {seconds / 60:g}: the set has {whole / 60:.1f} minutes",
            "give more than 0 and no more than that",
        )
    order = sorted(lengths, key=lambda utt: hashlib.sha256(f"{seed} {utt}".encode()).digest())
    chosen: set[str] = set()
    taken = 0.0
    for utt in order:
        if taken >= seconds:
            break
        chosen.add(utt)
        taken += lengths[utt]
    return chosen


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.source.resolve() == args.target.resolve():
        parser.error("source and target are the same directory")
    data = DataDir.read(args.source)
    lengths = lengths_of(data)
    chosen = draw(lengths, 60 * args.minutes, args.seed)
    write_sets({args.target.name: data.subset(chosen)}, args.target.parent)
    minutes = sum(lengths[utt] for utt in chosen) / 60
    logger.info("%s: %.1f of %.1f minutes", args.target, minutes, sum(lengths.values()) / 60)


if __name__ == "__main__":
    run(main)
