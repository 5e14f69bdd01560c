"""Check every key of the configurations of a recipe against what it configures.

With --cache, configurations that passed are known by their content and cost no time again.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, RATE, SHARE, Parser, run
from espnet_spike.utils.resources import config_file

_logger = logging.getLogger(__name__)


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(description=__doc__)
    parser.add_argument("--asr_config", type=config_file, help="YAML of ASR training")
    parser.add_argument("--asr_args", default="", help="options of ESPnet over --asr_config")
    parser.add_argument(
        "--trains",
        action="store_true",
        help="a training is to come: what --asr_config says it starts from has to be there",
    )
    parser.add_argument(
        "--train_dir", type=Path, help="features to train on, if they are there: for doubts"
    )
    parser.add_argument(
        "--feats_type",
        choices=["fbank", "extracted", "raw"],
        help="what is trained on; default: audio if --asr_config has a front end",
    )
    parser.add_argument("--fs", type=RATE, help="sampling rate of raw audio in Hz, if it is known")
    parser.add_argument("--nbpe", type=COUNT, help="pieces of the vocabulary, likewise")
    parser.add_argument("--naive_sparsity", type=SHARE, help="asked for, of ``run.sh``")
    parser.add_argument("--inference_config", type=config_file, help="YAML of decoding")
    parser.add_argument("--inference_args", default="", help="options over --inference_config")
    parser.add_argument("--lm_config", type=config_file, help="YAML of language model training")
    parser.add_argument("--use_ngram", action="store_true", help="decode with a token n-gram")
    parser.add_argument("--lm_args", default="", help="options of ESPnet over --lm_config")
    parser.add_argument("--fbank_config", type=config_file, help="YAML of feature extraction")
    parser.add_argument("--cluster", type=config_file, help="YAML of a cluster")
    parser.add_argument(
        "--energy_model", nargs="+", default=[], type=config_file, help="YAMLs of prices"
    )
    parser.add_argument(
        "--hardware", nargs="+", default=[], type=config_file, help="YAMLs of simulated cores"
    )
    parser.add_argument("--cache", type=Path, help="file that remembers what passed")
    parser.add_argument("--keep_cache", action="store_true", help="read it, and leave it as it is")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    from espnet_spike.advice.passed_checks import PassedChecks, check_key

    passed = PassedChecks(options.cache)
    about_it = ("cache", "keep_cache")
    key = check_key({name: value for name, value in vars(options).items() if name not in about_it})
    if key in passed:
        _logger.info("configurations unchanged since they passed")
    else:
        check(options)
        if not options.keep_cache:
            passed.add(key)
        _logger.info("configurations are good")
    for doubt in find_doubts(options):
        _logger.warning("%s: %s", options.asr_config, doubt)


def find_doubts(options: argparse.Namespace) -> list[str]:
    """Return what speaks against ``--asr_config``, which no check refuses."""
    from espnet_spike.advice.doubts import doubts, facts_of, with_arguments
    from espnet_spike.tasks.config import META, TWIN, merge, read_training_config, trains_twin

    if options.asr_config is None:
        return []
    config, meta = read_training_config(options.asr_config)
    facts = facts_of(options.train_dir, meta.get("input_size"), options.nbpe)
    config = with_arguments(config, options.asr_args)
    found = [str(doubt) for doubt in doubts(config, facts)]
    if trains_twin(meta):  # no doubt looks at the encoder
        twin = merge(config, meta.get(TWIN) or {})
        told = (str(doubt) for doubt in doubts(twin, facts))
        found += [f"{META}.{TWIN}: {doubt}" for doubt in told if doubt not in found]
    return found


def check(options: argparse.Namespace) -> None:
    """Check all files and options that are given."""
    from espnet_spike.counting.energy import read_cost_model
    from espnet_spike.data.fbank import load_config
    from espnet_spike.inference.decode import read_settings
    from espnet_spike.inference.search_values import check_idle
    from espnet_spike.simulator.hardware import read_hardware
    from espnet_spike.tasks import config_check
    from espnet_spike.tasks.config import read_training_config
    from espnet_spike.training.twin import check_named
    from espnet_spike.utils.cluster import read_cluster

    if options.fbank_config is not None:
        load_config(options.fbank_config)
    if options.cluster is not None:
        read_cluster(options.cluster)
    for path in options.energy_model:
        read_cost_model(str(path))
    for path in options.hardware:
        read_hardware(path)
    if options.asr_config is not None:
        raw = None if options.feats_type is None else options.feats_type == "raw"
        path = options.asr_config
        checked = config_check.check_asr_config(path, options.asr_args, raw, options.fs)
        if options.trains:
            check_named(read_training_config(path)[1])
            config_check.check_start_files(checked.args, path)
        if options.naive_sparsity is not None:
            config_check.check_naive(checked, path)
    if options.lm_config is not None:
        config_check.check_lm_config(options.lm_config, options.lm_args)
    if options.inference_config is not None or options.inference_args:
        settings = read_settings(options.inference_config, options.inference_args)
        where = options.inference_config or Path("--inference_args")
        config_check.check_inference_config(settings.config, settings.words, where)
        check_idle(settings.words, lm=options.lm_config is not None, ngram=options.use_ngram)


if __name__ == "__main__":
    run(main)
