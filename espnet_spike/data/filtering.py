"""Which utterances training can use; copies of feature directories without the others."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.data.dropping import DROPPED
from espnet_spike.data.feature_dir import Row, iter_rows, write_rows
from espnet_spike.data.feature_extractor import hand_on
from espnet_spike.errors import UserError
from espnet_spike.utils.files import plural, write_table

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Bounds on the length of an utterance in frames, both included."""

    min_frames: int = 10
    max_frames: int = 3000


def reason_to_drop(frames: int, text: str, limits: Limits) -> str:
    """Return why an utterance cannot be used, empty if it can.

    It may be too short, too long, shorter than its transcript, or without one.
    """
    if frames < limits.min_frames:
        return f"too short: {plural(frames, 'frame')}"
    if frames > limits.max_frames:
        return f"too long: {plural(frames, 'frame')}"
    if len(text) > frames:
        return (
            f"text longer than audio: {plural(len(text), 'character')}, {plural(frames, 'frame')}"
        )
    return "" if text else "no text"


def filter_dir(source: Path, target: Path, limits: Limits) -> dict[str, str]:
    """Write ``target`` with what is kept of ``source``; return what was dropped and why.

    Raises:
        UserError: nothing is left.
    """
    dropped: dict[str, str] = {}

    def kept() -> Iterator[Row]:
        for row in iter_rows(source):
            if reason := reason_to_drop(row.frames, row.text, limits):
                dropped[row.utt] = reason
            else:
                yield row

    count = write_rows(target, kept())
    counts = Counter(reason.partition(":")[0] for reason in dropped.values())
    summary = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none"
    if not count:
        raise UserError(
            f"{source}: no utterance is left (dropped: {summary})",
            "change --min_frames or --max_frames, or look at the data",
        )
    hand_on(source, target)
    write_table(target / DROPPED, dropped)
    _logger.info(
        "%s: %d of %s kept; dropped: %s",
        target,
        count,
        plural(count + len(dropped), "utterance"),
        summary,
    )
    return dropped
