"""Read the YAML of a training, and find every mistake in it before work starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_spike import ranges
from espnet_spike.errors import UserError
from espnet_spike.ranges import check
from espnet_spike.utils.yaml import read_yaml

# described by espnet_spike.tasks.describe, removed before ESPnet sees the configuration
META = "spike_meta"
TWIN = "twin"
"""As the name of an experiment: the dense twin, trained by the same command."""
TWIN_PARTS = ("init_from", "distill", TWIN)
"""Keys of ``spike_meta`` about it, which its own training has not."""


@dataclass(frozen=True)
class InitFrom:
    """Start a spiking model from its trained twin, see ``espnet_spike.training.twin``.

    Attributes:
        source: the experiment, or ``twin``.
        utterances: of the training data that thresholds are set on.
        seed: of their choice.
    """

    source: str
    utterances: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Distill:
    """Learn from the CTC posteriors of a trained model, see ``espnet_spike.tasks.model.Teacher``.

    Attributes:
        source: the experiment, or ``twin``.
        weight: of the soft targets beside the loss of the task.
        temperature: of both softmaxes.
    """

    source: str
    weight: float = 1.0
    temperature: float = 1.0


def from_twin(meta: Mapping[str, Any], where: str = META) -> tuple[InitFrom | None, Distill | None]:
    """Return what ``spike_meta`` says of a trained twin: ``init_from`` and ``distill``.

    Args:
        meta: ``spike_meta``.
        where: for messages.

    Raises:
        UserError: an unknown key or impossible value, or changes of a twin that nothing trains.
    """
    parts: list[Any] = []
    for key, cls, table in (
        ("init_from", InitFrom, ranges.INIT_FROM),
        ("distill", Distill, ranges.DISTILL),
    ):
        part = meta.get(key)
        if part is None:
            parts.append(None)
            continue
        conf: dict[str, Any] = {"from": part} if isinstance(part, str) else dict(part)
        check(table, conf, f"{where}.{key}")
        if "from" not in conf:
            raise UserError(f"{where}.{key} names no experiment", f"add from: {TWIN}, or from: EXP")
        parts.append(cls(conf.pop("from"), **conf))
    init, distill = parts
    if TWIN in meta and all(part is None or part.source != TWIN for part in parts):
        raise UserError(
            f"{where}.twin has no effect", f"it is for init_from: {TWIN} or distill: {TWIN}"
        )
    return init, distill


def check_start(config: Mapping[str, Any], meta: Mapping[str, Any], where: Path | str) -> None:
    """Check that nothing says twice what a model starts or learns from.

    Raises:
        UserError: the configuration does, beside ``spike_meta``.
    """
    init, distill = from_twin(meta)
    if init is not None and config.get("init_param"):
        raise UserError(f"{where}: init_param and {META}.init_from", "give one of them")
    if distill is not None and "distill" in (config.get("model_conf") or {}):
        raise UserError(f"{where}: model_conf.distill and {META}.distill", "give the latter")


def trains_twin(meta: Mapping[str, Any]) -> bool:
    """Return whether a training begins with that of its dense twin."""
    return any(part is not None and part.source == TWIN for part in from_twin(meta))


def twin_config(
    config: Mapping[str, Any], meta: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return configuration and ``spike_meta`` of the dense twin's training.

    Args:
        config: of the spiking model.
        meta: its ``spike_meta``, whose ``twin`` changes the configuration.
        path: the YAML, for messages.

    Raises:
        UserError: the encoder has no twin.
    """
    from espnet_spike.tasks.asr import SpikeASRTask

    classes = {c.name: c for c in SpikeASRTask.class_choices_list}["encoder"]
    name, conf = config.get("encoder"), config.get("encoder_conf") or {}
    if name not in classes.classes:
        raise UserError(f"{path}: encoder {name!r} is unknown", "run.sh --list_encoders shows all")
    ask = getattr(classes.get_class(name), "twin", None)
    found = None if ask is None else ask(conf)
    if found is None:
        raise UserError(f"{path}: encoder {name} is dense, it has no twin", f"remove {META}.twin")
    cls, options = found
    names = [other for other, known in classes.classes.items() if known is cls]
    dense = dict(config) | {"encoder": names[0], "encoder_conf": options}
    rest = {key: value for key, value in meta.items() if key not in TWIN_PARTS}
    return merge(dense, meta.get("twin") or {}), rest


def read_training_config(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration without ``spike_meta``, and ``spike_meta``.

    Raises:
        UserError: as `read_yaml`, or ``spike_meta`` is no mapping or holds a key or value that
            it cannot.
    """
    config = read_yaml(path)
    meta = config.pop(META, None) or {}
    check(ranges.META, meta, f"{path}: {META}")
    from_twin(meta, f"{path}: {META}")
    check_training_values(config, path)
    return config, dict(meta)


def check_training_values(config: Mapping[str, Any], where: Path | str) -> None:
    """Compare the numbers of a training's options with their ranges, which no parser looks at.

    Raises:
        UserError: one is out of range, or options of a part are no mapping.
    """
    check(ranges.TRAINING, config, str(where), others=None)
    tables = {
        "model_conf": ranges.MODEL_CONF,
        "ctc_conf": ranges.CTC_CONF,
        "optim_conf": ranges.OPTIM_CONF,
        "scheduler_conf": ranges.SCHEDULER_CONF,
        "specaug_conf": ranges.SPECAUG_CONF,
    }
    for key, part in config.items():
        if str(key).endswith("_conf") and part is not None:
            check(tables.get(key, {}), part, f"{where}: {key}", others=None)
            if places := ranges.not_finite(part, key):
                raise UserError(f"{where}: {places[0]} is not finite", "write a number")
    for key in ("encoder_conf", "decoder_conf", "lm_conf"):
        table = ranges.LM if key == "lm_conf" else ranges.SIZES
        ranges.check_sizes(config.get(key), f"{where}: {key}", table)


def merge(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` with ``changes``; mappings are merged key by key."""
    merged = dict(config)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
