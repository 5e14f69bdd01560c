"""Classes that other packages add under a name: what they must be, and their entry points."""

import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from espnet_spike.errors import UserError

_logger = logging.getLogger(__name__)


def check_class(kind: str, name: str, cls: type, base: type) -> None:
    """Check the name and the class that are to be registered.

    Args:
        kind: of thing, for messages, such as ``encoder``.
        name: in YAML.
        cls: the class.
        base: that it has to derive from.

    Raises:
        UserError: the name is not lower case, or the class does not derive from ``base`` or lacks
            methods.
    """
    if name != name.lower():
        raise UserError(
            f"{kind} name {name!r} is not lower case", f"register it as {name.lower()!r}"
        )
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(
            f"{kind} {name!r}: {cls!r} is not a subclass of {base.__name__}",
            f"derive the class from {base.__module__}.{base.__name__}",
        )
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UserError(
            f"{kind} {name!r}: {place(cls)} has no {', '.join(missing)}",
            f"write the methods that {base.__module__}.{base.__name__} names",
        )


def check_free(kind: str, name: str, cls: type, taken: type | str | None) -> None:
    """Check that no other class has a name.

    Args:
        kind: of thing.
        name: in YAML.
        cls: the class that is to have it.
        taken: the class that has it, or that class's name in full; None for a free name.

    Raises:
        UserError: another class has it.
    """
    there = taken if isinstance(taken, str) else taken and place(taken)
    if there is not None and taken not in (cls, place(cls)):
        raise UserError(
            f"{kind} name {name!r} is taken by {there}",
            f"register {place(cls)} under another name",
        )


def place(cls: type) -> str:
    """Return the name of a class in full."""
    return f"{cls.__module__}.{cls.__qualname__}"


def installed(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, in an order that does not depend on the machine."""
    return sorted(entry_points(group=group), key=origin)


def load(
    entry_point: EntryPoint, kind: str, base: type, taken: Mapping[str, type | str]
) -> tuple[type | None, str]:
    """Return a plugin's class; or None, after a warning, and why it cannot be used.

    Args:
        entry_point: of the plugin.
        kind: of thing.
        base: that its class has to derive from.
        taken: the names there are -> class, or its name in full.
    """
    try:
        cls = entry_point.load()
        check_class(kind, entry_point.name, cls, base)
        check_free(kind, entry_point.name, cls, taken.get(entry_point.name))
    # Whatever another package's import raises must not stop a user who does not need it.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UserError):
            reason = error.message
        _logger.warning("%s plugin %s: %s", kind, origin(entry_point), reason)
        return None, reason
    return cls, ""


def unusable(entry_point: EntryPoint, kind: str, reason: str) -> UserError:
    """Return the error for a plugin that is asked for and cannot be used."""
    return UserError(
        f"{kind} {entry_point.name!r} of the installed distribution "
        f"{distribution_of(entry_point)!r} cannot be used: {reason}",
        f"fix or uninstall {distribution_of(entry_point)}",
    )


def distribution_of(entry_point: EntryPoint) -> str:
    """Return the name of the distribution that a plugin comes with."""
    return entry_point.dist.name if entry_point.dist is not None else entry_point.module


def origin(entry_point: EntryPoint) -> str:
    """Return distribution and name of a plugin."""
    return f"{distribution_of(entry_point)}:{entry_point.name}"
