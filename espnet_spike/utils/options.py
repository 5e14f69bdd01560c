"""Checking option values that arrive from YAML, where argparse cannot."""

import inspect
from collections.abc import Callable, Iterable, Mapping

from espnet_spike.errors import did_you_mean


def choose(option: str, value: object, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``known``.

    Raises:
        ValueError: naming the option, the known values and the nearest one.
    """
    names = list(known)
    if value not in names:
        guess = did_you_mean(str(value), names)
        raise ValueError(f"{option}: {value!r} is unknown{guess}; known: {', '.join(names)}")
    return str(value)


def check_keys(option: str, conf: Mapping[str, object], target: Callable[..., object]) -> None:
    """Check that every key of ``conf`` is a parameter of ``target``.

    Raises:
        ValueError: naming the key, the known ones and the nearest one.
    """
    known = [name for name in inspect.signature(target).parameters if name != "self"]
    for key in conf:
        choose(option, key, known)
