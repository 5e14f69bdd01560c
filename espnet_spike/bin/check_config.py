"""Check every key of the configurations of a recipe against what it configures.

With --cache, configurations that passed are known by their content and cost no time again.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.resources import config_file

_logger = logging.getLogger(__name__)
# how many passed checks a cache keeps
_REMEMBERED = 200


def get_parser() -> Parser:
    """Return the parser of this command."""
    parser = Parser(description=__doc__)
    parser.add_argument("--asr_config", type=config_file, help="YAML of ASR training")
    parser.add_argument("--asr_args", default="", help="options of ESPnet over --asr_config")
    parser.add_argument("--inference_config", type=config_file, help="YAML of decoding")
    parser.add_argument("--inference_args", default="", help="options over --inference_config")
    parser.add_argument("--lm_config", type=config_file, help="YAML of language model training")
    parser.add_argument("--lm_args", default="", help="options of ESPnet over --lm_config")
    parser.add_argument("--fbank_config", type=config_file, help="YAML of feature extraction")
    parser.add_argument("--cluster", type=config_file, help="YAML of a cluster")
    parser.add_argument("--cache", type=Path, help="file that remembers what passed")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = get_parser().parse_args(argv)
    key = _content_digest(options)
    passed = _read_cache(options.cache)
    if key in passed:
        _logger.info("configurations unchanged since they passed")
        return
    _check(options)
    if options.cache is not None:
        from espnet_spike.utils.files import write_json

        options.cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.cache, [*passed, key][-_REMEMBERED:], sort_keys=True)
    _logger.info("configurations are good")


def _check(options: argparse.Namespace) -> None:
    from espnet_spike.tasks.config import read_training_config

    if options.fbank_config is not None:
        from espnet_spike.data.fbank import load_config

        load_config(options.fbank_config)
    if options.cluster is not None:
        from espnet_spike.utils.cluster import read_cluster

        read_cluster(options.cluster)
    if options.asr_config is not None:
        from espnet_spike.tasks.asr import SpikeASRTask
        from espnet_spike.tasks.build import INPUT_SIZE, VOCAB_SIZE
        from espnet_spike.tasks.config_check import check_training_config

        config, meta = read_training_config(options.asr_config)
        check_training_config(
            SpikeASRTask,
            config,
            options.asr_config,
            options.asr_args,
            meta.get("vocab_size", VOCAB_SIZE),
            meta.get("input_size", INPUT_SIZE),
        )
    if options.lm_config is not None:
        from espnet_spike.tasks.config_check import check_training_config
        from espnet_spike.tasks.lm import SpikeLMTask

        config, _ = read_training_config(options.lm_config)
        check_training_config(
            SpikeLMTask, config, options.lm_config, options.lm_args, input_size=None
        )
    if options.inference_config is not None or options.inference_args:
        from espnet_spike.inference.decode import read_settings
        from espnet_spike.tasks.config_check import check_inference_config

        settings = read_settings(options.inference_config, options.inference_args)
        where = options.inference_config or Path("--inference_args")
        check_inference_config(settings.config, settings.words, where)


def _content_digest(options: argparse.Namespace) -> str:
    """Return what a passed check depends on: contents, options, versions, this package's code."""
    from importlib.metadata import entry_points, version

    import espnet_spike
    from espnet_spike.tasks.registry import ENTRY_POINT_GROUP
    from espnet_spike.utils.files import digest

    parts: list[str | bytes] = [espnet_spike.__version__, version("espnet"), version("torch")]
    for name, value in sorted(vars(options).items()):
        if name == "cache":
            continue
        parts += [name, str(value)]
        if isinstance(value, Path) and value.is_file():
            parts.append(value.read_bytes())
    for source in sorted(Path(espnet_spike.__file__).parent.rglob("*.py")):
        stat = source.stat()
        parts.append(f"{source.name} {stat.st_size} {stat.st_mtime_ns}")
    for plugin in sorted(entry_points(group=ENTRY_POINT_GROUP)):
        parts.append(f"{plugin.name} {plugin.value} {plugin.dist and plugin.dist.version}")
    return digest(*parts)


def _read_cache(path: Path | None) -> list[str]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path is not None else []
    except (OSError, json.JSONDecodeError):
        return []


if __name__ == "__main__":
    run(main)
