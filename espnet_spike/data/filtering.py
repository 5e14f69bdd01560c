"""Which utterances training can use."""

from dataclasses import dataclass


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
        return f"too short: {frames} frames"
    if frames > limits.max_frames:
        return f"too long: {frames} frames"
    if len(text) > frames:
        return f"text longer than audio: {len(text)} characters, {frames} frames"
    return "" if text else "no text"
