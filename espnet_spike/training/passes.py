"""Forward passes over the same batches again and again, which run only what has changed since.

The search for thresholds (``training.calibration``) changes one point of the network at a time.
What runs before that point gives the same outputs in every trial of it, so they are kept, and the
modules that made them return them in place of running. This asks nothing of the network but that
its modules, in evaluation, are functions of their inputs: front end, blocks, and decoders behind
them are all the same to it, and the loss is the very number of a whole pass.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table

# frames of a calibration batch, padding included
BATCH_FRAMES = 5_000

Batch = dict[str, Tensor]


def each_forward(model: Any, batches: Iterable[Batch]) -> Iterator[tuple[float, int]]:
    """Run the batches; give the task loss of each, without auxiliary losses, and its size."""
    for batch in batches:
        yield _forward(model, batch)


def task_loss(model: nn.Module, batches: Iterable[Batch], enough: float = float("inf")) -> float:
    """Return the mean task loss an utterance; a lower bound of it once that exceeds ``enough``."""
    return Passes(model, batches).loss(enough)


class Passes:
    """Passes of one model over its batches, from a chosen point of it on.

    Args:
        model: an ``ESPnetASRModel`` in evaluation.
        batches: what its ``forward`` takes; they are not changed.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        self.model = model
        self.batches = list(batches)
        self.modules = {name: module for name, module in model.named_modules() if name}
        self.utterances = sum(len(batch["speech"]) for batch in self.batches)
        self._kept: list[_Outputs] = [{} for _ in self.batches]

    def loss(self, enough: float = float("inf")) -> float:
        """Return the mean task loss an utterance.

        Args:
            enough: stop once the mean must exceed it; what is returned then is a lower bound.
        """
        losses = []
        for batch, kept in zip(self.batches, self._kept, strict=True):
            with _recalling(self.modules, kept):
                loss, size = _forward(self.model, batch)
            losses.append(loss * size)
            # every loss is at least 0, so the mean can only grow
            if sum(losses) > enough * self.utterances:
                break
        return sum(losses) / self.utterances

    def keep_before(self, point: str, see: Callable[[tuple, Tensor], object]) -> None:
        """Keep the outputs of all that runs before a point, which later passes begin at.

        Whatever ran before the point of the last call must not have changed since then.

        Args:
            point: name of a module.
            see: called with arguments and output of its first call in every batch.

        Raises:
            RuntimeError: the point does not run.
        """
        for index, batch in enumerate(self.batches):
            found: _Outputs = {}

            def keep(
                name: str, _module: nn.Module, args: tuple, out: Any, found: _Outputs = found
            ) -> None:
                if name == point:
                    see(args, out)
                    raise _PointReached
                for inner in [other for other in found if other.startswith(f"{name}.")]:
                    del found[inner]  # their outputs live on in this one
                found.setdefault(name, []).append(_Output.of(out))

            with (
                _recalling(self.modules, self._kept[index]),
                watching(self.modules, keep),
            ):
                try:
                    _forward(self.model, batch)
                except _PointReached:
                    self._kept[index] = found
                else:
                    raise RuntimeError(f"{point} does not run in a forward pass")


class _PointReached(Exception):
    """Ends a pass: nothing behind the point matters."""


@torch.no_grad()
def _forward(model: Any, batch: Batch) -> tuple[float, int]:
    """Return the task loss of a batch and its size."""
    device = next(model.parameters()).device
    # copies: ESPnet normalises features and marks padding in place
    inputs = {name: x.to(device, copy=True) for name, x in batch.items()}
    # models that are not ours add nothing to the loss of the task
    loss, _, weight = getattr(model, "task_loss", model)(**inputs)
    return float(loss), int(weight)


@dataclass(frozen=True)
class _Output:
    """What a module returned, to be returned again.

    Attributes:
        value: tensors, in any nesting.
        versions: of the tensors; writing into one raises its version.
    """

    value: Any
    versions: list[int]

    @classmethod
    def of(cls, value: Any) -> "_Output":
        return cls(value, [tensor._version for tensor in _tensors(value)])

    @property
    def unchanged(self) -> bool:
        return self.versions == [tensor._version for tensor in _tensors(self.value)]


# name of a module -> its outputs in the order of its calls
_Outputs = dict[str, list[_Output]]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


class _Recall:
    """Stands for the ``forward`` of a module: gives its outputs of before, then runs it."""

    def __init__(self, name: str, forward: Callable[..., Any], outputs: list[_Output]) -> None:
        self.name = name
        self.forward = forward
        self.outputs = iter(outputs)

    def __call__(self, *args: Any, **options: Any) -> Any:
        for output in self.outputs:
            if not output.unchanged:
                raise RuntimeError(f"the output of {self.name} is written into later")
            return output.value
        return self.forward(*args, **options)


@contextmanager
def _recalling(modules: Mapping[str, nn.Module], kept: _Outputs) -> Iterator[None]:
    """Let modules return what is kept of them, within the context."""
    for name, outputs in kept.items():
        # an attribute of the object hides the method of its class
        object.__setattr__(modules[name], "forward", _Recall(name, modules[name].forward, outputs))
    try:
        yield
    finally:
        for name in kept:
            object.__delattr__(modules[name], "forward")


def choose_utterances(asr_exp: Path, count: int, seed: int) -> dict[str, int]:
    """Draw utterances that the model was trained on; return their frames, shortest first."""
    table = asr_exp / "shapes" / "train" / "speech_shape"
    frames = {}
    for utt, shape in read_table(table).items():
        length = shape.split(",")[0]
        if not length.isdecimal():
            raise UserError(f"{table}: {utt} has the shape {shape!r}", "train again (stage 8)")
        frames[utt] = int(length)
    chosen = random.Random(seed).sample(sorted(frames), min(count, len(frames)))
    return {utt: frames[utt] for utt in sorted(chosen, key=lambda utt: (frames[utt], utt))}


def load_batches(
    args: argparse.Namespace, data_dir: Path, utterances: Mapping[str, int]
) -> list[Batch]:
    """Read utterances as training does, without augmentation, in batches of similar length."""
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.espnet import ESPnetDataset

    dataset = ESPnetDataset(
        [
            (str(data_dir / "feats.scp"), "speech", "kaldi_ark"),
            (str(data_dir / "text"), "text", "text"),
        ],
        preprocess=SpikeASRTask.build_preprocess_fn(args, train=False),
    )
    collate: Any = SpikeASRTask.build_collate_fn(args, train=False)
    batches: list[Batch] = []
    group: list[str] = []
    for utt, frames in utterances.items():
        if group and (len(group) + 1) * frames > BATCH_FRAMES:
            batches.append(collate([dataset[name] for name in group])[1])
            group = []
        group.append(utt)
    batches.append(collate([dataset[name] for name in group])[1])
    return batches
