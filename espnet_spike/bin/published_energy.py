"""Print the mean spike count that the published energy ratios of IML-Spikeformer ask for.

Full-size configurations on 10 s of audio, no training and no data: 4.64 on AISHELL-1, 4.32 on
LibriSpeech, for attention as trained (unfolded) and with W_Q and W_K merged (folded).
"""

import argparse
from collections.abc import Sequence

from espnet_spike.utils.cli import POSITIVE, Parser, run
from espnet_spike.utils.resources import config_file, shipped


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.published_energy", description=__doc__)
    parser.add_argument(
        "--asr_config",
        type=config_file,
        nargs="+",
        default=[
            shipped("train_iml_spikeformer_aishell.yaml"),
            shipped("train_iml_spikeformer_librispeech960.yaml"),
        ],
        help="YAML of the training, of one model or several",
    )
    parser.add_argument(
        "--ratio", type=POSITIVE, nargs="+", default=[4.64, 4.32], help="one for each config"
    )
    parser.add_argument("--seconds", type=POSITIVE, default=10.0, help="of audio")
    parser.add_argument("--energy_model", default="horowitz45_fp32", help="prices")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_spike.counting.energy import read_cost_model
    from espnet_spike.counting.published import lines, needs
    from espnet_spike.errors import UserError

    if len(args.asr_config) != len(args.ratio):
        raise UserError("--asr_config and --ratio differ in number", "give one ratio a config")
    model = read_cost_model(args.energy_model)
    found = []
    for path, ratio in zip(args.asr_config, args.ratio, strict=True):
        found += needs(path, ratio, model, args.seconds)
    print("\n".join(lines(found)))
    print(
        f"\n{args.seconds:g} s of audio; products of front end and encoder; {model.title}: MAC "
        f"{model.operations['mac']} pJ, AC {model.operations['ac']} pJ ({model.source})"
    )


if __name__ == "__main__":
    run(main)
