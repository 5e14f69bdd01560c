"""Transcribe files, folders, lists, standard input or a microphone with a trained model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.ranges import Number
from espnet_spike.utils.cli import COUNT, POSITIVE, RATE, Parser, Ranged, run, str2bool
from espnet_spike.utils.resources import config_file


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="espnet-spike transcribe",
        description=f"{__doc__} Any format and rate that soundfile reads; channels are averaged. "
        "Long files are cut where nothing is said. Files are taken as they are given, those of a "
        "folder in natural order (talk2 before talk10), and their transcripts come in that order.",
    )
    parser.add_argument(
        "audio",
        nargs="*",
        type=Path,
        help="files, folders, Kaldi lists (.scp, whose utterances keep their names), or - for "
        "standard input",
    )
    parser.add_argument(
        "--microphone",
        action="store_true",
        help="record until Ctrl-C; a model that streams shows what it hears",
    )
    parser.add_argument("--microphone_device", help="its number or name, if not the default")
    parser.add_argument(
        "--microphone_seconds", type=POSITIVE, help="end the recording after so many seconds"
    )
    parser.add_argument(
        "--raw_fs",
        type=COUNT,
        help="standard input is samples without a header, of that rate in Hz: 16 bits, "
        "little-endian, one channel",
    )
    parser.add_argument(
        "--allow_pipes", type=str2bool, default=False, help="run commands found in a list"
    )
    parser.add_argument(
        "--asr_exp",
        old=["--model"],
        type=Path,
        required=True,
        help="exp/asr_... of a recipe, a pack (.zip), or fsdd-digits, which comes with the package",
    )
    parser.add_argument(
        "--recursive",
        type=str2bool,
        default=True,
        help="of a folder also the folders in it, links too; false: its own files alone",
    )
    parser.add_argument(
        "--format", choices=["text", "json", "srt", "ctm"], default="text", help="of transcripts"
    )
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        help="folder for one file each; else standard output",
    )
    parser.add_argument(
        "--inference_config", type=config_file, help="beam search; else that of the latest decoding"
    )
    parser.add_argument("--inference_args", default="", help='such as "--beam_size 5"')
    parser.add_argument(
        "--lm_exp", type=Path, help="folder of a language model; a pack has its own"
    )
    parser.add_argument("--ngram_file", type=Path, help="token n-gram, for beam search")
    parser.add_argument(
        "--fbank_config", type=config_file, help="features, if not known from the model"
    )
    parser.add_argument("--fs", type=RATE, help="rate of the features in Hz, if not known")
    parser.add_argument(
        "--max_seconds", type=Ranged(Number(1, 1e9)), default=30.0, help="longer files are cut"
    )
    parser.add_argument(
        "--search",
        choices=["beam", "greedy"],
        default="beam",
        help="greedy: the best CTC path over the whole file, encoded in one pass",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Transcribe and print, or write, each file."""
    parser = get_parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    import logging

    from espnet_spike.errors import UserError
    from espnet_spike.inference.audio_inputs import CONVERT, find_sources, in_order, output_paths
    from espnet_spike.inference.decode import read_settings
    from espnet_spike.inference.microphone import Microphone, record
    from espnet_spike.inference.recognizer import Recognizer
    from espnet_spike.inference.transcripts import ENDINGS, FORMATS, WITH_TIMES
    from espnet_spike.tasks.arguments import check_device
    from espnet_spike.utils.files import name_some, plural, write_bytes

    settings = read_settings(None, args.inference_args)
    if args.search == "greedy" and (settings.words or args.lm_exp):
        unused = [word for word in settings.words if word.startswith("--")]
        unused += ["--lm_exp"] if args.lm_exp else []
        parser.error(f"--search greedy has no beam: {', '.join(unused)} would change nothing")
    if settings.lm and args.lm_exp is None:
        parser.error(f"--inference_args: inference_lm {settings.lm} without --lm_exp")
    microphone = Microphone(args.microphone_device) if args.microphone else None
    foreign: list[Path] = []
    files = find_sources(args.audio, args.recursive, foreign, args.allow_pipes, args.raw_fs)
    failed: list[str] = []

    def report(name: str, error: UserError) -> None:
        failed.append(name)
        print(f"error: {error}", file=sys.stderr, flush=True)

    for path in foreign:
        report(str(path), UserError(f"{path}: libsndfile cannot read such files", CONVERT))
    check_device(args.device)
    logging.getLogger("transcribe").setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.WARNING)  # ESPnet prints the model at length
    paths = {}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        names = [*files, *(["microphone"] if microphone else [])]
        paths = output_paths(names, args.out, ENDINGS[args.format])
    recognizer = Recognizer(
        args.asr_exp,
        *(args.inference_config, args.inference_args, args.fbank_config, args.fs, args.device),
        lm_exp=args.lm_exp,
        ngram_file=args.ngram_file,
    )
    if microphone is not None:
        from espnet_spike.data.audio import from_wave

        wave = record(microphone, recognizer, _show, args.microphone_seconds)
        fs = recognizer.feature_extractor.fs
        files["microphone"] = from_wave(wave, fs, microphone.name)
    form = FORMATS[args.format]
    times = args.format in WITH_TIMES
    alone = len(files) + len(foreign) == 1
    found = recognizer.transcribe(
        files, times, args.max_seconds, args.search, None if alone else report
    )
    if args.out is None:
        for transcript in in_order(found, lambda t: t.name, [*files], failed):
            sys.stdout.write(form(transcript))
            sys.stdout.flush()
    else:
        for transcript in found:
            write_bytes(paths[transcript.name], form(transcript).encode())
    if failed:
        raise UserError(
            f"{len(failed)} of {plural(len(files) + len(foreign), 'file')} could not be "
            f"transcribed: {name_some(failed)}",
            "the others are; what is wrong with each is said above",
        )


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with the usage where options do not go together."""
    if bool(args.audio) == args.microphone:
        parser.error("give files, folders, lists or -; or --microphone, alone")
    if not args.microphone and (args.microphone_device or args.microphone_seconds):
        parser.error("--microphone_device and --microphone_seconds are for --microphone")
    if args.raw_fs is not None and Path("-") not in args.audio:
        parser.error("--raw_fs is the rate in Hz of standard input: give - too")


def _show(seconds: float, text: str) -> None:
    """Show what a model that streams has heard so far."""
    print(f"{seconds:7.2f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
