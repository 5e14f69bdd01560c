"""Run the worst batches before training, so that memory does not run out in the tenth hour.

The idea is icefall's ``scan_pessimistic_batches_for_oom``. Forward and backward pass of the batches
with the longest input and the most padding, before the first update; no parameter, running
statistic or random number generator is changed by it. On with a GPU; elsewhere a training YAML asks
for it (or against it) by ``spike_meta: {scan_batches: true}``.
"""

import contextlib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_spike.errors import UserError
from espnet_spike.utils.files import plural

if TYPE_CHECKING:
    import torch

ASKED = "ESPNET_SPIKE_SCAN_BATCHES"  # in the environment: reaches processes that ESPnet spawns
HINT = (
    "lower batch_bins (or batch_size) and raise accum_grad by the same factor, set encoder_conf: "
    "{gradient_checkpointing: true} where the encoder has it, or lower --max_frames"
)
# what torch says on CPUs and GPUs, besides raising MemoryError or torch.OutOfMemoryError
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")

Batch = Sequence[str]
_logger = logging.getLogger(__name__)


def ask(scan: bool | None) -> None:
    """Set whether the trainings of this process scan; None leaves it to the device."""
    os.environ.pop(ASKED, None)
    if scan is not None:
        os.environ[ASKED] = str(int(scan))


def wanted(ngpu: int) -> bool:
    """Return whether a training on ``ngpu`` GPUs is to scan."""
    return os.environ.get(ASKED, str(int(ngpu > 0))) == "1"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the machine or of a GPU, does not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def worst_batches(batches: Sequence[Batch], shape_files: Iterable[Path | str]) -> list[Batch]:
    """Return the batches that need the most memory by one measure or another.

    For each shape file: the longest entry, the padded size, and the padded size times the length,
    which attention goes by. Over all of them: the product of the lengths times the batch size,
    which attention from text to speech goes by.

    Args:
        batches: utterances of each batch.
        shape_files: lines "utterance length,...".

    Returns:
        A batch for each measure, the same one maybe more than once.
    """
    number_of = {utt: number for number, batch in enumerate(batches) for utt in batch}
    measures = []
    product = [len(batch) for batch in batches]
    for shape_file in shape_files:
        longest = [0] * len(batches)
        with open(shape_file, encoding="utf-8") as file:
            for line in file:
                utt, shape = line.split(maxsplit=1)
                number = number_of.get(utt)
                if number is not None:
                    longest[number] = max(longest[number], int(shape.split(",")[0]))
        padded = [len(batch) * length for batch, length in zip(batches, longest, strict=True)]
        measures += [longest, padded, [p * q for p, q in zip(padded, longest, strict=True)]]
        product = [p * q for p, q in zip(product, longest, strict=True)]
    return [batches[max(range(len(batches)), key=m.__getitem__)] for m in (*measures, product)]


def scan(model: "torch.nn.Module", factory: Any, use_amp: bool, distributed: bool) -> None:
    """Run the worst batches of a training forward and backward.

    Gradients, Adam's two moments and, among several processes, the buffers that gradients are
    exchanged in are allocated meanwhile, although training allocates them later.

    Args:
        model: on its device, not wrapped for several processes.
        factory: ESPnet's factory of training batches, with the attribute ``shape_files`` that
            `RemembersShapes` adds; several of them are scanned one by one.
        use_amp: compute as ESPnet's trainer does with ``use_amp``.
        distributed: this is one of several processes: each scans as many batches.

    Raises:
        UserError: memory does not suffice; names the batch, its size and a fix.
    """
    from espnet2.iterators.multiple_iter_factory import MultipleIterFactory
    from espnet2.iterators.sequence_iter_factory import SequenceIterFactory

    from espnet_spike.nn.augmentation import slowest

    several = isinstance(factory, MultipleIterFactory)
    tried = 0
    with unchanged(model), slowest(model), _room(model, copies=3 if distributed else 2):
        for part in (build() for build in factory.build_funcs) if several else [factory]:
            files = getattr(part, "shape_files", [])
            if not isinstance(part, SequenceIterFactory) or not files:
                _logger.warning("batches of %s are not scanned", type(part).__name__)
                return
            batches = worst_batches(list(part.sampler), files)
            if not distributed:  # a sum over all processes must find each of them
                batches = list(dict.fromkeys(map(tuple, batches)))
            for batch in batches:
                _try(model, part, batch, use_amp)
            tried += len(batches)
    _logger.info("the %d worst batches fit into memory", tried)


def _try(model: "torch.nn.Module", factory: Any, keys: Batch, use_amp: bool) -> None:
    from espnet2.torch_utils.device_funcs import to_device
    from espnet2.train import trainer

    utt_ids, batch = factory.collate_fn([factory.dataset[key] for key in keys])
    sizes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in batch.items() if v.dim() > 1)
    device = next(model.parameters()).device
    precision: dict[str, Any] = trainer.autocast_args
    try:
        batch = to_device({**batch, "utt_id": utt_ids}, str(device))
        with trainer.autocast("cuda", enabled=use_amp, **precision):  # see `mixed_precision`
            found = model(**batch)
            loss = found["loss"] if isinstance(found, dict) else found[0]
        loss.mean().backward()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"a training batch of {plural(len(keys), 'utterance')} does not fit into the memory of "
            f"{_name(device)}: {sizes}, utterances {keys[0]} ... ({str(error).splitlines()[0]})",
            HINT,
        ) from error


def _name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine"


@contextlib.contextmanager
def _room(model: "torch.nn.Module", copies: int) -> Iterator[None]:
    """Hold memory for gradients and for ``copies`` more values a parameter; drop the gradients."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    held = [torch.empty_like(p) for _ in range(copies) for p in trained]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    finally:
        held.clear()
        for parameter in trained:
            parameter.grad = None


@contextlib.contextmanager
def unchanged(model: "torch.nn.Module") -> Iterator[None]:
    """Put buffers, training mode and all random number generators back as they were, to the bit."""
    import numpy as np
    import torch

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    training = model.training
    model.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
        model.train(training)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


class RemembersShapes:
    """Mixin of an ESPnet task: the factory of training batches knows the files of their lengths."""

    @classmethod
    def build_iter_factory(
        cls, args: Any, distributed_option: Any, mode: str, kwargs: dict | None = None
    ) -> Any:
        """Build the factory as ESPnet does; its ``shape_files`` are those of this part."""
        task: Any = super()  # that of the class this is mixed into
        factory = task.build_iter_factory(args, distributed_option, mode, kwargs)
        files = (kwargs or {}).get("shape_files", getattr(args, f"{mode}_shape_file", []))
        factory.shape_files = list(files)
        return factory
