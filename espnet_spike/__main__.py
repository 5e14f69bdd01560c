"""``espnet-spike NAME ...``, or ``python -m espnet_spike NAME ...``: a command of the package."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from espnet_spike import bin as commands
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.utils.cli import run


def main() -> NoReturn:
    """Run the command that the first word names."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: espnet-spike COMMAND ...  (COMMAND --help says more)\n\n" + "\n".join(names))
        sys.exit(0 if words else 2)
    name = words[0].replace("-", "_")

    def start(argv: Sequence[str] | None) -> None:
        if name not in names:
            raise UserError(
                f"unknown command {words[0]!r}{did_you_mean(name, names)}",
                "espnet-spike --help lists them",
            )
        importlib.import_module(f"espnet_spike.bin.{name}").main(argv)

    run(start, words[1:])


if __name__ == "__main__":
    main()
