"""YAML files, read strictly and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_spike.errors import UserError
from espnet_spike.utils.files import write_lines


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


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write the YAML that ESPnet is given, next to what it trains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, yaml.safe_dump(dict(config), sort_keys=False).splitlines())
