"""Read the YAML of a training, and find every mistake in it before work starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.utils.yaml import read_yaml

# described by espnet_spike.tasks.describe, removed before ESPnet sees the configuration
META = "spike_meta"
META_KEYS = ("vocab_size", "input_size", "sparsify", "scan_batches")


def read_training_config(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration without ``spike_meta``, and ``spike_meta``.

    Raises:
        UserError: as `read_yaml`, or ``spike_meta`` is no mapping or holds an unknown key.
    """
    config = read_yaml(path)
    meta = config.pop(META, None) or {}
    if not isinstance(meta, Mapping):
        raise UserError(f"{path}: {META} must be a mapping such as {{vocab_size: 30}}")
    for key in meta:
        if key not in META_KEYS:
            guess = did_you_mean(str(key), META_KEYS)
            raise UserError(f"{path}: unknown key {META}.{key}{guess}", f"known: {META_KEYS}")
    if not isinstance(meta.get("scan_batches", False), bool):
        raise UserError(
            f"{path}: {META}.scan_batches is {meta['scan_batches']!r}, not true or false"
        )
    return config, dict(meta)
