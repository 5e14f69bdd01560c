"""Print what a configuration builds: parameters by part, layers, neurons, points."""

import json
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, Parser, run
from espnet_spike.utils.resources import config_file


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--asr_config", type=config_file, required=True, help="YAML of the training"
    )
    parser.add_argument("--asr_args", default="", help="options of ESPnet over the YAML")
    parser.add_argument(
        "--vocab_size", type=COUNT, help="tokens; stronger than spike_meta in the YAML"
    )
    parser.add_argument("--input_size", type=COUNT, help="feature dimension; as --vocab_size")
    parser.add_argument(
        "--train_dir", type=Path, help="features to train on; tells doubts of the configuration"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    from espnet_spike.advice.doubts import doubts, facts_of, with_arguments
    from espnet_spike.tasks.config import read_training_config
    from espnet_spike.tasks.describe import describe, format_description

    description = describe(
        options.asr_config, options.vocab_size, options.input_size, options.asr_args
    )
    config = with_arguments(read_training_config(options.asr_config)[0], options.asr_args)
    facts = facts_of(options.train_dir, description["input_size"])
    description["doubts"] = [str(doubt) for doubt in doubts(config, facts)]
    print(json.dumps(description, indent=2) if options.json else format_description(description))


if __name__ == "__main__":
    run(main)
