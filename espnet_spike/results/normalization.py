"""Which text normalization the error rates of an experiment are under.

Stage 11 gets it from the recipe and writes it beside every rate. What scores the model again asks
here, so that its rates are those of ``RESULTS.md``.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from espnet_spike.data.text_normalization import PROFILES, profile
from espnet_spike.errors import UserError
from espnet_spike.results.experiments import RESULTS
from espnet_spike.utils.files import read_json

_logger = logging.getLogger(__name__)


def scored_under(folder: Path, further: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the normalizations that decodings were scored under, each with a file that says so.

    Args:
        folder: an experiment, ``DECODING/SET/result.json`` below it; or an unpacked one, which has
            ``results.json`` instead.
        further: folders of scored sets elsewhere; one that is not scored says nothing.
    """
    found: dict[str, Path] = {}
    more = (path / "result.json" for path in further)
    for path in sorted(
        {*folder.glob("*/*/result.json"), *(path for path in more if path.is_file())}
    ):
        found.setdefault(read_json(path)["normalization"], path)
    if not found and (folder / RESULTS).is_file():
        decodes: dict[str, dict[str, Any]] = read_json(folder / RESULTS).get("decodes", {})
        for sets in decodes.values():
            for figures in sets.values():
                found.setdefault(figures["normalization"], folder / RESULTS)
    return found


def find_normalization(folder: Path, given: str | None = None, further: Iterable[Path] = ()) -> str:
    """Return the normalization to score with: the one given, else that of the folder's decodings.

    One that differs from theirs is logged.

    Args:
        folder, further: see `scored_under`.
        given: by the user.

    Raises:
        UserError: no such profile; or none is given, and nothing has been scored or decodings were
            scored under different ones.
    """
    found = scored_under(folder, further)
    places = ", ".join(f"{name} ({path})" for name, path in found.items())
    if given is not None:
        profile(given)
        if found and given not in found:
            _logger.warning(
                "error rates under text normalization %s do not compare with those of stage 11, "
                "which are under %s",
                *(given, places),
            )
        return given
    hint = f"give --normalization as the recipe's run.sh does, one of {', '.join(PROFILES)}"
    if not found:
        raise UserError(
            f"{folder}: nothing has been scored, so its text normalization is not known", hint
        )
    if len(found) > 1:
        raise UserError(f"{folder} was scored under several text normalizations: {places}", hint)
    return next(iter(found))
