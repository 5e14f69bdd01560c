"""Memory of configurations that have passed their checks, by content: these cost no time again.

Light: nothing of torch or ESPnet is imported.
"""

import contextlib
import json
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from pathlib import Path

import espnet_spike
from espnet_spike.tasks.registry import KINDS
from espnet_spike.utils.files import digest, write_json
from espnet_spike.utils.shapes import misfit

REMEMBERED = 200  # how many passed checks a file keeps


class PassedChecks:
    """The keys of checks that have passed, in a file; None remembers nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def __contains__(self, key: str) -> bool:
        return key in self._keys()

    def add(self, key: str) -> None:
        """Remember a check; the oldest one is forgotten when there are many."""
        if self.path is not None:
            # where nothing can be written, as beside finished experiments, it is checked again
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, [*self._keys(), key][-REMEMBERED:], sort_keys=True)

    def _keys(self) -> list[str]:
        try:
            keys = [] if self.path is None else json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return []
        return keys if not misfit(keys, list[str]) else []


def check_key(options: Mapping[str, object]) -> str:
    """Return what a passed check depends on: options, files they name, versions, our code."""
    parts: list[str | bytes] = [espnet_spike.__version__, version("espnet"), version("torch")]
    for name, value in sorted(options.items()):
        parts += [name, str(value)]
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and path.is_file():
                parts.append(path.read_bytes())
    for source in sorted(Path(espnet_spike.__file__).parent.rglob("*.py")):
        stat = source.stat()
        parts.append(f"{source.name} {stat.st_size} {stat.st_mtime_ns}")
    for kind in KINDS:
        for plugin in sorted(entry_points(group=kind.group)):
            parts.append(f"{plugin.name} {plugin.value} {plugin.dist and plugin.dist.version}")
    return digest(*parts)
