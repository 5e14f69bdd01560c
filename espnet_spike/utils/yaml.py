"""YAML files, read strictly and written."""

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_spike.errors import UserError, cure_of, did_you_mean
from espnet_spike.utils.files import present, write_lines
from espnet_spike.utils.resources import config_file

MOST_BYTES = 1 << 24
MOST_VALUES = 1_000_000  # with what aliases repeat
MOST_DEPTH = 64
MOST_MERGED = 10_000  # keys that << takes from other mappings, of all mappings of a file
MOST_DIGITS = 100  # of a number
MERGE = "tag:yaml.org,2002:merge"
# what PyYAML raises for tags and values that do not fit together
BAD = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)

SafeLoader: Any = yaml.SafeLoader
with contextlib.suppress(AttributeError):  # a PyYAML without libyaml has no such one
    SafeLoader = yaml.CSafeLoader  # a configuration holds the whole token list


class _Loader(SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would take the last one.

    It goes down so far only: libyaml crashes far below. What grows without bounds while it is
    read is refused: mappings that merge mappings that merge, and numbers of many digits to the
    base of sixty.
    """

    depth = 0
    merged = 0

    def descend_resolver(self, current_node: yaml.Node, current_index: int) -> None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise yaml.MarkedYAMLError(
                None,
                None,
                f"more than {MOST_DEPTH} levels",
                getattr(current_node, "start_mark", None),
            )
        super().descend_resolver(current_node, current_index)

    def ascend_resolver(self) -> None:
        self.depth -= 1
        super().ascend_resolver()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict | set):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a list or a mapping", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        merges = any(key.tag == MERGE for key, _ in node.value)
        super().flatten_mapping(node)
        self.merged += len(node.value) if merges else 0
        if self.merged > MOST_MERGED:
            raise yaml.constructor.ConstructorError(
                None, None, "it merges more keys than any configuration has", node.start_mark
            )

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of over {MOST_DIGITS} digits", node.start_mark
            )
        is_float = node.tag.endswith("float")
        return self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Return the mapping a YAML file holds; an empty file is an empty mapping.

    Raises:
        UserError: no such file, not YAML (with line and column), a key given twice, no mapping, or
            more than a configuration holds.
    """
    try:
        with open(path, "rb") as f:
            content = f.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path}: longer than any configuration", "give another file")
        config = yaml.load(content.decode("utf-8-sig"), Loader=_Loader)
        _values(config, {})
    except FileNotFoundError:
        raise UserError(f"no such configuration file: {path}") from None
    except OSError as error:
        cure = cure_of(str(error.strerror))
        raise UserError(f"{path}: cannot be read ({error.strerror})", cure) from error
    except (yaml.YAMLError, *BAD) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}{place}: {problem}", "fix the YAML") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no key: value pairs", "write one 'key: value' per line")
    return config


def _values(value: Any, known: dict[int, int | None]) -> int:
    """Return how many values something holds, each alias counted as what it stands for."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) in known:
        if (count := known[id(value)]) is None:
            raise ValueError("an alias stands for what it is in")
        return count
    known[id(value)] = None
    items = value if isinstance(value, list) else value.values()
    count = known[id(value)] = 1 + sum(_values(item, known) for item in items)
    if count > MOST_VALUES:
        raise ValueError("its aliases make more of it than any configuration holds")
    return count


def read_named(
    name: str,
    folder: Path,
    keys: Collection[str],
    what: str,
    optional: Collection[str] = (),
) -> tuple[Path, dict[str, Any]]:
    """Read a YAML file of a folder by its name without the ending, or any file by its path.

    Args:
        name: such as ``horowitz45_fp32``, or a path that ends in ``.yaml`` or ``.yml``.
        folder: where names are looked up.
        keys: that the file has to have.
        what: what it holds, for errors.
        optional: keys that it may have besides.

    Returns:
        The path and the content.

    Raises:
        UserError: there is no such file, it cannot be read, or a key is missing or unknown.
    """
    path = config_file(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if not present(path):
        raise UserError(
            f"no {what} {name}{did_you_mean(name, known)}", f"there are: {', '.join(known)}"
        )
    content = read_yaml(path)
    if wrong := {*content} - {*optional} ^ {*keys}:
        wrong = ", ".join(sorted(map(str, wrong)))
        raise UserError(f"{path}: missing or unknown keys: {wrong}", f"see the files of {folder}")
    return path, content


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write the YAML that ESPnet is given, next to what it trains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, yaml.safe_dump(dict(config), sort_keys=False).splitlines())
