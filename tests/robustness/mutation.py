"""What a mutation is, and the register of those that damage files."""

import enum
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Expect(enum.Enum):
    """What a command may do with a mutated file."""

    SAME = "succeed with the result of before"
    REFUSED = "refuse it"
    SAME_OR_REFUSED = "refuse it, or succeed with the result of before"
    PARTLY = "refuse it, or succeed with other results, of what was touched only"


@dataclass(frozen=True)
class Mutation:
    """A mutated file.

    Attributes:
        content: the new content; None: the file is gone.
        expect: what a command may do with it.
        touched: for ``PARTLY``: utterances whose results may differ; None: all.
        note: what was done.
        kind: ``file``, or what lies in its place: ``folder``, ``loop`` (a link to itself).
        beside: further files to write.
    """

    content: bytes | None
    expect: Expect
    note: str = ""
    touched: frozenset[str] | None = None
    kind: str = "file"
    beside: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a mutated file lies.

    Attributes:
        path: relative to the folder of the case.
        outside: a folder that nothing may write to.
        touched: utterances that depend on the file; None: all.
        optional: the command does without the file.
        ordered: its lines are sorted.
        sparse: keys that nobody asks for are of no interest in it.
    """

    path: str
    outside: Path
    touched: frozenset[str] | None = None
    optional: bool = False
    ordered: bool = False
    sparse: bool = False

    @property
    def command(self) -> str:
        """A command that leaves a trace."""
        return f"touch {self.outside}/escaped"


Mutator = Callable[[random.Random, bytes, Place], Mutation | None]
# format -> name -> mutator; one that returns None does not apply to this file
MUTATORS: dict[str, dict[str, Mutator]] = {}
ANY = "any"


def mutator(*formats: str) -> Callable[[Mutator], Mutator]:
    """Register a mutator of files of some formats."""

    def register(function: Mutator) -> Mutator:
        for name in formats:
            known = MUTATORS.setdefault(name, {})
            assert function.__name__ not in known
            known[function.__name__] = function
        return function

    return register


def mutators_of(kind: str) -> dict[str, Mutator]:
    """Return what damages files of a format, by name."""
    return MUTATORS[ANY] | MUTATORS[kind]


class Reduced:
    """An object whose pickle runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        import os

        return os.system, (self.command,)


@mutator(ANY)
def unchanged(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """The control."""
    return Mutation(data, Expect.SAME)


@mutator(ANY)
def gone(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return Mutation(None, Expect.PARTLY if place.optional else Expect.REFUSED)


@mutator(ANY)
def folder_in_its_place(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return Mutation(None, Expect.REFUSED, kind="folder")


@mutator(ANY)
def link_to_itself(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """What cannot be read is not absent, where that would be allowed."""
    return Mutation(None, Expect.REFUSED, kind="loop")
