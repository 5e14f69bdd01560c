"""Processes that load batches: as many as shared memory has room for, none waited for forever.

Batches go from these processes to the training through ``/dev/shm``, of 64 MB in a container. Where
it is full, torch's workers die of a bus error or never answer.
"""

import functools
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_spike.errors import UserError
from espnet_spike.tasks.oom_scan import RemembersShapes

if TYPE_CHECKING:
    from torch import Tensor

SHARED = Path("/dev/shm")
SHARE = 0.8  # of the free shared memory that batches may take
PREFETCHED = 2  # batches that torch lets each process have ready
TIMEOUT = 60  # seconds that a batch may take
SIGNS = ("DataLoader", "bus error", "shared memory", "unable to open shared memory")
SMALL = 1 << 28  # bytes under which statistics are collected without processes

Batch = Sequence[str]
_logger = logging.getLogger(__name__)


def free_shared_memory(folder: Path = SHARED) -> int | None:
    """Return the bytes that are free in shared memory; None where there is no such folder."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def largest_batch(batches: Iterable[Batch], shape_files: Iterable[Path | str]) -> int:
    """Return the bytes of the largest batch when it is padded.

    Args:
        batches: utterances of each batch.
        shape_files: lines "utterance length,dimension", one file for each part of a batch:
            ``speech_shape`` of features in float32, others of tokens in int64, whose second number
            is the vocabulary.
    """
    batches = [tuple(batch) for batch in batches]
    sizes = [0] * len(batches)
    number_of = {utt: number for number, batch in enumerate(batches) for utt in batch}
    for shape_file in shape_files:
        largest = [0] * len(batches)
        is_speech = Path(shape_file).name.startswith("speech")
        with open(shape_file, encoding="utf-8") as file:
            for line in file:
                utt, shape = line.split(maxsplit=1)
                if (number := number_of.get(utt)) is not None:
                    numbers = [int(part) for part in shape.split(",")]
                    taken = 4 * math.prod(numbers) if is_speech else 8 * numbers[0]
                    largest[number] = max(largest[number], taken)
        for number, taken in enumerate(largest):
            sizes[number] += len(batches[number]) * taken
    return max(sizes, default=0)


def fitting(workers: int, batch: int, free: int | None) -> int:
    """Return how many of ``workers`` processes can hold their batches in shared memory.

    Args:
        workers: wanted.
        batch: bytes of the largest batch.
        free: bytes of shared memory; None if that is no limit.
    """
    if free is None or batch == 0:
        return workers
    # one batch is on its way besides
    room = int(free * SHARE / batch) - 1
    return max(0, min(workers, room // PREFETCHED))


def bound(factory: Any, free: int | None) -> None:
    """Lower the processes of a factory of batches to what fits, and limit the wait for a batch.

    Args:
        factory: ESPnet's, with the attribute ``shape_files``.
        free: bytes of shared memory.
    """
    wanted = factory.num_workers
    batch = largest_batch(factory.sampler, factory.shape_files)
    factory.num_workers = fitting(wanted, batch, free)
    if free is not None and factory.num_workers < wanted:
        _logger.warning(
            "%s has %.1f MB free and a batch takes up to %.1f MB: %d of %d processes load batches "
            "(in a container, docker run --shm-size 2g gives it more)",
            *(SHARED, free / 1e6, batch / 1e6, factory.num_workers, wanted),
        )
    factory.build_iter = functools.partial(_build_limited, factory.build_iter)


def _build_limited(build_iter: Callable[..., Any], *args: Any, **options: Any) -> Any:
    loader = build_iter(*args, **options)
    if getattr(loader, "num_workers", 0):
        loader.timeout = TIMEOUT
    return loader


@contextmanager
def explained() -> Iterator[None]:
    """Say what to do where a process that loads batches died or gave none in time.

    Raises:
        UserError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if not any(sign in said for sign in SIGNS):
            raise
        raise UserError(
            f"a process that loads batches died, or gave none for {TIMEOUT} s: "
            f"{said.splitlines()[0]}",
            "num_workers: 0 loads them in the training itself; in a container, docker run "
            "--shm-size 2g gives shared memory; the same command goes on",
        ) from error


class BoundedLoaders(RemembersShapes):
    """Mixin of an ESPnet task: bounds all its loaders by what the shapes say of their batches."""

    @classmethod
    def build_iter_factory(
        cls, args: Any, distributed_option: Any, mode: str, kwargs: dict | None = None
    ) -> Any:
        """Build the factory as ESPnet does, then see `bound`."""
        task: Any = super()  # that of the class this is mixed into
        try:
            factory = task.build_iter_factory(args, distributed_option, mode, kwargs)
        except RuntimeError as error:
            if "world_size" not in str(error):
                raise
            raise UserError(
                f"the {mode} set has a batch of fewer utterances than there are processes",
                "give a smaller --ngpu, or more utterances a batch",
            ) from error
        # one of several parts is built by this method, too, when its turn comes
        if getattr(factory, "num_workers", 0):
            bound(factory, free_shared_memory())
        return factory

    @classmethod
    def build_streaming_iterator(cls, *args: Any, num_workers: int = 1, **options: Any) -> Any:
        """Build the iterator of stage 7 as ESPnet does; its batches are bounded by number alone."""
        free = free_shared_memory()
        if num_workers and free is not None and free < SMALL:
            _logger.warning("%s has %.1f MB free: no process of its own", SHARED, free / 1e6)
            num_workers = 0
        task: Any = super()
        loader = task.build_streaming_iterator(*args, num_workers=num_workers, **options)
        if num_workers:
            loader.timeout = TIMEOUT
        return loader


def check_finite(speech: "Tensor", utt_ids: list[str] | None) -> None:
    """Stop at a non-finite feature: ESPnet would skip every update and end with status 0.

    Args:
        speech: ``(B, T, D)`` or ``(B, N)``; on a GPU the look would wait for all work before.
        utt_ids: names of the B utterances.

    Raises:
        UserError: names the utterances.
    """
    finite = speech.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        rows = (~finite).nonzero().flatten().tolist()
        names = [utt_ids[row] for row in rows] if utt_ids is not None else [f"row {rows}"]
        raise UserError(
            f"features are NaN or infinite in utterance {', '.join(names[:5])}",
            "fix or remove the audio and extract the features again (stage 3)",
        )
