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
    if "twin" in meta and all(part is None or part.source != TWIN for part in parts):
        raise UserError(
            f"{where}.twin has no effect", f"it is for init_from: {TWIN} or distill: {TWIN}"
        )
    return init, distill


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
        "scheduler_conf": ranges.SCHEDULER_CONF,
    }
    for key, part in config.items():
        if str(key).endswith("_conf") and part is not None:
            check(tables.get(key, {}), part, f"{where}: {key}", others=None)


def merge(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` with ``changes``; mappings are merged key by key."""
    merged = dict(config)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
