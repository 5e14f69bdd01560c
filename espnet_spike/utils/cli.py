"""What every command under ``espnet_spike.bin`` shares: parsing, logging, exit codes."""

import argparse
import contextlib
import itertools
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from espnet_spike import ranges
from espnet_spike.errors import UserError, did_you_mean, system_error
from espnet_spike.ranges import Number

ON_TERMINAL = "on_terminal"
"""As ``extra`` of what is logged: shown on the terminal, also where all else goes to a file."""


class Parser(argparse.ArgumentParser):
    """An argument parser with full option names only and a did-you-mean for unknown ones.

    An option may have old names, which work as ever and are not in the help. An option named
    ``--..._args`` takes the next word whatever it looks like, so that ``--asr_args --max_epoch=3``
    works with and without a space in the value.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def add_argument(self, *names: str, old: Sequence[str] = (), **kwargs: Any) -> argparse.Action:
        """Add an argument, see `argparse.ArgumentParser.add_argument`.

        Args:
            names: of the option, or the one of a positional argument.
            old: further names of an option, which the help does not show.
            kwargs: as of argparse.
        """
        if old and "dest" in kwargs:
            kwargs.setdefault("metavar", names[0].lstrip("-").upper())
        action = super().add_argument(*names, **kwargs)
        for name in old:
            if name in self._option_string_actions:
                raise ValueError(f"{name} is an option already")
            self._option_string_actions[name] = action
        return action

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; see `argparse.ArgumentParser.parse_known_args`."""
        words = list(sys.argv[1:] if args is None else args)
        takes_any = {o for o in self._option_string_actions if o.endswith("_args")}
        for place in range(len(words) - 2, -1, -1):
            if words[place] in takes_any:
                words[place : place + 2] = [f"{words[place]}={words[place + 1]}"]
        if option := repeated_list(self, words):
            self.error(f"{option} is given twice; name all behind one: {option} A B")
        return super().parse_known_args(words, namespace or argparse.Namespace())

    def error(self, message: str) -> NoReturn:
        """Exit with status 2; an unknown option gets the nearest known one."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            known = [option for action in self._actions for option in action.option_strings]
            words = message.removeprefix(prefix).split()
            message = prefix + " ".join(
                word + (did_you_mean(word.split("=")[0], known) if word.startswith("--") else "")
                for word in words
            )
        super().error(message)


def repeated_list(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Return an option with a list that is given twice, of which argparse keeps the last; or ''."""
    before = itertools.takewhile(lambda word: word != "--", words)
    given = [word.partition("=")[0] for word in before]
    for action in parser._actions:
        names = [n for n, known in parser._option_string_actions.items() if known is action]
        keeps_last = type(action) is argparse._StoreAction and action.nargs not in (None, "?")
        if keeps_last and sum(given.count(name) for name in names) > 1:
            return names[0]
    return ""


class GivenOnce(argparse.Action):
    """Stores what may be given as a positional or as an option of the same destination."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Keep the values; none, as of a positional that was left out, change nothing."""
        if not values:
            return
        if getattr(namespace, self.dest):
            parser.error(f"{self.metavar} and --{self.dest}: give one of the two")
        setattr(namespace, self.dest, values)


def str2bool(value: str) -> bool:
    """Parse the ``true``/``false`` that Kaldi-style options carry."""
    if value.lower() in ("true", "1", "yes"):
        return True
    if value.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {value!r}")


@dataclass(frozen=True)
class Ranged:
    """Type of an option: a number within its range.

    Attributes:
        range: what it may be.
    """

    range: Number

    @property
    def __name__(self) -> str:  # what argparse calls it where it is no number at all
        return "int" if self.range.whole else "float"

    def __call__(self, word: str) -> int | float:
        """Parse the word.

        Raises:
            ArgumentTypeError: it is out of range.
            ValueError: it is no number.
        """
        number = int(word) if self.range.whole else float(word)
        if wanted := self.range.wanted(number):
            shown = word if len(word) <= 40 else f"{word[:37]}..."
            raise argparse.ArgumentTypeError(f"{shown} is out of range: give {wanted}")
        return number


MOST = 2**31 - 1  # that libraries below take
NATURAL = Ranged(Number(0, MOST, whole=True))
COUNT = Ranged(Number(1, MOST, whole=True))
POSITIVE = Ranged(Number(0, 1e9, above=True))
RATE = Ranged(ranges.RATE)
SEED = Ranged(ranges.SEED)
SHARE = Ranged(Number(0, 1))


def pairs_of(
    parser: argparse.ArgumentParser, words: Sequence[str], names: str
) -> list[tuple[Path, Path]]:
    """Return positional arguments as pairs of directories; ``names`` is what the usage calls them.

    An odd number of them exits with the usage.
    """
    if len(words) % 2:
        parser.error(f"directories come in pairs: {names}")
    return [(Path(a), Path(b)) for a, b in zip(words[::2], words[1::2], strict=True)]


def named_dirs(items: Sequence[str]) -> dict[str, Path]:
    """Read ``NAME=DIR`` arguments.

    Raises:
        UserError: no ``=``, a name given twice, or no such folder.
    """
    found: dict[str, Path] = {}
    for item in items:
        name, equals, folder = item.partition("=")
        if not (name and equals and folder) or "/" in name:
            raise UserError(f"{item!r} is not NAME=DIR", "for example test=dump/fbank/test")
        if name in found:
            raise UserError(f"set {name} is given twice")
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder", "run the earlier stages first")
        found[name] = Path(folder)
    return found


@contextlib.contextmanager
def quiet(level: int = logging.INFO) -> Iterator[None]:
    """Hold back log messages up to ``level``, such as ESPnet's notes; those above pass."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)


def run(
    main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None
) -> NoReturn:
    """Run a command and exit with its status.

    0: done. 1: a ``UserError``, or what the system refuses (a full disk, no permission), printed
    without a traceback, with the command's name where no file has one. 130: Ctrl-C. 141: who reads
    the output is gone, as ``head`` is when it has its lines (128 and the number of SIGPIPE, as
    shells have it). Any other exception is a bug of ours and keeps its traceback.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    try:
        main(argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            sys.exit(141)
        _leave_or_raise(error, main)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr, flush=True)
        sys.exit(130)
    sys.exit(0)


def _leave_or_raise(error: Exception, main: Callable) -> NoReturn:
    """Exit for what the system refuses; raise again what else is wrong."""
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    name = spec.name if spec is not None else main.__module__
    if (known := system_error(error, name.rpartition(".")[2])) is None:
        raise error
    print(f"error: {known}", file=sys.stderr, flush=True)
    sys.exit(1)


def _reader_is_gone() -> bool:
    """Tell whether standard output is a pipe that nobody reads; it is then closed for good."""
    pipe = sys.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), pipe)  # Python flushes at exit
    return True
