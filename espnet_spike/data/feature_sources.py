"""Where features come from: audio, or matrices that were extracted elsewhere."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.audio import AudioInfo, Source, change_rate, inspect, parse_source, read
from espnet_spike.data.dropping import ScoredSets
from espnet_spike.data.extraction import Make, Task, run_tasks
from espnet_spike.data.fbank import FbankConfig, check_finite, extractor
from espnet_spike.data.feature_dir import FeatureDir, seconds_of
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cluster import UTTERANCES, ClusterConfig
from espnet_spike.utils.files import name_some, plural, present, read_table

_logger = logging.getLogger(__name__)

Pairs = Sequence[tuple[Path, Path]]
"""Data directories, each with the feature directory to write."""

Stretches = dict[str, tuple[Source, float, float, float]]
"""Of each utterance its recording, begin and end in seconds (-1: the end), and speed factor."""


def extract(
    pairs: Pairs,
    config: FbankConfig,
    fs: int | None = None,
    allow_pipes: bool = False,
    nj: int = 1,
    cluster: ClusterConfig | None = None,
    utterances_per_task: int = UTTERANCES,
    scored: ScoredSets | None = None,
) -> list[FeatureDir]:
    """Extract log-mel features of audio, and write their settings beside them.

    Args:
        pairs: data directories with ``wav.scp``, and feature directories.
        config: of the features.
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
    import scipy.fft  # noqa: F401
    import soxr  # noqa: F401

    tasks, rate = plan_extraction(pairs, config, fs, allow_pipes, scored)
    empty = extractor(config, rate).empty_bins
    if empty:
        _logger.warning(
            "%d of %d filters hold no point of the Fourier transform and stay at log(epsilon); "
            "lower num_mel_bins",
            empty,
            config.num_mel_bins,
        )
    directories = run_tasks(tasks, nj, "s of audio", cluster, utterances_per_task)
    for task, made in zip(tasks, directories, strict=True):
        FeatureExtractor(rate, config).write(task.target)
        dropped = len(task.text) - len(made.feats)
        _logger.info(
            "%s: %s, %d dropped as shorter than one frame, %.2f h at %d Hz, %s",
            task.target,
            plural(len(made.feats), "utterance"),
            dropped,
            sum(made.durations.values()) / 3600,
            rate,
            plural(sum(frames for frames, _ in made.shapes.values()), "frame"),
        )
    return directories


def plan_extraction(
    pairs: Pairs,
    config: FbankConfig,
    fs: int | None = None,
    allow_pipes: bool = False,
    scored: ScoredSets | None = None,
) -> tuple[list[Task], int]:
    """Look at the audio of all sets and say what is to be done for their features.

    Returns:
        A task for each set, the sampling rate of the features in Hz.

    Raises:
        UserError: unusable audio, or different sampling rates without ``fs``.
    """

    def make(stretches: Stretches, rate: int) -> Make:
        return Extract(config, rate, stretches)

    tasks, rate = plan_audio(pairs, make, fs, allow_pipes, scored)
    for task in tasks:
        task.compression_method = config.compression_method
    return tasks, rate


def plan_audio(
    pairs: Pairs,
    make: Callable[[Stretches, int], Make],
    fs: int | None = None,
    allow_pipes: bool = False,
    scored: ScoredSets | None = None,
) -> tuple[list[Task], int]:
    """Look at the audio of all sets and say what is to be done.

    Args:
        pairs: data directories with ``wav.scp``, and directories to write.
        make: from stretches of recordings and the sampling rate to what makes an utterance.
        fs: see `extract`.
        allow_pipes: likewise.
        scored: likewise.

    Returns:
        A task for each set, the sampling rate of what is made in Hz.

    Raises:
        UserError: unusable audio, tables of different utterances, or different sampling rates
            without ``fs``.
    """
    from tqdm import tqdm

    sets = []
    known: dict[Source, AudioInfo] = {}
    rates: dict[int, str] = {}
    for source_dir, target in pairs:
        data = DataDir.read(source_dir)
        if not data.wav:
            raise UserError(f"{source_dir}: no wav.scp", "--feats_type extracted takes feats.scp")
        data.check_same_utterances(source_dir)
        sources = {key: parse_source(value, key, allow_pipes) for key, value in data.wav.items()}
        infos = {}
        for key, source in tqdm(sources.items(), desc="audio files", unit="file", delay=2):
            if source not in known:  # speed perturbation names a file several times
                known[source] = inspect(source, key, check_samples=False)
            infos[key] = known[source]
            rates.setdefault(infos[key].rate, f"{key} in {source_dir}")
        sets.append((source_dir, target, data, sources, infos))
    if fs is None and len(rates) > 1:
        raise UserError(
            "the audio has different sampling rates: "
            + ", ".join(f"{rate} Hz ({where})" for rate, where in sorted(rates.items())),
            "choose one with --fs",
        )
    rate = fs or next(iter(rates))
    tasks = []
    for source_dir, target, data, sources, infos in sets:
        segments: Stretches = {}
        costs = {}
        for utt in data.text:
            segment = data.segments[utt] if data.segments else None
            recording = segment.recording if segment else utt
            source, info = sources[recording], infos[recording]
            start, end = (segment.start, segment.end) if segment else (0.0, -1.0)
            speed = data.utt2speed.get(utt, 1.0)
            segments[utt] = (source, start, end, speed)
            costs[utt] = ((info.duration if end == -1 else end) - start) / speed
        made_of = (source_dir, data.dropped, scored or ScoredSets())
        tables = (target, costs, data.text, data.utt2spk)
        tasks.append(Task(*tables, make(segments, rate), None, *made_of))
    return tasks, rate


class Extract:
    """Log-mel features of an utterance; called in the worker processes."""

    def __init__(self, config: FbankConfig, rate: int, segments: Stretches) -> None:
        self.config, self.rate, self.segments = config, rate, segments

    def part(self, utterances: Iterable[str]) -> "Extract":
        """Return what a task on a cluster needs for these utterances."""
        return Extract(self.config, self.rate, {utt: self.segments[utt] for utt in utterances})

    def __call__(self, utt: str) -> tuple[np.ndarray, float] | str:
        """Return features ``(frames, bins)`` and seconds of audio, or why there are none.

        Raises:
            UserError: the audio cannot be read, or gives features that are not finite.
        """
        source, start, end, speed = self.segments[utt]
        wave, rate = read(source, utt, start, end)
        wave = change_rate(wave, rate, self.rate, speed)
        features = extractor(self.config, self.rate)(wave, utt)
        if not len(features):
            return "shorter than one frame"
        check_finite(features, f"{utt}: {source.value}")
        return features, len(wave) / self.rate


def copy(
    pairs: Pairs,
    frame_shift: float = 10.0,
    nj: int = 1,
    cluster: ClusterConfig | None = None,
    utterances_per_task: int = UTTERANCES,
    scored: ScoredSets | None = None,
) -> list[FeatureDir]:
    """Copy features that were extracted elsewhere into ark files, checking every matrix.

    Args:
        pairs: data directories with ``feats.scp``, and feature directories.
        frame_shift: ms between frames, for durations where a directory has no ``utt2dur``.
        nj: processes.
        cluster: work there instead.
        utterances_per_task: of the cluster.
        scored: which data directories lose no utterance.

    Raises:
        UserError: a matrix is missing or damaged, or without frames in a set that is scored.
    """
    tasks = [plan_copy(source, target, frame_shift, scored) for source, target in pairs]
    directories = run_tasks(tasks, nj, "utterances", cluster, utterances_per_task)
    for task, made in zip(tasks, directories, strict=True):
        frames = sum(frames for frames, _ in made.shapes.values())
        sizes = plural(len(made.feats), "utterance"), plural(frames, "frame")
        _logger.info("%s: %s, %s", task.target, *sizes)
    return directories


def plan_copy(
    source: Path, target: Path, frame_shift: float = 10.0, scored: ScoredSets | None = None
) -> Task:
    """Say what is to be done for a data directory with ``feats.scp``.

    Args:
        source: the data directory; durations come from its ``utt2dur``, if it has one.
        target: the feature directory.
        frame_shift: ms between frames, for durations without ``utt2dur``.
        scored: which data directories lose no utterance.

    Raises:
        UserError: no features, or an utterance without.
    """
    data = DataDir.read(source)
    if not data.feats:
        raise UserError(f"{source}: no feats.scp", "without it, use --feats_type fbank")
    missing = sorted(set(data.text) - set(data.feats))
    if missing:
        raise UserError(
            f"{source}: not in feats.scp: {name_some(missing)}", "run prepare_data_dir first"
        )
    durations: dict[str, float] = {}
    if present(source / "utt2dur"):
        table = read_table(source / "utt2dur")
        durations = {utt: seconds_of(source, utt, seconds) for utt, seconds in table.items()}
    make = Copy(data.feats, durations, frame_shift)
    costs = dict.fromkeys(data.text, 1.0)
    made_of = (source, data.dropped, scored or ScoredSets())
    return Task(target, costs, data.text, data.utt2spk, make, None, *made_of)


class Copy:
    """Reads the matrix of an utterance; each process has its own open files."""

    def __init__(self, feats: dict[str, str], durations: dict[str, float], shift: float) -> None:
        self.feats, self.durations, self.shift = feats, durations, shift
        self.reader: ArkReader | None = None

    def part(self, utterances: Iterable[str]) -> "Copy":
        """Return what a task on a cluster needs for these utterances."""
        durations = {u: self.durations[u] for u in utterances if u in self.durations}
        return Copy({utt: self.feats[utt] for utt in utterances}, durations, self.shift)

    def __call__(self, utt: str) -> tuple[np.ndarray, float] | str:
        """Return features ``(frames, dimensions)`` and seconds, or why there are none.

        Raises:
            UserError: the matrix cannot be read, or does not fit into single precision.
        """
        self.reader = self.reader or ArkReader()
        matrix = self.reader.read_matrix(utt, self.feats[utt])
        if not len(matrix):
            return "no frames"
        seconds = self.durations.get(utt, len(matrix) * self.shift / 1000)
        with np.errstate(over="ignore"):
            single = np.asarray(matrix, dtype=np.float32)
        if not np.isfinite(single).all():
            raise UserError(f"{utt}: {self.feats[utt]} holds values beyond single precision")
        return single, seconds
