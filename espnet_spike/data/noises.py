"""Recordings of noise, as features, to be added to those of speech."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from espnet_spike.data.ark import FeatureTable
from espnet_spike.errors import UserError
from espnet_spike.utils.files import present


class RecordedNoise(Sequence[np.ndarray]):
    """The matrices ``(T, D)`` that a folder's ``feats.scp`` names, in its order.

    Nothing is read before the first use: a model that only decodes needs no noise.

    Args:
        folder: holds ``feats.scp``; stage 3's command makes it of a data directory of recordings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _table(self) -> FeatureTable:
        path = self.folder / "feats.scp"
        hint = "extract the features of your noises with the options of the speech's (stage 3)"
        if not present(path):
            raise UserError(f"{path}: no such file, but noise is to be taken from there", hint)
        table = FeatureTable(path)
        if not table:
            raise UserError(f"{path} names no recording", hint)
        return table

    def check(self) -> None:
        """Check that there are recordings.

        Raises:
            UserError: there is no ``feats.scp``, or it names none.
        """
        _ = self._table

    @cached_property
    def names(self) -> list[str]:
        """The names of the recordings."""
        return list(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        """Return the features of one recording, or a list of several."""
        if isinstance(index, slice):
            return [self._features(name) for name in self.names[index]]
        return self._features(self.names[index])

    def _features(self, name: str) -> np.ndarray:
        return self._table.reader.read_matrix(name, self._table.entries[name])
