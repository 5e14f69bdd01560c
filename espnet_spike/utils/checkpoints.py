"""Files of tensors that ``torch.save`` wrote: read without running anything of them."""

import errno
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from espnet_spike.errors import UserError
from espnet_spike.utils.archives import opened_zip

if TYPE_CHECKING:
    from torch import Tensor, nn

NOT_OF = "config.yaml beside it has to be that of its training"
SHOWN = 3  # names of parameters in an error
# of Deepspeed and of Lightning, around the parameters
WRAPPERS = ("module", "state_dict")


def load_tensors(path: Path | str, device: str = "cpu") -> Any:
    """Return what a ``.pth`` file holds: tensors, numbers and texts in lists and dictionaries.

    The file is read, not mapped, so that nobody can change it underneath; what it unpacks to is
    limited by its own size. Its checksums are compared, at which torch does not look.

    Args:
        path: written by ``torch.save`` in its format since 1.6, a zip archive.
        device: where the tensors go.

    Raises:
        UserError: missing, damaged, or it holds other objects.
        OSError: the system refuses it; not for a place in the file that damage has made negative.
    """
    import torch

    path = Path(path)
    try:
        with opened_zip(path) as archive:  # which checks sizes
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {bad} is another")
        return torch.load(path, map_location=device, weights_only=True, mmap=False)
    except FileNotFoundError as error:
        raise UserError(f"no such model file: {path}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UserError(f"{path} is damaged: {error}", "train or copy it again") from error
    except pickle.UnpicklingError as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged, or holds more than tensors: {message[:200]}",
            "only files that torch.load takes with weights_only=True are read",
        ) from error
    except Exception as error:  # of damaged bytes torch makes nearly anything
        raise UserError(
            f"{path} is damaged, or no model file: {type(error).__name__}: {error}",
            "train or copy it again",
        ) from error


def load_parameters(path: Path | str, device: str = "cpu") -> "dict[str, Tensor]":
    """Return what a file of one model's parameters holds: name -> finite tensor.

    Raises:
        UserError: as `load_tensors`, or it holds something else, or what is no number.
    """
    import torch

    state = load_tensors(path, device)
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, torch.Tensor) for value in state.values()):
        resumes = " (it resumes a training)" if isinstance(state, dict) and "model" in state else ""
        raise UserError(
            f"{path} holds something else than the parameters of a model{resumes}",
            "give a model file, such as valid.acc.ave.pth or 3epoch.pth",
        )
    bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise UserError(
            f"{path}: not a number, or infinite: {_some(bad)}",
            "the training diverged, or the file was changed: take another epoch, or train again",
        )
    return dict(state)


def fill(
    model: "nn.Module",
    path: Path | str,
    may_lack: Callable[[str], bool] = lambda name: False,
    device: str = "cpu",
) -> None:
    """Load the parameters of a model from a file that holds every one of them and no others.

    Args:
        model: gets them.
        path: of a model file.
        may_lack: says of which names the file may hold nothing; those stay as they are.
        device: where the model is.

    Raises:
        UserError: as `load_parameters`, or the parameters are those of another model.
    """
    state = load_parameters(path, device)
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # what a module says of it, or a parameter of another size
        message = " ".join(str(error).split())
        raise UserError(f"{path} is not of this model: {message[:400]}", NOT_OF) from None
    compare(state, model.state_dict(), path, may_lack)


def compare(
    state: "Mapping[str, Tensor]",
    wanted: "Mapping[str, Tensor]",
    path: Path | str,
    may_lack: Callable[[str], bool] = lambda name: False,
    hint: str = NOT_OF,
) -> None:
    """Refuse parameters of which a name, a shape or the kind of number is not that of a model.

    Args:
        state: the parameters.
        wanted: those of the model.
        path: the file that they are from, for errors.
        may_lack: says which names may be absent.
        hint: what the user can do.

    Raises:
        UserError: there is a difference; it shows the first names.
    """
    missing = [name for name in wanted if name not in state and not may_lack(name)]
    unknown = [name for name in state if name not in wanted]
    other = [
        f"{name} {_kind(state[name])} for {_kind(wanted[name])}"
        for name in wanted
        if name in state and _kind(state[name]) != _kind(wanted[name])
    ]
    told = {"it lacks": missing, "the model lacks": unknown, "of another shape:": other}
    if differences := [f"{what} {_some(names)}" for what, names in told.items() if names]:
        raise UserError(f"{path} is not of this model: {'; '.join(differences)}", hint)


def _kind(tensor: "Tensor") -> str:
    whole = "" if tensor.is_floating_point() or tensor.is_complex() else " of whole numbers"
    return f"{tuple(tensor.shape)}{whole}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


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
