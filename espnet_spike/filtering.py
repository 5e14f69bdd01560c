"""Which utterances training can use."""

from dataclasses import dataclass

from espnet_spike.feature_dir import FeatureDir


@dataclass(frozen=True)
class Limits:
    """Bounds on the length of an utterance in frames, both included."""

    min_frames: int = 10
    max_frames: int = 3000


def split_by_length(data: FeatureDir, limits: Limits) -> tuple[FeatureDir, dict[str, str]]:
    """Leave out utterances that are too short, too long, or shorter than their transcript.

    Returns:
        The utterances kept; those dropped with the reason.
    """
    dropped: dict[str, str] = {}
    for utt, (frames, _) in data.shapes.items():
        characters = len(data.text[utt])
        if frames < limits.min_frames:
            dropped[utt] = f"too short: {frames} frames"
        elif frames > limits.max_frames:
            dropped[utt] = f"too long: {frames} frames"
        elif characters > frames:
            dropped[utt] = f"text longer than audio: {characters} characters, {frames} frames"
        elif not characters:
            dropped[utt] = "no text"
    return data.subset(utt for utt in data.feats if utt not in dropped), dropped
