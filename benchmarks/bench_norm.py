"""On paper: what batch norm and LIF neurons move in a training step, and whether to fuse them.

    .venv/bin/python -m benchmarks.bench_norm [--batch 32] [--frames 400] [--channels 1024]

Forward and backward pass run on tensors without memory. Each operation of torch is a launch that
reads its inputs and writes its outputs, views apart; each of our kernels one that moves its tensors
once. Three forms are compared: batch norm in torch, by our kernels, and in the kernels of the
neuron. That last one is not built, its row is arithmetic: normalised values would not be written
and read, and the sums of the norm's backward pass would be taken where the neuron's gradient is,
so three tensors fewer cross the bus and two launches fall away. The same for a whole step of an
encoder. Times are *estimated*: bytes over the bandwidth of memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.bench_kernels import GPUS, recorded
from benchmarks.harness import add_out, machine, write_report
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.ops import backends
from espnet_spike.tasks.registry import ENCODERS, load_class
from espnet_spike.utils.cli import COUNT, Parser, run
from espnet_spike.utils.yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]
NAME = "spiking_speech_mamba"
CONFIG = ROOT / f"conf/train_{NAME}_librispeech960.yaml"
FORMS = ("norm in torch", "norm by kernels", "norm in the neuron's kernels, on paper")
FEWER_TENSORS, FEWER_LAUNCHES = 3, 2


class Operations(TorchDispatchMode):
    """Counts, within the context, launches of torch and the bytes they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.moved = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        name = func._schema.name
        if not views and name.split("::")[1] not in UNMOVED:
            self.launches += 1
            self.moved += sum(map(_size, tree_leaves((args, kwargs, out))))
        return out


UNMOVED = {
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"),
    *("_unsafe_view", "detach", "alias"),
}


def _size(x: object) -> int:
    if not isinstance(x, Tensor):
        return 0
    # what is expanded lies in memory once
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@dataclass(frozen=True)
class Moved:
    """What a step does: launches, and bytes that they move at least."""

    launches: int
    moved: int


@contextmanager
def _gpu(kernels_of_norm: bool) -> Iterator[None]:
    fused = backends.fused

    def choose(x: Tensor, operation: backends.FusedOperation) -> Any:
        return None if operation == "batch_norm" and not kernels_of_norm else fused(x, operation)

    with (
        mock.patch.object(backends, "on_gpu", lambda x: True),
        mock.patch.object(backends, "fusing", lambda device: True),
        mock.patch.object(backends, "fused", choose),
    ):
        yield


def step_of(call: Callable[[], Tensor], leaves: Sequence[Tensor], kernels_of_norm: bool) -> Moved:
    """Return what ``call`` and the gradients of ``leaves`` do, as on a GPU."""
    with _gpu(kernels_of_norm), recorded() as launches, Operations() as operations:
        y = call()
        torch.autograd.grad(y, leaves, torch.empty_like(y), allow_unused=True)
    moved = operations.moved
    for launch in launches:
        given = (x for x in launch.arguments if isinstance(x, Tensor))
        # one that stands in for an argument that is not there is no second tensor
        tensors = {(x.untyped_storage()._cdata, x.storage_offset()): _size(x) for x in given}
        moved += sum(tensors.values())
    return Moved(operations.launches + len(launches), moved)


def rows_of(
    name: str, module: nn.Module, call: Callable[[], Tensor], inputs: Sequence[Tensor] = ()
) -> Iterator[dict]:
    """Yield a row for each form; ``call`` runs the module on inputs, which have gradients."""
    sizes: list[int] = []
    leaves = [*module.parameters(), *inputs]
    for part in module.modules():
        if isinstance(part, NormedNeuron):
            part.register_forward_hook(lambda part, args, y: sizes.append(_size(args[0])))
    found = [step_of(call, leaves, kernels_of_norm) for kernels_of_norm in (False, True)]
    of_one = sizes[: len(sizes) // 2]  # of the first of two steps
    found.append(
        Moved(
            found[1].launches - FEWER_LAUNCHES * len(of_one),
            found[1].moved - FEWER_TENSORS * sum(of_one),
        )
    )
    for form, of_form in zip(FORMS, found, strict=True):
        yield {
            "step of": name,
            "form": form,
            "launches": of_form.launches,
            "MB": of_form.moved / 1e6,
            **{f"{gpu} ms": of_form.moved / GPUS[gpu].bandwidth * 1e3 for gpu in GPUS},
            "times faster than in torch": found[0].moved / of_form.moved,
            "than by kernels": found[1].moved / of_form.moved,
        }


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=COUNT, default=32, metavar="B")
    parser.add_argument("--frames", type=COUNT, default=400, metavar="L")
    parser.add_argument("--channels", type=COUNT, default=1024, metavar="D")
    add_out(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Count and write the table."""
    args = get_parser().parse_args(argv)
    B, L, D = args.batch, args.frames, args.channels
    options = dict(read_yaml(CONFIG)["encoder_conf"])
    with torch.device("meta"):
        part = NormedNeuron(FrameLIF(D))
        encoder = load_class(ENCODERS[NAME])(80, **options)
        x = torch.empty(B, L, D, requires_grad=True)
        mask = torch.empty(B, L, dtype=torch.bool)
        features, lengths = torch.empty(B, 4 * L + 3, 80), torch.empty(B, dtype=torch.int64)
    rows = [
        *rows_of("batch norm and LIF over frames", part, lambda: part(x, mask), [x]),
        *rows_of(f"{NAME}, LibriSpeech-960", encoder, lambda: encoder(features, lengths)[0]),
    ]
    notes = (
        f"`.venv/bin/python -m benchmarks.bench_norm`, B {B}, L {L}, D {D}, fp32, forward and "
        "backward.",
        "Counted on tensors without memory; times are estimated as bytes over bandwidth, never "
        "measured. Launches are those of a GPU without graphs.",
    )
    print(write_report(args.out, "Batch norm and LIF", rows, machine(["torch", "triton"]), notes))


if __name__ == "__main__":
    run(main)
