"""Audio for models that have a front end of their own: checked, resampled, in place of features.

ESPnet's recipes call it ``feats_type raw``. The directory is laid out as one of features, its
``feats.scp`` names audio in Kaldi archives (``data.ark``), and so the stages that follow take it.
"""

import logging
from collections.abc import Iterable

import numpy as np

from espnet_spike.data.audio import change_rate, read
from espnet_spike.data.dropping import ScoredSets
from espnet_spike.data.extraction import Make, run_tasks
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.data.feature_sources import Pairs, Stretches, plan_audio
from espnet_spike.errors import UserError
from espnet_spike.utils.cluster import UTTERANCES, ClusterConfig
from espnet_spike.utils.files import plural

MIN_SECONDS = 0.02  # an utterance that has less is none, as one without a frame is of features
HIGHEST = 32767  # of 16 bits

_logger = logging.getLogger(__name__)


def format_audio(
    pairs: Pairs,
    fs: int | None = None,
    allow_pipes: bool = False,
    nj: int = 1,
    cluster: ClusterConfig | None = None,
    utterances_per_task: int = UTTERANCES,
    scored: ScoredSets | None = None,
) -> list[FeatureDir]:
    """Write the audio of every utterance, one channel of 16 bits at one sampling rate.

    Args:
        pairs: data directories with ``wav.scp``, and directories to write.
        fs: sampling rate in Hz, to which audio is resampled; None: that of the audio.
        allow_pipes: run commands in ``wav.scp``.
        nj: processes.
        cluster: work there instead.
        utterances_per_task: of the cluster.
        scored: which data directories lose no utterance.

    Raises:
        UserError: unusable audio, different sampling rates without ``fs``, or too short utterances
            in a set that is scored.
    """
    # imported before the processes fork, not in each of them
    import soxr  # noqa: F401

    tasks, rate = plan_audio(pairs, Format, fs, allow_pipes, scored)
    for task in tasks:
        task.rate = rate
    directories = run_tasks(tasks, nj, "s of audio", cluster, utterances_per_task)
    for task, made in zip(tasks, directories, strict=True):
        FeatureExtractor(rate, None).write(task.target)
        _logger.info(
            "%s: audio of %s, %d dropped as shorter than %g ms, %.2f h at %d Hz",
            task.target,
            plural(len(made.feats), "utterance"),
            len(task.text) - len(made.feats),
            1000 * MIN_SECONDS,
            sum(made.durations.values()) / 3600,
            rate,
        )
    return directories


class Format:
    """Audio of an utterance at one sampling rate; called in the worker processes."""

    def __init__(self, segments: Stretches, rate: int) -> None:
        self.segments, self.rate = segments, rate

    def part(self, utterances: Iterable[str]) -> Make:
        """Return what a task on a cluster needs for these utterances."""
        return Format({utt: self.segments[utt] for utt in utterances}, self.rate)

    def __call__(self, utt: str) -> tuple[np.ndarray, float] | str:
        """Return samples ``(N,)`` int16 and seconds, or why there are none.

        What resampling, or a file of floating-point numbers, puts beyond 16 bits is clipped.

        Raises:
            UserError: the audio cannot be read, or holds samples that are not finite.
        """
        source, start, end, speed = self.segments[utt]
        wave, rate = read(source, utt, start, end)
        if not np.isfinite(wave).all():
            raise UserError(
                f"{utt}: {source.value} holds samples that are not finite", "repair or remove it"
            )
        wave = change_rate(wave, rate, self.rate, speed)
        if len(wave) < MIN_SECONDS * self.rate:
            return f"shorter than {1000 * MIN_SECONDS:g} ms"
        samples = np.clip(np.rint(wave), -HIGHEST - 1, HIGHEST).astype(np.int16)
        return samples, len(samples) / self.rate
