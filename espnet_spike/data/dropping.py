"""Utterances that a set loses on its way, and how many a set that is scored may lose.

A test set that lost its hardest utterances is another test set: its error rates compare with
nothing. So nothing is dropped from one without being allowed, and what was is counted in the
results.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import NATURAL
from espnet_spike.utils.files import name_some, plural, present, read_table

DROPPED = "dropped.txt"  # of a data or feature directory: utterance and why


def read_dropped(path: Path) -> dict[str, str]:
    """Return the utterances that a data or feature directory has lost, with the reasons."""
    table = path / DROPPED
    return read_table(table) if present(table) else {}


@dataclass(frozen=True)
class ScoredSets:
    """The data directories of sets that are scored.

    Attributes:
        dirs: real paths.
        allow_dropped: how many utterances each of them may lose.
    """

    dirs: frozenset[str] = frozenset()
    allow_dropped: int = 0

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` takes."""
        parser.add_argument(
            "--test_dir",
            action="append",
            default=[],
            metavar="DATA_DIR",
            help="one that is scored: to drop utterances of it is an error; may be given again",
        )
        parser.add_argument(
            "--allow_dropped",
            type=NATURAL,
            default=0,
            metavar="N",
            help="utterances that each --test_dir may lose all the same",
        )

    @classmethod
    def of(cls, args: argparse.Namespace) -> "ScoredSets":
        """Return what the options say."""
        return cls(frozenset(map(os.path.realpath, args.test_dir)), args.allow_dropped)

    def check(self, path: Path, dropped: Mapping[str, str]) -> None:
        """Refuse that a data directory loses utterances, if it is one that is scored.

        Args:
            path: the data directory.
            dropped: utterance -> why, with those that it has lost before.

        Raises:
            UserError: it loses more than it may; names some of each reason.
        """
        if os.path.realpath(path) not in self.dirs or len(dropped) <= self.allow_dropped:
            return
        reasons = [
            f"{reason}: {name_some(utt for utt, why in dropped.items() if why == reason)}"
            for reason in sorted(set(dropped.values()))
        ]
        raise UserError(
            f"{path}: a set that is scored would lose {plural(len(dropped), 'utterance')}, "
            f"{self.allow_dropped} allowed; {'; '.join(reasons)}",
            "make its tables whole, or take them out of all; "
            f"--allow_dropped {len(dropped)} scores the others, and the results say how many",
        )
