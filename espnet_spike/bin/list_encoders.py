"""List the encoders that can be built here, with their origins, and what the others need."""

from collections.abc import Sequence

from espnet_spike.utils.cli import Parser, run


def get_parser() -> Parser:
    """Return the parser of this command."""
    return Parser(description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    get_parser().parse_args(argv)
    from espnet_spike.tasks.registry import encoder_origins, format_origins

    print(format_origins(encoder_origins()))


if __name__ == "__main__":
    run(main)
