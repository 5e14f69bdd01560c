"""Take features that were extracted elsewhere."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.cluster import add_cluster_options, cluster_of

if TYPE_CHECKING:
    from espnet_spike.data.extraction import Task

logger = logging.getLogger("copy_feats")


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Copy given features (feats.scp of any Kaldi matrices) into ark files, "
        "checking every matrix. Durations come from utt2dur, else from the frame shift."
    )
    parser.add_argument("dirs", nargs="+", metavar="DATA_DIR FEATURE_DIR", help="pairs")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    add_cluster_options(parser)
    parser.add_argument("--frame_shift", type=float, default=10.0, help="ms between frames")
    return parser


class _Copy:
    """Reads the matrix of an utterance; each process has its own open files."""

    def __init__(self, feats: dict[str, str], durations: dict[str, float], shift: float) -> None:
        self.feats, self.durations, self.shift = feats, durations, shift
        self.reader = None

    def part(self, utterances: Iterable[str]) -> "_Copy":
        durations = {u: self.durations[u] for u in utterances if u in self.durations}
        return _Copy({utt: self.feats[utt] for utt in utterances}, durations, self.shift)

    def __call__(self, utt: str) -> tuple | str:
        import numpy as np

        from espnet_spike.data.ark import ArkReader

        self.reader = self.reader or ArkReader()
        matrix = self.reader.read(utt, self.feats[utt])
        if not len(matrix):
            return "no frames"
        seconds = self.durations.get(utt, len(matrix) * self.shift / 1000)
        with np.errstate(over="ignore"):
            single = np.asarray(matrix, dtype=np.float32)
        if not np.isfinite(single).all():
            raise UserError(f"{utt}: {self.feats[utt]} holds values beyond single precision")
        return single, seconds


def plan(source: Path, target: Path, frame_shift: float) -> "Task":
    """Say what is to be done for a data directory with ``feats.scp``.

    Raises:
        UserError: no features, or an utterance without.
    """
    from espnet_spike.data.extraction import Task
    from espnet_spike.data.kaldi_dir import DataDir
    from espnet_spike.utils.files import name_some, read_table

    data = DataDir.read(source)
    if not data.feats:
        raise UserError(f"{source}: no feats.scp", "without it, use --feats_type fbank")
    missing = sorted(set(data.text) - set(data.feats))
    if missing:
        raise UserError(
            f"{source}: not in feats.scp: {name_some(missing)}", "run prepare_data_dir first"
        )
    durations: dict[str, float] = {}
    if (source / "utt2dur").exists():
        table = read_table(source / "utt2dur")
        try:
            durations = {utt: float(seconds) for utt, seconds in table.items()}
        except ValueError as error:
            raise UserError(f"{source}/utt2dur: {error}") from error
    make = _Copy(data.feats, durations, frame_shift)
    costs = dict.fromkeys(data.text, 1.0)
    return Task(target, costs, data.text, data.utt2spk, make)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if len(args.dirs) % 2:
        parser.error("directories come in pairs: DATA_DIR FEATURE_DIR")
    if args.nj < 1:
        parser.error("--nj must be at least 1")
    from espnet_spike.data.extraction import run_tasks

    pairs = zip(args.dirs[::2], args.dirs[1::2], strict=True)
    cluster = cluster_of(args)
    tasks = [plan(Path(source), Path(target), args.frame_shift) for source, target in pairs]
    directories = run_tasks(tasks, args.nj, "utterances", cluster, args.utterances_a_task)
    for task, made in zip(tasks, directories, strict=True):
        frames = sum(frames for frames, _ in made.shapes.values())
        logger.info("%s: %d utterances, %d frames", task.target, len(made.feats), frames)


if __name__ == "__main__":
    run(main)
