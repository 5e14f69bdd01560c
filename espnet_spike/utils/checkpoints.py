"""Files of tensors that ``torch.save`` wrote: read without running anything of them."""

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

from espnet_spike.errors import UserError
from espnet_spike.utils.archives import opened_zip


def load_tensors(path: Path | str, device: str = "cpu") -> Any:
    """Return what a ``.pth`` file holds: tensors, numbers and texts in lists and dictionaries.

    The file is read, not mapped, so that nobody can change it underneath; what it unpacks to is
    limited by its own size.

    Args:
        path: written by ``torch.save`` in its format since 1.6, a zip archive.
        device: where the tensors go.

    Raises:
        UserError: missing, damaged, or it holds other objects.
        OSError: the disk fails.
    """
    import torch

    path = Path(path)
    try:
        with opened_zip(path):
            pass  # its sizes are checked
        return torch.load(path, map_location=device, weights_only=True, mmap=False)
    except FileNotFoundError as error:
        raise UserError(f"no such model file: {path}") from error
    except pickle.UnpicklingError as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged, or holds more than tensors: {message[:200]}",
            "only files that torch.load takes with weights_only=True are read",
        ) from error
    except OSError:
        raise
    except Exception as error:  # of damaged bytes torch makes nearly anything
        raise UserError(
            f"{path} is damaged, or no model file: {type(error).__name__}: {error}",
            "train or copy it again",
        ) from error


def is_whole(path: Path) -> bool:
    """Return whether a ``.pth`` file is complete.

    It is a zip archive whose every checksum holds, with each tensor that its pickle refers to: a
    save that Ctrl-C stopped leaves a sound archive without the rest of the tensors. Nothing is
    imported or run from the file. False for a missing file or a dangling link.
    """
    try:
        with opened_zip(path) as archive:
            return _holds_all(archive)
    except Exception:  # of damaged bytes zipfile and pickle make nearly anything
        return False


def _holds_all(archive: zipfile.ZipFile) -> bool:
    if archive.testzip() is not None:
        return False
    names = set(archive.namelist())
    pickled = [name for name in names if name.endswith("/data.pkl")]
    if len(pickled) != 1:
        return False
    with archive.open(pickled[0]) as f:
        reader = _TensorKeys(f)
        reader.load()
    folder = pickled[0].removesuffix(".pkl")
    return all(f"{folder}/{key}" in names for key in reader.keys)


class _Nothing:
    """Stands for every class and function a pickle names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass


class _TensorKeys(pickle.Unpickler):
    """Collect the keys of the tensors a torch pickle refers to, without running anything of it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.keys: set[str] = set()

    def find_class(self, module: str, name: str) -> type:
        return _Nothing

    def persistent_load(self, pid: Any) -> _Nothing:
        self.keys.add(pid[2])
        return _Nothing()
