"""Decode and count a trained model at other levels or thresholds: errors against energy.

sweep --asr_exp exp/asr_X --T "1 2 4 6" --T_rule "keep rescale" --out DIR test=dump/fbank/test
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, named_dirs, run
from espnet_spike.utils.resources import config_file


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="espnet_spike.bin.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument("--inference_asr_model", help="model file in asr_exp; the best by default")
    parser.add_argument("--inference_config", type=config_file, help="YAML of the beam search")
    parser.add_argument("--inference_args", default="", help="ESPnet options that override it")
    parser.add_argument("--T", default="", help='levels of IMLS neurons, such as "1 2 4 6"')
    parser.add_argument("--T_rule", default="keep rescale", help="of the thresholds, at each T")
    parser.add_argument("--threshold_scale", default="", help='factors, such as "0.8 1.25"')
    parser.add_argument("--fat_threshold", default="", help='of FATReLU layers, such as "0.1 0.2"')
    parser.add_argument(
        "--normalization",
        help="of the texts; if absent, what the model's decodings were scored under",
    )
    parser.add_argument("--energy_model", default="horowitz45_fp32", help="prices of operations")
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        help="gets sweep.md, .json and plots",
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR", help="a set and its features")
    return parser


def numbers(option: str, text: str, kind: type) -> list:
    """Read the numbers of an option.

    Raises:
        UserError: one that is none, or not positive.
    """
    try:
        found = [kind(word) for word in text.split()]
    except ValueError:
        raise UserError(f"--{option} {text!r} holds something that is no number") from None
    if any(value < 0 or (value == 0 and option != "fat_threshold") for value in found):
        raise UserError(f"--{option} {text!r}: give positive numbers")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and print the table."""
    args = get_parser().parse_args(argv)
    levels = numbers("T", args.T, int)
    scales = numbers("threshold_scale", args.threshold_scale, float)
    thresholds = numbers("fat_threshold", args.fat_threshold, float)
    rules = args.T_rule.split()
    if not set(rules) <= {"keep", "rescale"} or not rules:
        raise UserError(f"--T_rule {args.T_rule!r}", "give keep, rescale or both")
    if not (levels or scales or thresholds):
        raise UserError("nothing to sweep", "give --T, --threshold_scale or --fat_threshold")
    folders = named_dirs(args.sets)
    from espnet_spike.counting.energy import read_cost_model
    from espnet_spike.counting.sweep import Setting, sweep, write
    from espnet_spike.data.feature_dir import FeatureDir
    from espnet_spike.data.feature_extractor import check_same_features
    from espnet_spike.inference.decode import read_settings
    from espnet_spike.results.experiments import find_normalization
    from espnet_spike.tasks.loading import open_model

    model = read_cost_model(args.energy_model)
    settings = read_settings(args.inference_config, args.inference_args)
    checkpoint = args.inference_asr_model or settings.asr_model
    values = [Setting(T=T, T_rule=rule) for T in levels for rule in rules]
    values += [Setting(scale=scale) for scale in scales]
    values += [Setting(fat_threshold=threshold) for threshold in thresholds]
    with open_model(args.asr_exp) as opened:
        check_same_features(opened.path, folders.values())
    sets = {name: FeatureDir.read(folder) for name, folder in folders.items()}
    normalization = find_normalization(args.asr_exp, args.normalization)
    found = sweep(args.asr_exp, checkpoint, settings, sets, values, model, normalization)
    print("\n".join(write(args.out, args.asr_exp.name, found, model, normalization)))


if __name__ == "__main__":
    run(main)
