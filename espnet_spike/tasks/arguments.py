"""From a configuration and option strings to the arguments of an ESPnet task."""

import argparse
import copy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.ranges import DECODING, check, check_lengths
from espnet_spike.tasks.config import META
from espnet_spike.utils.cli import repeated_list
from espnet_spike.utils.files import LONGEST_NAME, fitting_name
from espnet_spike.utils.yaml import read_yaml, write_config

# options of ours that go to ESPnet as they are
DISTRIBUTED = (
    "dist_backend",
    "dist_init_method",
    "dist_world_size",
    "dist_rank",
    "local_rank",
    "dist_master_addr",
    "dist_master_port",
    "dist_launcher",
    "multiprocessing_distributed",
)


# of the options that our own training command does not have, those that any call of ESPnet's has
STOCK = ("--train_data_path_and_name_and_type", "--print_config")
# keys of spike_meta that change no training
SIZES = {"vocab_size", "input_size"}

# What the commands set themselves: key -> where a user sets it instead.
RESERVED = {
    "output_dir": "--asr_tag or --expdir",
    "token_list": "the token stage",
    "token_type": "--token_type",
    "bpemodel": "the token stage",
    "ngpu": "--ngpu",
    "seed": "--seed",
    "resume": "nothing: training always resumes",
    "collect_stats": "the stats stage",
    "train_data_path_and_name_and_type": "--train_set",
    "valid_data_path_and_name_and_type": "--valid_set",
    "train_shape_file": "the stats stage",
    "valid_shape_file": "the stats stage",
    "config": "--asr_config",
    "dry_run": "--dry_run of run.sh",
    "print_config": "nothing",
    "pretrain_path": "init_param",
    "required": "nothing",
    "multiple_iterator": "--num_splits_asr",
} | {name: "--asr_args" for name in DISTRIBUTED}

# options that the commands decide, and that a user's ESPnet options must not turn round
FIXED = frozenset(
    "--config --output_dir --token_list --token_type --bpemodel --resume --collect_stats --dry_run"
    " --print_config --train_shape_file --valid_shape_file --train_data_path_and_name_and_type"
    " --valid_data_path_and_name_and_type --input_size --frontend --pretrain_path"
    " --multiple_iterator".split()
)


def parse_espnet(
    task: type, config: Mapping[str, Any], words: Sequence[str], extra: str = ""
) -> argparse.Namespace:
    """Parse ESPnet's arguments: its defaults, then the YAML, then our options, then ``extra``.

    Args:
        task: an ESPnet task class.
        config: content of the YAML.
        words: options of ours.
        extra: options of the user as one string (``--asr_args``), quoted as in a shell.

    Raises:
        UserError: an unknown or malformed option or YAML key, with the nearest known name.
    """
    parser = espnet_parser(task)
    known = [action.dest for action in parser._actions if action.option_strings]
    for key in config:
        if key not in known:
            raise UserError(f"unknown key in the configuration: {key}{did_you_mean(key, known)}")
    parser.set_defaults(**copy.deepcopy(dict(config)))
    extra_words = split_args(extra)
    for word in extra_words:
        if word.split("=")[0] in FIXED:
            cure = "it is set by this command"
            if word.split("=")[0] == "--frontend":
                cure = "what is trained on depends on it: write it in the YAML, frontend: NAME"
            raise UserError(f"{word} cannot be given among ESPnet's options", cure)
    if option := repeated_list(parser, extra_words):
        raise UserError(f"{option} is given twice", f"name all behind one: {option} A B")
    return parser.parse_args([*words, *extra_words])


def with_options(task: type, config: Mapping[str, Any], extra: str) -> tuple[dict[str, Any], str]:
    """Return the YAML's content with what ``extra`` changes in it, and options that it cannot hold.

    The latter, such as those of several processes, go to the command line as they are.

    Raises:
        UserError: as `parse_espnet`.
    """
    over: list[str] = []  # what a YAML can hold
    rest: list[str] = []
    words = over
    for word in split_args(extra):
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0]
            words = rest if name in RESERVED else over
        words.append(word)
    if not over:
        return dict(config), shlex.join(rest)
    before, after = (vars(parse_espnet(task, config, [], shlex.join(w))) for w in ([], over))
    changed = {key: value for key, value in after.items() if value != before[key]}
    return dict(config) | changed, shlex.join(rest)


def parse_search(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return every option of ESPnet's ``asr_inference``, checked.

    Args:
        config: content of the inference config.
        words: options over it.

    Raises:
        UserError: as `parse_espnet`, or a value out of range.
    """
    from espnet_spike.tasks.espnet import asr_inference

    needed = ["--output_dir", "x", "--data_path_and_name_and_type", "x,speech,kaldi_ark"]
    options = vars(parse_espnet(asr_inference, config, [*needed, *words]))
    check_search(options)
    return options


def check_search(options: Mapping[str, Any]) -> None:
    """Check the options of a beam search that are numbers.

    Raises:
        UserError: one is out of range.
    """
    check(DECODING, options, "options of decoding", others=None)
    check_lengths(options, "options of decoding")


def espnet_parser(task: type) -> argparse.ArgumentParser:
    """Return a task's parser; it takes full names only and raises instead of leaving.

    Raises:
        UserError: when parsing, with the nearest known name for an unknown option.
    """
    parser = task.get_parser()
    parser.allow_abbrev = False
    for action in [a for a in parser._actions if isinstance(a, argparse._HelpAction)]:
        parser._actions.remove(action)  # it would print ESPnet's page and leave, with status 0
        for option in action.option_strings:
            del parser._option_string_actions[option]
    known = [action.dest for action in parser._actions if action.option_strings]

    def explain(message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        guess = ""
        if message.startswith(prefix):
            word = message.removeprefix(prefix).split()[0]
            guess = did_you_mean(word.lstrip("-").split("=")[0], known)
        raise UserError(f"ESPnet option: {message}{guess}", "see the options of espnet2's tasks")

    parse = parser.parse_known_args

    def parse_known_args(*args: Any, **options: Any) -> Any:
        try:
            return parse(*args, **options)
        except (yaml.YAMLError, ValueError) as error:  # of a VALUE, which ESPnet lets through
            mark = getattr(error, "problem_mark", None)
            value = "" if mark is None else f" {(mark.buffer or '').rstrip(chr(0))!r}:"
            raise UserError(
                f"ESPnet option: a value is not YAML:{value} {getattr(error, 'problem', error)}",
                "a value with quotes or spaces is quoted as a whole: --encoder_conf 'KEY=VALUE'",
            ) from None

    parser.error = explain
    parser.parse_known_args = parse_known_args
    return parser


def split_args(extra: str) -> list[str]:
    """Split an option string as a shell does.

    Raises:
        UserError: an unclosed quote.
    """
    try:
        return shlex.split(extra)
    except ValueError as error:
        raise UserError(f"cannot split the options {extra!r}: {error}") from None


def check_device(name: str) -> None:
    """Raise if torch has no such device here.

    Raises:
        UserError: names it and says what there is.
    """
    import torch

    found = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if found else []), *(f"cuda:{number}" for number in range(found))]
    if name not in known:
        raise UserError(f"--device {name}: not on this machine", f"give {', '.join(known)}")


def is_stock(words: Sequence[str]) -> bool:
    """Return whether a command line is one of ``espnet2.bin.asr_train``, not of our training."""
    return any(word.split("=")[0] in STOCK for word in words)


def without_meta(words: Sequence[str], folder: Path) -> list[str]:
    """Return a command line of ESPnet's with YAML files that ESPnet can read.

    Args:
        words: arguments of ``espnet2.bin.asr_train``; ``--config`` may have ``spike_meta``.
        folder: gets copies without it.

    Raises:
        UserError: ``spike_meta`` asks for stages that only our own training has.
    """
    words = list(words)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != "--config" or (not equals and index + 1 == len(words)):
            continue
        place = index if equals else index + 1
        path = Path(value if equals else words[place])
        config = read_yaml(path)
        meta = config.pop(META, None)
        if meta is None:
            continue
        if more := sorted(set(meta) - SIZES):
            raise UserError(
                f"{path}: {META}: {', '.join(more)} is for run.sh, not for ESPnet's arguments",
                "remove it, or train with run.sh",
            )
        copy = folder / f"{index}_{fitting_name(path.stem, path.suffix, LONGEST_NAME - 20)}"
        write_config(copy, config)
        words[place] = f"{name}={copy}" if equals else str(copy)
    return words
