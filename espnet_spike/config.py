"""Read the YAML of a training, and find every mistake in it before work starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_spike.errors import UserError, did_you_mean

# described by espnet_spike.describe, removed before ESPnet sees the configuration
META = "spike_meta"
META_KEYS = ("vocab_size", "input_size", "sparsify", "scan_batches")


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Return the mapping a YAML file holds; an empty file is an empty mapping.

    Raises:
        UserError: no such file, not YAML (with line and column), a key given twice, or no mapping.
    """
    try:
        with open(path, encoding="utf-8") as f:
            config = yaml.load(f, Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"no such configuration file: {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}{place}: {problem}", "mend the YAML") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no key: value pairs", "write one 'key: value' a line")
    return config


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
