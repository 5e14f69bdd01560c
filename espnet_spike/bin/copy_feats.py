"""Take features that were extracted elsewhere."""

from collections.abc import Sequence

from espnet_spike.data.dropping import ScoredSets
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, pairs_of, run
from espnet_spike.utils.cluster import add_cluster_options, cluster_of


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Copy given features (feats.scp of any Kaldi matrices) into ark files, "
        "checking every matrix. Durations come from utt2dur, else from the frame shift."
    )
    parser.add_argument("dirs", nargs="+", metavar="DATA_DIR FEATURE_DIR", help="pairs")
    parser.add_argument("--nj", type=COUNT, default=1, help="processes")
    add_cluster_options(parser)
    parser.add_argument("--frame_shift", type=POSITIVE, default=10.0, help="ms between frames")
    ScoredSets.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    pairs = pairs_of(parser, args.dirs, "DATA_DIR FEATURE_DIR")
    from espnet_spike.data.feature_sources import copy

    more = (cluster_of(args), args.utterances_per_task, ScoredSets.of(args))
    copy(pairs, args.frame_shift, args.nj, *more)


if __name__ == "__main__":
    run(main)
