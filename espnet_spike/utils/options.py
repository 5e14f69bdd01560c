"""Checking option values that arrive from YAML, where argparse cannot."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Concatenate

from espnet_spike.errors import did_you_mean
from espnet_spike.ranges import MODEL


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


def check_numbers(values: Mapping[str, object]) -> None:
    """Check options of a model whose names ``ranges.MODEL`` knows: numbers, or None for the usual.

    Raises:
        ValueError: one is no number in its range, naming it and what it may be.
    """
    for name, value in values.items():
        if value is not None and name in MODEL and (wanted := MODEL[name].wanted(value)):
            raise ValueError(f"{name}: {value!r} is out of range; give {wanted}")


def numbers_in_range[**P, S](
    init: Callable[Concatenate[S, P], None],
) -> Callable[Concatenate[S, P], None]:
    """Make a constructor check its numbers first, see `check_numbers`."""
    names = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        check_numbers(dict(zip(names, args, strict=False)) | kwargs)
        init(self, *args, **kwargs)

    return checked
