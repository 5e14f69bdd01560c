"""The shares of jobs in a decoding: batches of utterances, dealt out; their files; progress.

Batches are made of utterances of similar length before they are dealt out to the jobs. With fp32
a hypothesis can depend on what shares its batch, so batches that do not depend on the number of
jobs give a text that does not either.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espnet_spike.errors import UserError
from espnet_spike.utils.shapes import read_shaped

DONE = "done.json"  # written by espnet_spike.inference.worker at the end of a run
PROGRESS = "progress"  # a line "utterances seconds" for each batch of a run
# environment variable: a job ends when the process of this id has exited
PARENT = "ESPNET_SPIKE_PARENT"
# Loading a model takes a process about ten seconds, the time to decode a minute of speech.
AUDIO_SECONDS_PER_JOB = 60.0


@dataclass(frozen=True)
class Report:
    """What ``done.json`` of a run holds."""

    fingerprint: str | None
    decode_seconds: float
    total_seconds: float
    parameters: int
    threads: int
    options: dict[str, Any]


@dataclass
class Run:
    """The share of one job in one set.

    Attributes:
        set_dir: where the set's results go.
        number: of the job, from 1.
        keys: utterances in the order in which they are decoded.
        words: the options of the run.
    """

    set_dir: Path
    number: int
    keys: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def output_dir(self) -> Path:
        """The folder with the run's part of the hypotheses."""
        return self.set_dir / "logdir" / f"output.{self.number}"

    @property
    def log(self) -> Path:
        """The log, named as ESPnet's recipes name it."""
        return self.set_dir / "logdir" / f"asr_inference.{self.number}.log"

    @property
    def options_file(self) -> Path:
        """The file that holds ``words``, one a line."""
        return self.set_dir / "logdir" / f"asr_inference.{self.number}.options"

    @property
    def scp(self) -> Path:
        """The features of the run's utterances, in the order of ``keys``."""
        return self.set_dir / "logdir" / f"keys.{self.number}.scp"

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that a run writes."""
        return self.output_dir, self.log, self.options_file, self.scp

    def report(self) -> dict[str, Any] | None:
        """Return what the finished run has written, or None if it is not finished."""
        try:
            return read_shaped(self.output_dir / DONE, Report)
        except (OSError, UserError):
            return None


def make_batches(frames: Mapping[str, int], batch_size: int) -> list[list[str]]:
    """Group utterances of similar length, the longest first.

    Args:
        frames: utterance -> frames.
        batch_size: utterances in a batch; only the last one may be smaller.
    """
    keys = sorted(frames, key=lambda key: (-frames[key], key))
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]


def deal(
    batches: Sequence[Sequence[str]], frames: Mapping[str, int], loads: list[int]
) -> list[list[str]]:
    """Give each batch to the job with the least to do.

    Args:
        batches: from `make_batches`.
        frames: utterance -> frames.
        loads: padded frames that each job has already; added to.

    Returns:
        The utterances of each job. All its batches are whole but, maybe, its last one.
    """
    shares: list[list[str]] = [[] for _ in loads]
    for batch in batches:
        job = loads.index(min(loads))
        shares[job] += batch
        loads[job] += len(batch) * frames[batch[0]]
    return shares


def number_of_jobs(wanted: int, audio_seconds: float, batches: int) -> int:
    """Return how many jobs pay for their start: ``wanted``, or fewer for little audio."""
    return max(1, min(wanted, batches, math.ceil(audio_seconds / AUDIO_SECONDS_PER_JOB)))


class ProgressBar:
    """A bar over all utterances, fed by what the runs write into their progress files.

    Args:
        runs: the runs to watch.
        total: utterances of all sets; those of other runs are done already.
    """

    def __init__(self, runs: Sequence[Run], total: int) -> None:
        self.files = [run.output_dir / PROGRESS for run in runs]
        self.done_before = total - sum(len(run.keys) for run in runs)
        self.bar = tqdm(total=total, desc="load model", unit="utt", initial=self.done_before)

    def update(self) -> None:
        """Look at the files."""
        lines = [
            line.split()
            for file in self.files
            if file.exists()
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        news = self.done_before + sum(int(line[0]) for line in lines if line) - self.bar.n
        if news > 0:
            if self.bar.n == self.done_before:
                self.bar.unpause()  # loading the model does not count for the estimate
            self.bar.set_description("decode", refresh=False)
            self.bar.update(news)
