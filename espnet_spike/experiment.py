"""The name of an experiment's folder, its contents, and the state of its training.

Light: no torch and no numpy, so that commands which merely look at a folder start fast.
"""

import hashlib
import json
import os.path
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.utils.checkpoints import is_whole
from espnet_spike.utils.files import file_digest, iter_lines, present, read_json, write_bytes
from espnet_spike.utils.shapes import check_shape
from espnet_spike.utils.yaml import read_yaml

CHECKPOINT = "checkpoint.pth"
# the checkpoint of the epoch before, kept until the next one is whole
PREVIOUS_CHECKPOINT = "checkpoint.previous.pth"
# one JSON line an epoch, written by espnet_spike.tasks.trainer
EPOCHS = "epochs.jsonl"
# what the experiment was started with, written by espnet_spike.training.resume
SNAPSHOT = "spike_config.json"
FINISHED = "spike_finished.json"
LOG = "train.log"
# what was learnt, written by espnet_spike.advice.verdict
VERDICT = "verdict.json"
# of a decoding: the beam search; at the end with every option as it was used
INFERENCE = "inference.yaml"
# A spiking layer that fires less is as good as dead; one that fires more tells little by spikes.
DEAD, SATURATED = 0.01, 0.60

# These may change between two calls without starting a new experiment: a longer training goes on
# in the same folder.
RESUMABLE_KEYS = frozenset(
    {"max_epoch", "patience", "num_workers", "ngpu", "log_interval", "log_level", "use_tensorboard"}
)

Epochs = list[dict[str, Any]]


def experiment_tag(
    config: str,
    arguments: str = "",
    suffixes: Sequence[str] = (),
    conf_dirs: Sequence[Path] = (),
    expdir: Path | None = None,
) -> str:
    """Return ``<config name without .yaml and 'train_'>_<suffixes>_<arguments>``.

    Of several files of one name the first in ``conf_dirs`` gives the name alone. Any other adds a
    digest of its place, so that two files never share a folder; unless ``expdir`` has a finished
    experiment of just this file under the name alone.

    Args:
        config: path of a configuration.
        arguments: options over it.
        suffixes: further parts of the name; empty ones are left out.
        conf_dirs: folders of configurations, the most important one first; those right in them go
            before those in folders below. Without any the name alone is returned.
        expdir: the folder of all experiments.

    Raises:
        UserError: the arguments have an open quote.

    >>> experiment_tag("conf/train_transformer.yaml", "", ["fbank", "bpe30"])
    'transformer_fbank_bpe30'
    """
    base, rest = config_name(config), arguments_tag(arguments)
    tag = "_".join([base, *filter(None, suffixes)]) + rest
    if not conf_dirs or _is_first(config, conf_dirs) or _finished_before(tag, config, expdir):
        return tag
    place = hashlib.sha256(os.path.normpath(config).encode()).hexdigest()[:6]
    return "_".join([f"{base}-{place}", *filter(None, suffixes)]) + rest


def config_name(config: str | Path) -> str:
    """Return the name of a configuration, without the folder, the ending and ``train_``."""
    return Path(config).stem.removeprefix("train_")


def arguments_tag(arguments: str) -> str:
    """Turn options over a configuration into part of a folder name.

    Raises:
        UserError: an open quote.

    >>> arguments_tag("--encoder_conf T=4 --max_epoch 90 --ctc_weight 0.5")
    '_encoder_confT=4_ctc_weight0.5'
    """
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UserError(
            f"cannot read the arguments {arguments!r}: {error}", "check the quotes"
        ) from None
    tag, keep = "", True
    for word in words:
        if word.startswith("--"):
            key, _, value = word.removeprefix("--").partition("=")
            keep = key.replace("-", "_") not in RESUMABLE_KEYS
            tag += f"_{key}{value}" if keep else ""
        elif keep:
            tag += word
    return re.sub(r"[^\w.=+-]", "_", tag)


def _is_first(config: str, conf_dirs: Sequence[Path]) -> bool:
    """Return whether a configuration is the first of its name."""
    name = config_name(config)
    for pattern in ("*.y*ml", "*/**/*.y*ml"):
        for folder in conf_dirs:
            files = sorted(folder.glob(pattern), key=lambda f: (f.stem != f"train_{name}", f))
            for file in files:
                if config_name(file) == name:
                    return os.path.realpath(file) == os.path.realpath(config)
    return False


def _finished_before(tag: str, config: str, expdir: Path | None) -> bool:
    """Return whether a training or a decoding of this very file is done under a name."""
    made = re.compile(rf"(train|lm|decode_.+)_{re.escape(tag)}(_seed\d+|_lm_.+)?")
    for marker in sorted((expdir / ".done").glob("*.json")) if expdir is not None else ():
        if made.fullmatch(marker.stem):
            try:
                command = json.loads(marker.read_text(encoding="utf-8"))["command"]
            except (OSError, ValueError, KeyError):
                continue
            if config in shlex.split(command):
                return True
    return False


@dataclass(frozen=True)
class _Epoch:
    """A line of ``epochs.jsonl``, as far as others read it; the first versions wrote less."""

    epoch: int
    seconds: float = 0.0
    valid: dict[str, float | None] = field(default_factory=dict)
    probe_loss: list[float | None] = field(default_factory=list)


def read_epochs(exp_dir: Path) -> Epochs:
    """Return the records of the finished epochs in order; of a repeated epoch, the last one.

    Raises:
        UserError: a line holds something else, or the file cannot be read.
    """
    path = exp_dir / EPOCHS
    if not present(path):
        return []
    records: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(iter_lines(path), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a kill in the middle of a line; that epoch is trained again
        check_shape(f"{path}, line {number}", record, _Epoch, "take the line out")
        # going back to an earlier checkpoint makes the later records void
        records = {epoch: r for epoch, r in records.items() if epoch < record["epoch"]}
        records[record["epoch"]] = record
    return list(records.values())


@dataclass(frozen=True)
class _Config:
    """What every model's ``config.yaml`` holds of the kind that it has to be, if it holds it."""

    token_list: list[str] = field(default_factory=list)
    token_type: str | None = None
    bpemodel: str | None = None
    input_size: int | None = None
    encoder: str | None = None
    encoder_conf: dict[str, Any] = field(default_factory=dict)
    decoder: str | None = None
    decoder_conf: dict[str, Any] = field(default_factory=dict)
    best_model_criterion: list[list[str]] = field(default_factory=list)


def read_config(exp_dir: Path) -> dict[str, Any]:
    """Return the configuration an experiment was trained with (its ``config.yaml``).

    Files that it names and that are not there are those of the same kind in its own folder.

    Raises:
        UserError: the folder holds none, or it is damaged.
    """
    path = exp_dir / "config.yaml"
    if exp_dir.suffix == ".zip" and present(exp_dir):
        raise UserError(
            f"{exp_dir} is a packed model, and an experiment folder is needed here",
            f"unpack it: python -m zipfile -e {shlex.quote(str(exp_dir))} FOLDER, and give "
            "FOLDER/exp/asr_...; or transcribe audio, for which the pack will do",
        )
    if not present(path):
        inside = sorted(str(found.parent) for found in exp_dir.glob("exp/*/config.yaml"))
        raise UserError(
            f"no trained model in {exp_dir}: config.yaml is missing",
            f"give {' or '.join(inside)}" if inside else "",
        )
    config = read_yaml(path)
    check_shape(path, config, _Config, "copy it again, from where the model was trained")
    for token, times in Counter(config.get("token_list") or []).items():
        if times > 1:
            raise UserError(
                f"{path}: token_list has {token!r} {times} times",
                "copy it again, from where the model was trained",
            )
    return with_own_files(config, exp_dir)


# what a configuration names outside of its folder, and the name of the copy in it
OWN_FILES = {"bpemodel": "bpe.model", "stats_file": "feats_stats.npz"}


def _named_files(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return key and path of the files without which a model cannot be used."""
    normalize = config.get("normalize_conf")
    stats = normalize.get("stats_file") if isinstance(normalize, Mapping) else None
    named = {"bpemodel": config.get("bpemodel"), "stats_file": stats}
    return [(key, path) for key, path in named.items() if isinstance(path, str) and path]


def keep_files(exp_dir: Path, config: Mapping[str, Any]) -> None:
    """Copy the files that a model needs into its folder, so that the folder can be moved."""
    for key, name in _named_files(config):
        source, target = Path(name), exp_dir / OWN_FILES[key]
        if present(source) and not (target.exists() and target.samefile(source)):
            write_bytes(target, source.read_bytes())


def _recorded(exp_dir: Path, key: str) -> str:
    """Return how the digest of a file begins that the training began with, empty if unknown."""
    try:
        config = read_json(exp_dir / SNAPSHOT)["config"]
        return str(config[f"{key} (content)"]).removeprefix("sha256:")
    except (UserError, LookupError, TypeError):
        return ""


def with_own_files(config: dict[str, Any], exp_dir: Path) -> dict[str, Any]:
    """Name the copies in the folder of an experiment for files that are not there, or are others.

    An experiment that was moved names files of the recipe where it is now: they may be those of
    another training. So may a file be that was made anew since.
    """
    for key, name in _named_files(config):
        own, named = exp_dir / OWN_FILES[key], Path(name)
        if not present(own):
            continue
        if named.is_file():
            digests = [file_digest(path) for path in (named, own)]
            recorded = _recorded(exp_dir, key)
            if digests[0] == digests[1] or (recorded and digests[0].startswith(recorded)):
                continue
        if key == "bpemodel":
            config = {**config, key: str(own)}
        else:
            config = {**config, "normalize_conf": {**config["normalize_conf"], key: str(own)}}
    return config


def check_files(config: Mapping[str, Any], path: Path) -> None:
    """Check that the files are there that a model needs besides its folder.

    Args:
        config: content of its ``config.yaml``, see `with_own_files`.
        path: of that, for messages.

    Raises:
        UserError: one is missing, or is not what the training began with.
    """
    for key, name in _named_files(config):
        if not present(Path(name)):
            raise UserError(
                f"{path}: {key} {name} is not there, nor {OWN_FILES[key]} beside it",
                f"copy it to {path.parent / OWN_FILES[key]}, or use the model's pack (stage 15)",
            )
        recorded = _recorded(path.parent, key)
        if recorded and not file_digest(Path(name)).startswith(recorded):
            raise UserError(
                f"{path}: {key} {name} is another than the training began with",
                f"copy that one to {path.parent / OWN_FILES[key]}, or use the model's pack",
            )


def left_out(config: Mapping[str, Any], kept: Sequence[str] = ()) -> list[str]:
    """Name the parts of a model beside its encoder, for what takes the encoder and says so.

    Args:
        config: of its training, as ``read_config`` gives it.
        kept: of ``ctc`` and ``decoder``, those that are taken too.
    """
    weight = config.get("model_conf", {}).get("ctc_weight", 0.5)
    # of features it names a front end that is not there
    front = config.get("frontend") if config.get("input_size") is None else None
    names = {"frontend": f"front end {front}", "ctc": "CTC"}
    names |= {"decoder": f"decoder {config.get('decoder')}"}
    there = {"frontend": front is not None, "ctc": weight > 0}
    there |= {"decoder": weight < 1 and config.get("decoder") is not None}
    return [name for part, name in names.items() if there[part] and part not in kept]


def read_verdict(exp_dir: Path) -> dict[str, Any] | None:
    """Return the verdict on a training, or None of one that was not judged.

    Raises:
        UserError: its file is damaged.
    """
    path = exp_dir / VERDICT
    if not present(path):
        return None
    verdict = read_json(path)
    if not isinstance(verdict.get("learnt"), bool):
        raise UserError(f"{path} says not whether something was learnt", "remove it")
    return verdict


def best_checkpoint(exp_dir: Path | str, criterion: Sequence[str] | None = None) -> Path:
    """Return the model file to decode with.

    It is ``<phase>.<key>.ave.pth`` (the average of the best epochs) of the first entry of
    ``best_model_criterion`` that the training reported: a model without CTC has no ``cer_ctc``,
    one without a decoder no ``acc``. Without an average (training was stopped) it is
    ``<phase>.<key>.best.pth``.

    Args:
        exp_dir: folder of an ASR or LM experiment.
        criterion: ``(phase, key)`` to take instead of those of the configuration.

    Raises:
        UserError: there is no such file, or it is truncated.
    """
    exp_dir = Path(exp_dir)
    if criterion is None:
        criteria = read_config(exp_dir).get("best_model_criterion", [])
        if any(len(entry) < 2 for entry in criteria):
            raise UserError(
                f"{exp_dir / 'config.yaml'} is damaged: best_model_criterion {criteria}",
                "copy it again, from where the model was trained",
            )
    else:
        criteria = [criterion]
    names = [f"{phase}.{key}" for phase, key, *_ in criteria]
    for name in names:
        for path in (exp_dir / f"{name}.ave.pth", exp_dir / f"{name}.best.pth"):
            if not present(path):
                continue
            if not is_whole(path):
                raise UserError(
                    f"model file is truncated or damaged: {path}",
                    "run the training stage again: it repairs the folder and averages anew",
                )
            return path
    raise UserError(
        f"no trained model in {exp_dir} for {', '.join(names) or 'an empty best_model_criterion'}",
        "train first (stage 8)",
    )


def unhealthy_layers(statistics: Mapping[str, float | None]) -> str:
    """Name the spiking layers that hardly fire or fire nearly always.

    Args:
        statistics: of an epoch; the keys ``firing_rate_<layer>`` count.

    Returns:
        one sentence; empty for a healthy or a non-spiking network.
    """
    prefix = "firing_rate_"
    rates = {
        key.removeprefix(prefix): rate
        for key, rate in statistics.items()
        if key.startswith(prefix) and rate is not None
    }
    dead = [layer for layer, rate in rates.items() if rate < DEAD]
    saturated = [layer for layer, rate in rates.items() if rate > SATURATED]
    parts = []
    if dead:
        parts.append(f"firing rate below {DEAD:g}: {', '.join(dead)}")
    if saturated:
        parts.append(f"firing rate above {SATURATED:g}: {', '.join(saturated)}")
    return "; ".join(parts)


def model_file(exp_dir: Path, name: str | None) -> Path:
    """Return a model file of an experiment: the one named, or the best.

    Raises:
        UserError: there is none, which lists those that are there; or it lies elsewhere.
    """
    if name is None:
        return best_checkpoint(exp_dir)
    path = exp_dir / name
    if not _is_inside(exp_dir, path):
        raise UserError(f"model file {name}: it is not in {exp_dir}", "name a file of it")
    if not present(path):
        states = {CHECKPOINT, PREVIOUS_CHECKPOINT}
        there = sorted(p.name for p in exp_dir.glob("*.pth") if p.name not in states)
        raise UserError(f"no model file {path}", f"there are: {', '.join(there) or 'none'}")
    return path


def init_file(exp_dir: Path) -> Path:
    """Return where the model lies that was converted from a twin; ``.json`` beside it says how."""
    return exp_dir / "conversion" / "init.pth"


def experiment_of(file: Path) -> Path:
    """Return the experiment of a model file, which may lie in a folder of it (``conversion``)."""
    folders = list(file.parents)[:2]
    return next((folder for folder in folders if present(folder / "config.yaml")), file.parent)


def name_within(exp_dir: Path, file: Path) -> str:
    """Return a model file as ``model_file`` takes it: its path within the experiment.

    Of one that lies elsewhere, as that of a pack does, it is the name alone.
    """
    if not _is_inside(exp_dir, file):
        return file.name
    return os.path.relpath(file, exp_dir)


def recorded_name(exp_dir: Path, file: Path) -> str:
    """Return a model file as results record it: links, such as to a mean, are followed."""
    return name_within(exp_dir.resolve(), file.resolve())


def _is_inside(folder: Path, file: Path) -> bool:
    return Path(os.path.abspath(folder)) in Path(os.path.abspath(file)).parents
