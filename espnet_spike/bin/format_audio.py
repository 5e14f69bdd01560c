"""Write checked, resampled audio in place of features, for models with a front end of their own."""

from collections.abc import Sequence

from espnet_spike.data.dropping import ScoredSets
from espnet_spike.utils.cli import COUNT, RATE, Parser, pairs_of, run, str2bool
from espnet_spike.utils.cluster import add_cluster_options, cluster_of


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Write the audio of every utterance into Kaldi archives: one channel of 16 "
        "bits, resampled to --fs, at the speed that utt2speed says. Everything is read back."
    )
    parser.add_argument("dirs", nargs="+", metavar="DATA_DIR AUDIO_DIR", help="pairs")
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
    pairs = pairs_of(parser, args.dirs, "DATA_DIR AUDIO_DIR")
    from espnet_spike.data.raw_audio import format_audio

    more = (cluster_of(args), args.utterances_per_task, ScoredSets.of(args))
    format_audio(pairs, args.fs, args.allow_pipes, args.nj, *more)


if __name__ == "__main__":
    run(main)
