"""Extract log-mel filter bank features into ark files."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run, str2bool
from espnet_spike.utils.cluster import add_cluster_options, cluster_of
from espnet_spike.utils.resources import config_file

if TYPE_CHECKING:
    from espnet_spike.data.extraction import Task
    from espnet_spike.data.fbank import FbankConfig

logger = logging.getLogger("fbank")


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Extract Kaldi-compatible log-mel features. Audio is resampled to --fs, the "
        "speed factors in utt2speed are applied. Every matrix is read back and checked."
    )
    parser.add_argument("dirs", nargs="+", metavar="DATA_DIR FEATURE_DIR", help="pairs")
    parser.add_argument(
        "--config", type=config_file, required=True, help="YAML, see conf/fbank.yaml"
    )
    parser.add_argument("--nj", type=int, default=1, help="processes")
    add_cluster_options(parser)
    parser.add_argument("--fs", type=int, help="sampling rate in Hz; default: that of the audio")
    parser.add_argument(
        "--allow_pipes",
        type=str2bool,
        default=False,
        help="run wav.scp commands other than plain flac, sph2pipe and sox reads",
    )
    return parser


def plan(
    pairs: list[tuple[Path, Path]], config: "FbankConfig", fs: int | None, allow_pipes: bool
) -> tuple[list["Task"], int]:
    """Look at the audio of all sets and say what is to be done.

    Returns:
        A task for each set, the sampling rate of the features in Hz.

    Raises:
        UserError: unusable audio, or different sampling rates without ``fs``.
    """
    from tqdm import tqdm

    from espnet_spike.data.audio import AudioInfo, Source, inspect, parse_source
    from espnet_spike.data.extraction import Task
    from espnet_spike.data.kaldi_dir import DataDir

    sets = []
    known: dict[Source, AudioInfo] = {}
    rates: dict[int, str] = {}
    for source_dir, target in pairs:
        data = DataDir.read(source_dir)
        if not data.wav:
            raise UserError(f"{source_dir}: no wav.scp", "--feats_type extracted takes feats.scp")
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
        stretches = {}
        costs = {}
        for utt in data.text:
            try:
                segment = data.segments[utt] if data.segments else None
                recording = segment.recording if segment else utt
                source, info = sources[recording], infos[recording]
            except KeyError as error:
                raise UserError(
                    f"{source_dir}: {utt} has no audio", "run prepare_data_dir on it first"
                ) from error
            start, end = (segment.start, segment.end) if segment else (0.0, -1.0)
            speed = data.utt2speed.get(utt, 1.0)
            stretches[utt] = (source, start, end, speed)
            costs[utt] = ((info.duration if end == -1 else end) - start) / speed
        make = _Extract(config, rate, stretches)
        tasks.append(Task(target, costs, data.text, data.utt2spk, make, config.compression_method))
    return tasks, rate


class _Extract:
    """Features of an utterance; lives in the worker processes."""

    def __init__(self, config: "FbankConfig", rate: int, stretches: dict[str, tuple]) -> None:
        self.config, self.rate, self.stretches = config, rate, stretches

    def part(self, utterances: Iterable[str]) -> "_Extract":
        return _Extract(self.config, self.rate, {utt: self.stretches[utt] for utt in utterances})

    def __call__(self, utt: str) -> tuple | str:
        import numpy as np

        from espnet_spike.data.audio import change_rate, read
        from espnet_spike.data.fbank import extractor

        source, start, end, speed = self.stretches[utt]
        wave, rate = read(source, utt, start, end)
        wave = change_rate(wave, rate, self.rate, speed)
        features = extractor(self.config, self.rate)(wave, utt)
        if not len(features):
            return "shorter than one frame"
        if not np.isfinite(features).all():
            raise UserError(
                f"{utt}: {source.value} gives features that are not finite",
                "the audio holds NaN or infinite samples; repair or remove it",
            )
        return features, len(wave) / self.rate


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if len(args.dirs) % 2:
        parser.error("directories come in pairs: DATA_DIR FEATURE_DIR")
    if args.nj < 1:
        parser.error("--nj must be at least 1")
    if args.fs is not None and args.fs < 1000:
        parser.error("--fs is in Hz, for example 16000")
    # the work is spread over processes; threads inside them only get in each other's way
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # imported before the processes fork, not in each of them
    import scipy.fft  # noqa: F401
    import soxr  # noqa: F401

    from espnet_spike.data.extraction import run_tasks
    from espnet_spike.data.fbank import extractor, load_config
    from espnet_spike.data.feature_extractor import FeatureExtractor

    config = load_config(args.config)
    cluster = cluster_of(args)
    pairs = [(Path(a), Path(b)) for a, b in zip(args.dirs[::2], args.dirs[1::2], strict=True)]
    tasks, rate = plan(pairs, config, args.fs, args.allow_pipes)
    empty = extractor(config, rate).empty_bins
    if empty:
        logger.warning(
            "%d of %d filters hold no point of the Fourier transform and stay at log(epsilon); "
            "lower num_mel_bins",
            empty,
            config.num_mel_bins,
        )
    directories = run_tasks(tasks, args.nj, "s of audio", cluster, args.utterances_a_task)
    for task, made in zip(tasks, directories, strict=True):
        FeatureExtractor(rate, config).write(task.target)
        dropped = len(task.text) - len(made.feats)
        logger.info(
            "%s: %d utterances, %d dropped as shorter than one frame, %.2f h at %d Hz, %d frames",
            task.target,
            len(made.feats),
            dropped,
            sum(made.durations.values()) / 3600,
            rate,
            sum(frames for frames, _ in made.shapes.values()),
        )


if __name__ == "__main__":
    run(main)
