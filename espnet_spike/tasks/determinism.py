"""Trainings that can be repeated to the bit.

ESPnet seeds anew in every epoch, from the seed and the epoch, so a resumed training draws what an
uninterrupted one does. What is left is arithmetic: ``--deterministic`` makes torch take algorithms
without races, and holds the number of threads, by which sums are split, to that of the beginning.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.experiment import CHECKPOINT, PREVIOUS_CHECKPOINT
from espnet_spike.utils.files import plural, present, write_json
from espnet_spike.utils.shapes import read_state

ASKED = "ESPNET_SPIKE_DETERMINISTIC"  # in the environment: reaches processes that ESPnet spawns
RECORD = "deterministic.json"
_logger = logging.getLogger(__name__)


def ask() -> None:
    """Make the trainings of this process and of those it starts deterministic."""
    os.environ[ASKED] = "1"
    # without it torch refuses deterministic matrix products on GPUs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def apply() -> None:
    """Set torch up if that was asked for.

    On a CPU an operation without a deterministic form is an error; on a GPU, where the gradient of
    CTC has none, it is a warning that names it.
    """
    if ASKED not in os.environ:
        return
    import torch

    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@dataclass(frozen=True)
class Threads:
    """What the record of a deterministic training holds."""

    threads: int


def check(exp_dir: Path) -> None:
    """Record how many threads an experiment is trained with, if determinism was asked for.

    Raises:
        UserError: it was begun with another number, or without ``--deterministic``.
    """
    if ASKED not in os.environ:
        return
    import torch

    path = exp_dir / RECORD
    threads = torch.get_num_threads()
    begun = any(present(exp_dir / name) for name in (CHECKPOINT, PREVIOUS_CHECKPOINT))
    if begun and not present(path):
        raise UserError(
            f"{exp_dir} was begun without --deterministic", "train under another --asr_tag"
        )
    if begun:
        before = read_state(path, Threads, "train under another --asr_tag").threads
        if before != threads:
            raise UserError(
                f"{exp_dir} was begun with {plural(before, 'thread')}, here torch has {threads}",
                f"set OMP_NUM_THREADS={before}, or train under another --asr_tag",
            )
        return
    write_json(path, {"threads": threads}, indent=None)
    _logger.info("deterministic, with %s", plural(threads, "thread"))
