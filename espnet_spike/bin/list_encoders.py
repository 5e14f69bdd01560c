"""List the encoders that a configuration can name, and where each comes from."""

from collections.abc import Sequence

from espnet_spike.utils.cli import Parser, run


def get_parser() -> Parser:
    """Return the parser of this command."""
    return Parser(description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    get_parser().parse_args(argv)
    from espnet_spike.tasks.registry import encoder_origins

    origins = encoder_origins()
    width = max(map(len, origins))
    # ours and those of plugins first
    for name in sorted(origins, key=lambda name: (origins[name] == "espnet", origins[name], name)):
        print(f"{name:<{width}}  {origins[name]}")


if __name__ == "__main__":
    run(main)
