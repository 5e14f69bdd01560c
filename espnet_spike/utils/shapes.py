"""State files are read with their shape checked, not their syntax alone.

A dataclass says which keys a file has to have, and of what kind their values are::

    @dataclass(frozen=True)
    class Finished:
        request: str
        files: list[str]

    finished = read_state(exp_dir / "spike_finished.json", Finished, "train again")

A field with a default may be absent; keys that are no field are of no interest. A key that Python
cannot have as a name, such as ``del``, is a field of another with ``metadata={"key": "del"}``; such
a file is for `read_shaped`.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_json


def read_state[T](path: Path, shape: type[T], cure: str = "") -> T:
    """Return what a JSON file holds, as the dataclass that says its shape.

    Args:
        path: the file.
        shape: a dataclass.
        cure: what to do about a damaged file.

    Raises:
        UserError: it is missing, cannot be read, is no JSON or of another shape.
    """
    content = read_shaped(path, shape, cure)
    names = {field.name for field in fields(typing.cast(Any, shape))}
    return shape(**{key: value for key, value in content.items() if key in names})


def read_shaped(path: Path, shape: type, cure: str = "") -> dict[str, Any]:
    """Return what a JSON file holds, as it stands there; see `read_state`."""
    content = read_json(path, cure)
    check_shape(path, content, shape, cure)
    return content


def check_shape(place: Path | str, content: Any, shape: type, cure: str = "") -> None:
    """Raise a ``UserError`` that names the key where a value is not as a dataclass says."""
    if problem := misfit(content, shape):
        raise UserError(
            f"{place} is damaged: {problem}", cure or "run the stage that makes it again"
        )


def misfit(value: Any, wanted: Any) -> str:
    """Say where a value of JSON or YAML does not fit, empty if it does.

    Args:
        value: any.
        wanted: a dataclass, or an annotation: of numbers, texts, ``None``, ``list[...]``,
            ``dict[str, ...]``, and unions of those.

    >>> misfit({"files": ["a", 1]}, dict[str, list[str]])
    'files[1]: 1 is no str'
    """
    key, problem = _misfit(value, wanted)
    return f"{key.removeprefix('.')}: {problem}" if key else problem


def _misfit(value: Any, wanted: Any) -> tuple[str, str]:
    """Return the key, as in ``.a.b[0]``, and what is wrong there; empty if nothing is."""
    if is_dataclass(wanted):
        return _dataclass_misfit(value, wanted)
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        found = [_misfit(value, one) for one in inner]
        # of a union, what is nearest says more: the one that fits in part
        return min(found, key=lambda problem: (bool(problem[1]), -len(problem[0])))
    if wanted is Any:
        return "", ""
    kind = {float: (int, float), None: (type(None),), Mapping: (dict,)}.get(
        origin or wanted, (origin or wanted,)
    )
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
        name = "null" if wanted in (None, type(None)) else getattr(kind[-1], "__name__", kind)
        return "", f"{_short(value)} is no {name}"
    items: list[tuple[str, Any, Any]] = []
    if isinstance(value, list) and inner:
        items = [(f"[{number}]", item, inner[0]) for number, item in enumerate(value)]
    elif isinstance(value, dict) and inner:
        items = [(f".{key}", item, inner[1]) for key, item in value.items()]
    for name, item, one in items:
        key, problem = _misfit(item, one)
        if problem:
            return name + key, problem
    return "", ""


def _dataclass_misfit(value: Any, wanted: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        return "", f"{_short(value)} is no mapping"
    kinds = get_type_hints(wanted)
    for field in fields(wanted):
        name = field.metadata.get("key", field.name)
        if name not in value:
            if field.default is MISSING and field.default_factory is MISSING:
                return "", f"{name} is missing"
            continue
        key, problem = _misfit(value[name], kinds[field.name])
        if problem:
            return f".{name}{key}", problem
    return "", ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
