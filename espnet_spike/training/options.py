"""From our options to ESPnet's arguments, and what both training commands share."""

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.tasks.arguments import DISTRIBUTED
from espnet_spike.training.resume import DATA
from espnet_spike.training.slurm import meeting_point
from espnet_spike.utils.files import digest, file_digest, flatten


def add_training_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options that the ASR and LM training commands share."""
    parser.add_argument("--output_dir", type=Path, required=True, help="experiment folder")
    parser.add_argument("--token_list", type=Path, required=True, help="one token a line")
    parser.add_argument("--token_type", default="bpe", choices=["bpe", "char", "word"])
    parser.add_argument("--bpemodel", type=Path, help="sentencepiece model, for token_type bpe")
    parser.add_argument("--ngpu", type=int, default=0, help="0 trains on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        default=argparse.SUPPRESS,  # not there when not given: earlier requests stay the same
        help="the same weights to the bit whenever trained with as many threads",
    )
    if what == "asr":
        parser.add_argument(
            "--num_splits",
            type=int,
            default=argparse.SUPPRESS,
            help="read the lists of the training data in so many parts, to save memory",
        )
    parser.add_argument(
        f"--{what}_args",
        default="",
        help='options of ESPnet, stronger than the YAML: "--max_epoch 3 --optim_conf lr=0.001"',
    )
    group = parser.add_argument_group("several processes", "as ESPnet's options; also by torchrun")
    for name in DISTRIBUTED:
        group.add_argument(f"--{name}")


def rank(launcher: str | None) -> int:
    """Return the rank of this process among those that were started for one training, else 0.

    Args:
        launcher: ESPnet's ``dist_launcher``. Only a training that is told of Slurm or MPI takes its
            rank from there: whatever else runs below ``srun`` has one, too.
    """
    name = {"slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}.get(launcher, "RANK")
    return int(os.environ.get(name, 0))


def espnet_options(options: argparse.Namespace) -> list[str]:
    """Return the ESPnet options that both training commands derive from theirs.

    Raises:
        UserError: ``--dist_launcher slurm`` in a process that ``srun`` did not start.
    """
    words = [
        *("--output_dir", str(options.output_dir)),
        *("--token_list", str(options.token_list)),
        *("--token_type", options.token_type),
        *("--ngpu", str(options.ngpu)),
        *("--seed", str(options.seed)),
        *("--resume", "true"),
    ]
    if options.bpemodel is not None:
        words += ["--bpemodel", str(options.bpemodel)]
    for name in DISTRIBUTED:
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name}", value]
    if options.dist_launcher == "slurm" and options.dist_init_method is None:
        for name, value in zip(("addr", "port"), meeting_point(), strict=True):
            if getattr(options, f"dist_master_{name}") is None:
                words += [f"--dist_master_{name}", str(value)]
    launched = "RANK" in os.environ or options.dist_launcher is not None
    if options.ngpu > 1 and not launched and options.multiprocessing_distributed is None:
        words += ["--multiprocessing_distributed", "true"]
    return words


def check_token_options(options: argparse.Namespace) -> None:
    """Check that the token list and, for BPE, the model are there.

    Raises:
        UserError: naming the missing file or option.
    """
    if not options.token_list.is_file():
        raise UserError(f"no such token list: {options.token_list}", "run the token stage (5)")
    if options.token_type == "bpe" and options.bpemodel is None:
        raise UserError("token_type bpe needs --bpemodel")
    if options.bpemodel is not None and not options.bpemodel.is_file():
        raise UserError(f"no such BPE model: {options.bpemodel}", "run the token stage (5)")


def snapshot(args: argparse.Namespace, data: Mapping[str, Path]) -> dict[str, Any]:
    """Return what an experiment is started with, in JSON values, to compare a later run with.

    Token list, BPE model and the files ``data`` stand by their content, not by their path.
    """
    config = dict(vars(args))
    files = {key: config.pop(key) for key in ("token_list", "bpemodel")}
    files |= {f"{DATA}{name}": path for name, path in data.items()}
    for key, path in files.items():
        if path is not None:
            config[f"{key} (content)"] = f"sha256:{file_digest(Path(path))[:16]}"
    return json.loads(json.dumps(config, default=str))


def fill_defaults(task: type, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Fill the defaults of the classes that both configurations choose alike into both.

    So a default that is spelt out, or a new argument with a default, is no change.
    """
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    for choices in task.class_choices_list:
        name = new.get(choices.name)
        if name is None or name != old.get(choices.name):
            continue
        defaults = json.loads(json.dumps(get_default_kwargs(choices.get_class(name)), default=str))
        for config in (old, new):
            key = f"{choices.name}_conf"
            config[key] = defaults | config.get(key, {})


def request_digest(
    config: Mapping[str, Any], options: argparse.Namespace, data: Mapping[str, Path]
) -> str:
    """Return what names this very request: configuration, options, tokens, data and versions."""
    from importlib.metadata import version

    import espnet_spike

    words = {k: str(v) for k, v in vars(options).items()}
    files = [
        file_digest(path)
        for path in (options.token_list, options.bpemodel, *data.values())
        if path is not None
    ]
    content = [flatten(config), words, files, espnet_spike.__version__, version("espnet")]
    return digest(json.dumps(content, sort_keys=True, default=str))


def check_gpus(ngpu: int) -> None:
    """Raise if the machine has fewer GPUs than are asked for.

    Raises:
        UserError: names both numbers.
    """
    import torch

    found = torch.cuda.device_count()
    if ngpu > found:
        raise UserError(f"--ngpu {ngpu}, but {found} GPUs are seen", f"give --ngpu {found}")


def check_disk(exp_dir: Path, parameters: int, keep_nbest: int) -> None:
    """Raise if the checkpoints would not fit: two with Adam's state, the best epochs, an average.

    Raises:
        UserError: names the folder, the space needed and the space free.
    """
    needed = 4 * parameters * (2 * 3 + keep_nbest + 2)
    free = shutil.disk_usage(exp_dir).free
    if free < needed:
        raise UserError(
            f"{exp_dir}: {free / 1e9:.2f} GB free, training needs about {needed / 1e9:.2f} GB",
            "free disk space, or lower keep_nbest_models",
        )
