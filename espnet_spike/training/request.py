"""What a training is asked for: the options of its command and its YAML, read once.

The commands make a request of their options; below them nobody sees a parsed command line.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import espnet_spike
from espnet_spike.data.tokens import read_bpe_model, read_token_list
from espnet_spike.errors import UserError
from espnet_spike.tasks.arguments import DISTRIBUTED, with_options
from espnet_spike.tasks.config import TWIN, read_training_config, twin_config
from espnet_spike.training.asr import Features
from espnet_spike.training.lm import Texts
from espnet_spike.training.processes import Processes
from espnet_spike.training.twin import (
    start_settings,
    started_from_twin,
    twin_files,
)
from espnet_spike.utils.files import digest, file_digest, flatten, present


class Data(Protocol):
    """What a training learns from: `Features` or `Texts`."""

    @property
    def task(self) -> type:
        """ESPnet's task."""
        ...

    def files(self) -> Mapping[str, Path]:
        """Return, by name, the files by which an experiment knows its data again.

        A missing one is left out: `check` tells it.
        """
        ...

    def check(self) -> int | None:
        """Check the data; return the dimension of features, None for a language model.

        Raises:
            UserError: the first mistake.
        """

    def words(self, exp_dir: Path) -> list[str]:
        """Return ESPnet's options for the data."""
        ...

    def complete(self, args: argparse.Namespace) -> None:
        """Set what neither the YAML nor an option says in ESPnet's arguments."""

    def prepare(self, exp_dir: Path, args: argparse.Namespace, model: Any) -> None:
        """Write what ESPnet reads besides the data themselves."""

    def is_prepared(self, exp_dir: Path) -> bool:
        """Return whether what `prepare` wrote, and later stages read, is there."""
        ...

    def explain(self, error: BaseException | None) -> UserError | None:
        """Return what in the data made ESPnet fail with ``error``, or None."""


@dataclass(frozen=True)
class Tokens:
    """What the token stage made: a list, one token per line, and for BPE a sentencepiece model."""

    token_list: Path
    token_type: str
    bpemodel: Path | None = None

    def words(self) -> list[str]:
        """Return ESPnet's options for them."""
        words = ["--token_list", str(self.token_list), "--token_type", self.token_type]
        return words if self.bpemodel is None else [*words, "--bpemodel", str(self.bpemodel)]

    def vocabulary_size(self) -> int:
        """Return how many tokens there are.

        Raises:
            UserError: naming the missing file or option.
        """
        names = read_token_list(self.token_list)
        if self.token_type == "bpe" and self.bpemodel is None:
            raise UserError("token_type bpe needs --bpemodel")
        if self.bpemodel is not None and not present(self.bpemodel):
            raise UserError(f"no such BPE model: {self.bpemodel}", "run the token stage (5)")
        if self.bpemodel is not None:
            read_bpe_model(self.bpemodel)
        return len(names)


@dataclass(frozen=True)
class TrainingRequest[D: Data]:
    """One training, as it was asked for.

    Args:
        path: the YAML.
        config: its content without ``spike_meta``.
        meta: its ``spike_meta``.
        data: what is learnt from.
        tokens: what the model puts out.
        processes: where it runs.
        exp_dir: folder of the experiment.
        seed: of all random numbers.
        overrides: options of ESPnet over the YAML, quoted as in a shell.
        options: every option of the command as text, those without a default only if given.
    """

    path: Path
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    data: D
    tokens: Tokens
    processes: Processes
    exp_dir: Path
    seed: int
    overrides: str
    options: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """Tells this very request from others by YAML, options, contents of files and versions.

        Finished experiments are known by it, so it must stay the same for the same request.
        """
        paths = (self.tokens.token_list, self.tokens.bpemodel, *self.files().values())
        files = [file_digest(path) for path in paths if path is not None and present(path)]
        versions = (espnet_spike.__version__, version("espnet"))
        content = [flatten(self.config), dict(self.options), files, *versions]
        settings = start_settings(self.meta)
        if settings != start_settings({"init_from": TWIN}):  # earlier requests stay the same
            content += [settings] if settings else []
        return digest(json.dumps(content, sort_keys=True, default=str))

    def files(self) -> dict[str, Path]:
        """Return, by name, the files by which the experiment knows data and twin again."""
        return {**self.data.files(), **twin_files(self.meta, self.exp_dir)}

    def words(self) -> list[str]:
        """Return the options of ESPnet that follow, all but those of the data.

        Raises:
            UserError: as `Processes.words`.
        """
        return [
            *("--output_dir", str(self.exp_dir)),
            *("--seed", str(self.seed)),
            *("--resume", "true"),
            *self.tokens.words(),
            *self.processes.words(),
        ]


def asr_request(options: Mapping[str, Any]) -> TrainingRequest[Features]:
    """Return what ``espnet_spike.bin.asr_train`` is asked for by its options.

    Raises:
        UserError: as `read_training_config`.
    """
    folders = (options["train_dir"], options["valid_dir"], options["stats_dir"])
    features = Features(*folders, options.get("num_splits", 1))
    request = _read(options, options["config"], options["asr_args"], features)
    if options.get("twin"):  # the twin is that of the model that the options ask for
        config, rest = with_options(request.data.task, request.config, request.overrides)
        config, meta = twin_config(config, request.meta, request.path)
        return replace(request, config=config, meta=meta, overrides=rest)
    config, meta = started_from_twin(request.config, request.meta, request.path, request.exp_dir)
    return replace(request, config=config, meta=meta)


def with_config(request: TrainingRequest[Features], path: Path) -> TrainingRequest[Features]:
    """Return what ``asr_train`` would be asked for with ``--config path``, all else the same.

    Raises:
        UserError: as `read_training_config`.
    """
    config, meta = read_training_config(path)
    options = dict(request.options) | {"config": str(path)}
    return replace(request, path=path, config=config, meta=meta, options=options)


def statistics_request(options: Mapping[str, Any]) -> TrainingRequest[Features]:
    """Return what ``espnet_spike.bin.collect_stats`` is asked for; see `asr_request`."""
    features = Features(options["train_dir"], options["valid_dir"], options["output_dir"])
    return _read(options, options["asr_config"], options["asr_args"], features)


def lm_request(options: Mapping[str, Any]) -> TrainingRequest[Texts]:
    """Return what ``espnet_spike.bin.lm_train`` is asked for; see `asr_request`."""
    train, valid = tuple(options["train_text"]), options["valid_text"]
    texts = Texts(train, valid, options["stats_dir"], options["token_type"])
    return _read(options, options["lm_config"], options["lm_args"], texts)


def _read[D: Data](
    options: Mapping[str, Any], path: Path, overrides: str, data: D
) -> TrainingRequest[D]:
    config, meta = read_training_config(path)
    distributed = {name: options[name] for name in DISTRIBUTED if options[name] is not None}
    return TrainingRequest(
        path,
        config,
        meta,
        data,
        Tokens(options["token_list"], options["token_type"], options["bpemodel"]),
        Processes(options["ngpu"], distributed),
        options["output_dir"],
        options["seed"],
        overrides,
        {name: str(value) for name, value in options.items()},
    )
