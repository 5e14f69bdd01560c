"""Files that come with the package, and files that only a checkout has.

The configurations of ``conf/`` and the trained models of ``egs/fsdd/pretrained`` are part of the
package: the folders are linked as ``espnet_spike/conf`` and ``espnet_spike/pretrained``, so that a
wheel holds copies there; a checkout is read at its root, since not every copy of a checkout keeps
links. Recipes, the driver and the benchmarks are not; what needs them asks for the checkout. The
standard library alone, on Python 3.9 or newer: ``espnet_spike.bin.check_environment`` runs where
nothing else does.
"""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path

from espnet_spike.errors import UserError, did_you_mean

_FOLDER = "conf"
_logger = logging.getLogger(__name__)


def shipped(name: str) -> Path:
    """Return a configuration, or a folder of them, that comes with the package.

    Args:
        name: as below ``conf/``, for example ``"energy/horowitz45_fp32.yaml"`` or ``"energy"``.

    Raises:
        UserError: there is none of that name; the nearest one is named.
    """
    root = checkout()
    package = Path(str(resources.files("espnet_spike")))
    folder = ((package if root is None else root) / _FOLDER).resolve()
    path = folder / name
    if path.exists():
        return path
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder: this copy of espnet_spike lacks its configurations",
            "install the package anew",
        )
    known = sorted(str(found.relative_to(folder)) for found in folder.rglob("*.yaml"))
    raise UserError(
        f"espnet_spike has no configuration {_FOLDER}/{name}{did_you_mean(name, known)}",
        f"those it has are in {folder}",
    )


def config_file(text: str) -> Path:
    """Return the file that an option names; ``conf/X`` may be one that comes with the package.

    The type of options that take a YAML file. A file that is there as named goes first; the path
    of one that the package gives is logged, for the same name may be many files.
    """
    path = Path(text)
    if path.exists() or path.parts[:1] != (_FOLDER,) or ".." in path.parts:
        return path
    try:
        found = shipped(str(path.relative_to(_FOLDER)))
    except UserError:
        return path  # refused, under the name that was given, by whoever reads it
    _logger.info("%s: %s", path, found)
    return found


def pretrained() -> dict[str, Path]:
    """Return the trained models that come with the package: name -> pack."""
    root = checkout()
    if root is None:
        folders = [Path(str(resources.files("espnet_spike"))) / "pretrained"]
    else:
        folders = sorted(root.glob("egs/*/pretrained"))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.zip"))}


def checkout() -> Path | None:
    """Return the root of the checkout that the package is imported from, or None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    # of a wheel, this is site-packages
    return root if (root / "run.sh").is_file() and (root / "egs").is_dir() else None


def need_checkout(what: str) -> Path:
    """Return the root of the checkout.

    Args:
        what: what needs it, for the message.

    Raises:
        UserError: the package was not imported from a checkout.
    """
    root = checkout()
    if root is None:
        raise UserError(
            f"{what} needs a checkout of espnet_spike, and the package of "
            f"{Path(__file__).resolve().parents[1]} is not part of one",
            "clone the repository, and run the command from there",
        )
    return root
