"""Read the YAML of a training, and find every mistake in it before work starts."""

from pathlib import Path
from typing import Any

from espnet_spike import ranges
from espnet_spike.ranges import check
from espnet_spike.utils.yaml import read_yaml

# described by espnet_spike.tasks.describe, removed before ESPnet sees the configuration
META = "spike_meta"


def read_training_config(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration without ``spike_meta``, and ``spike_meta``.

    Raises:
        UserError: as `read_yaml`, or ``spike_meta`` is no mapping or holds a key or value that
            it cannot.
    """
    config = read_yaml(path)
    meta = config.pop(META, None) or {}
    check(ranges.META, meta, f"{path}: {META}")
    return config, dict(meta)
