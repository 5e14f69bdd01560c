"""What the package needs, and a command that installs what is missing into this environment.

The standard library alone, on Python 3.9 or newer: ``espnet_spike.bin.check_environment`` runs
where nothing else does.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from importlib import metadata, util
from pathlib import Path

from espnet_spike.utils.resources import checkout

DISTRIBUTION = "espnet-spike"


def requirements(extra: str = "") -> list[str]:
    """Return the requirements of the package, or those of one of its extras.

    Args:
        extra: of pyproject.toml, such as ``sim``, ``onnx``, ``microphone`` or ``test``.

    Raises:
        ValueError: there is no such extra.
    """
    root = checkout()
    lines = _of_metadata(extra) if root is None else _of_pyproject(root / "pyproject.toml", extra)
    if not lines:
        raise ValueError(f"{DISTRIBUTION} has no extra {extra!r}")
    return lines


def _of_pyproject(path: Path, extra: str) -> list[str]:
    # by pattern: Python 3.9 reads no TOML
    text = path.read_text(encoding="utf-8")
    name = extra or "dependencies"
    block = re.search(rf"^{name} = \[(.*?)^\]", text, flags=re.DOTALL | re.MULTILINE)
    return [] if block is None else re.findall(r'^\s*"([^"]+)"', block[1], flags=re.MULTILINE)


def _of_metadata(extra: str) -> list[str]:
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        named = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if (named[1] if named else "") == extra:
            found.append(requirement.strip())
    return found


def _locked() -> list[str]:
    """Return the extras that the locked list for tests holds."""
    parts = re.match(r"[\w-]+\[([\w,]+)\]", requirements("test")[0])
    return ["test", *(parts[1].split(",") if parts else [])]


def how_to_install(extra: str) -> str:
    """Return a command for a shell that installs an extra into the environment of this process.

    In the ``.venv`` of a checkout it is ``local/env.sh``, which keeps to the locked list, if that
    has the extra. Elsewhere it names the packages themselves, so that it works wherever
    espnet_spike came from, and calls the installer that is there: pip of this environment, uv, or
    the pip that comes with Python.
    """
    root = checkout()
    own = root is not None and Path(sys.prefix).resolve() == (root / ".venv").resolve()
    if root is not None and own and extra in _locked():
        return f"bash {shlex.quote(str(root / 'local/env.sh'))} --group test"
    packages = shlex.join(requirements(extra))
    python = shlex.quote(sys.executable)
    if util.find_spec("pip") is not None:
        return f"{python} -m pip install {packages}"
    if shutil.which("uv"):
        return f"uv pip install --python {python} {packages}"
    return f"{python} -m ensurepip && {python} -m pip install {packages}"
