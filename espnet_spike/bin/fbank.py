"""Extract log-mel filter bank features into ark files."""

import os
from collections.abc import Sequence

from espnet_spike.data.dropping import ScoredSets
from espnet_spike.utils.cli import COUNT, RATE, Parser, pairs_of, run, str2bool
from espnet_spike.utils.cluster import add_cluster_options, cluster_of
from espnet_spike.utils.resources import config_file


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Extract Kaldi-compatible log-mel features. Audio is resampled to --fs, the "
        "speed factors in utt2speed are applied. Every matrix is read back and checked."
    )
    parser.add_argument("dirs", nargs="+", metavar="DATA_DIR FEATURE_DIR", help="pairs")
    parser.add_argument(
        "--fbank_config",
        old=["--config"],
        dest="config",
        type=config_file,
        required=True,
        help="YAML, see conf/fbank.yaml",
    )
    parser.add_argument("--nj", type=COUNT, default=1, help="processes")
    add_cluster_options(parser)
    parser.add_argument("--fs", type=RATE, help="sampling rate in Hz; default: that of the audio")
    parser.add_argument(
        "--allow_pipes",
        type=str2bool,
        default=False,
        help="run wav.scp commands other than plain flac, sph2pipe and sox reads",
    )
    ScoredSets.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    pairs = pairs_of(parser, args.dirs, "DATA_DIR FEATURE_DIR")
    # the work is spread over processes; threads inside them only get in each other's way
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from espnet_spike.data.fbank import load_config
    from espnet_spike.data.feature_sources import extract

    more = (cluster_of(args), args.utterances_per_task, ScoredSets.of(args))
    extract(pairs, load_config(args.config), args.fs, args.allow_pipes, args.nj, *more)


if __name__ == "__main__":
    run(main)
