"""Kaldi ark files: matrices of features, written and read with kaldiio.

No other module imports kaldiio: its licence is for evaluation only, and a replacement has to
provide just what is used here, ``save_ark`` and ``load_mat``.
"""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from espnet_spike.errors import UserError

OPEN_FILES = 16


class ArkWriter:
    """Write matrices one after another into an ark file, as a context manager.

    Args:
        path: the file.
        compression_method: None for float32, else Kaldi's number (2: one byte a value, 3: two).
    """

    def __init__(self, path: Path, compression_method: int | None = None) -> None:
        self._file = path.open("wb")
        self._compression_method = compression_method

    def __enter__(self) -> "ArkWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, key: str, matrix: np.ndarray) -> int:
        """Append a matrix ``(T, D)``.

        Returns:
            Its offset, which a scp file puts behind the file name and a colon.
        """
        import kaldiio

        offset = self._file.tell() + len(key.encode()) + 1
        kaldiio.save_ark(self._file, {key: matrix}, compression_method=self._compression_method)
        return offset


class ArkReader:
    """Read the matrices that scp entries ``path:offset`` name, as a context manager."""

    def __init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> "ArkReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self, utt: str, entry: str) -> np.ndarray:
        """Return the matrix ``(T, D)`` of an entry, checked to be finite.

        Args:
            utt: utterance, for messages.
            entry: ``path:offset``, with or without a Kaldi range ``[first:last]``.

        Raises:
            UserError: missing, truncated or damaged ark, no matrix, values that are not finite.
        """
        import kaldiio

        if entry.startswith("|") or entry.endswith("|"):
            raise UserError(
                f"{utt}: feats.scp names a command: {entry}", "write the features to an ark file"
            )
        try:
            path, offset = _split(entry)
            file = self._open(path)
            file.seek(offset)
            # kaldiio would unpickle what begins with "PKL"
            if file.read(2) != b"\0B":
                raise ValueError("no binary Kaldi matrix at this place")
            matrix = kaldiio.load_mat(entry, fd_dict=self._files)
        except FileNotFoundError as error:
            raise UserError(
                f"{utt}: {entry}: no such file", "extract the features again"
            ) from error
        except Exception as error:  # damaged bytes make kaldiio raise nearly anything
            raise UserError(
                f"{utt}: {entry} cannot be read: truncated or damaged ark ({error})",
                "extract the features again",
            ) from error
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
            raise UserError(f"{utt}: {entry} holds no matrix")
        if not np.isfinite(matrix).all():
            raise UserError(
                f"{utt}: {entry} holds values that are not finite",
                "one such frame stops the whole training; extract the features again",
            )
        return matrix

    def _open(self, path: str) -> BinaryIO:
        if path not in self._files:
            if len(self._files) >= OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            self._files[path] = open(path, "rb")
        return self._files[path]


def _split(entry: str) -> tuple[str, int]:
    """Split ``path:offset[range]`` into path and offset; without a colon the offset is 0."""
    plain = entry.rpartition("[")[0] if entry.endswith("]") else entry
    path, colon, offset = (plain or entry).rpartition(":")
    if colon and offset.isdigit():
        return path, int(offset)
    return plain or entry, 0
