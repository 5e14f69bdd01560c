"""Every Triton kernel compiled for sm_80 and sm_90: registers, spills, traffic, an estimate.

    .venv/bin/python -m benchmarks.bench_kernels [--batch 32] [--frames 400] [--channels 1024]

No GPU is needed: the functions of ``nn.ops.triton`` are called on tensors without memory, and what
they would launch is compiled by Triton and its ptxas. Bytes moved are those of the loads
and stores in the compiled kernel, a loop's as often as it runs (``kernel_traffic``); compulsory are
its tensors, each once. The time is a roofline *estimate*, never a measurement: the longest of
bytes moved over memory bandwidth, exponentials over the rate of the special function units, and
matrix products over that of tensor cores in TF32.
"""

import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.harness import add_out, machine, write_report
from benchmarks.kernel_traffic import bytes_of_program, is_used
from espnet_spike.errors import UserError
from espnet_spike.nn.ops.triton import (
    batch_norm,
    decay_attention,
    fatrelu,
    imls,
    lif,
    selective_scan,
)
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class GPU:
    """What a kernel meets: datasheet figures of a GPU.

    Attributes:
        capability: compute capability times ten.
        bandwidth: bytes a second of its memory.
        exponentials: a second: 16 a clock of each multiprocessor, at boost clock.
        tf32: floating-point operations a second of its tensor cores, dense.
        threads: most of a multiprocessor.
        shared: bytes of shared memory of a multiprocessor.
    """

    capability: int
    bandwidth: float
    exponentials: float
    tf32: float
    threads: int
    shared: int


# A100 SXM 80 GB: 108 multiprocessors at 1.41 GHz; H100 SXM: 132 at 1.83 GHz (NVIDIA's datasheets)
GPUS = {
    "A100": GPU(80, 2.039e12, 16 * 108 * 1.41e9, 156e12, 2048, 164 << 10),
    "H100": GPU(90, 3.35e12, 16 * 132 * 1.83e9, 494e12, 2048, 228 << 10),
}


@dataclass(frozen=True)
class Launch:
    """A kernel as it would be launched."""

    kernel: Any
    arguments: tuple
    grid: tuple[int, ...]
    options: Mapping[str, Any]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches in place of running them."""
    found: list[Launch] = []
    before = JITFunction.run

    def record(self, *arguments, grid, warmup, **options):
        found.append(Launch(self, arguments, grid, options))

    JITFunction.run = record
    try:
        yield found
    finally:
        JITFunction.run = before


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel takes, the bytes that its programs move, and those of its tensors."""

    registers: int
    spilled: int
    shared: int
    threads: int
    moved: int
    compulsory: int

    def occupancy(self, gpu: GPU) -> float:
        """Return the share of a multiprocessor's threads that can be resident."""
        # registers are given out to warps in blocks of 256
        of_warp = math.ceil(self.registers * 32 / 256) * 256
        programs = 65536 // (of_warp * self.threads // 32)
        # the driver keeps 1 KiB of shared memory for each program
        programs = min(programs, gpu.shared // (self.shared + 1024), 32)
        return min(1.0, programs * self.threads / gpu.threads)


def compile_for(launch: Launch, capability: int) -> Any:
    """Return the kernel compiled for a GPU that need not be there."""
    signature, constants, attributes = {}, {}, {}
    for n, (parameter, value) in enumerate(
        zip(launch.kernel.params, launch.arguments, strict=True)
    ):
        if parameter.is_constexpr:
            signature[parameter.name], constants[(n,)] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
            attributes[(n,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        elif value == 1 and parameter.annotation != "i32":  # as a launch specialises it
            signature[parameter.name], constants[(n,)] = "constexpr", 1
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0 and parameter.annotation != "i32":
                attributes[(n,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=dict(launch.options))


def examine(launch: Launch, capability: int) -> Compiled:
    """Return what the compiled kernel takes and moves.

    Args:
        launch: of the kernel.
        capability: of the GPU, times ten.
    """
    found = compile_for(launch, capability)
    tools = Path(nvidia.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(found.asm["cubin"])
        words = [str(tools / "cuobjdump"), "-res-usage", str(cubin)]
        usage = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    resources = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if resources is None:
        raise UserError(f"cuobjdump says nothing of registers: {usage!r}", "look at its version")
    threads = 32 * found.metadata.num_warps
    names = (parameter.name for parameter in launch.kernel.params)
    arguments = dict(zip(names, launch.arguments, strict=True))
    return Compiled(
        int(resources[1]),
        # bytes of stack: nothing else of a kernel lies there
        int(resources[2]),
        found.metadata.shared,
        threads,
        bytes_of_program(found.asm["ttgir"], arguments) * math.prod(launch.grid),
        # one given twice stands for two, as an input and a gradient may here
        sum(
            x.numel() * x.element_size()
            for name, x in arguments.items()
            if isinstance(x, Tensor) and is_used(name, found.asm["ttgir"])
        ),
    )


@dataclass(frozen=True)
class Case:
    """A call of ours, and what its kernels are expected to do.

    Attributes:
        name: of the row.
        call: makes the launches.
        elementwise: whether its traffic has a limit.
        exponentials: of its kernels, by name.
        flops: of its kernels' matrix products.
    """

    name: str
    call: Callable[[], object]
    elementwise: bool = True
    exponentials: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0


def cases(batch: int, frames: int, channels: int) -> list[Case]:
    """Return all kernels at the sizes of a training step."""
    B, L, D = batch, frames, channels

    def new(*shape, dtype=torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x, v, lengths, scalar = new(B, L, D), new(B, D), new(B, dtype=torch.int64), new()
    rows, steps = new(B * L, 1, D), new(4, B * L // 4, D)
    level, per_frame = new(B * L), new(B, L)
    neuron = lif.Neuron(2.0, 1.0, 0.0, False, True)
    flow = lif.Gradient(True, "atan", 2.0)
    through = lif.Gradient(False, "multi_gauss", 1.0)
    grads = (x, per_frame, v)
    mask, channels_of = new(B, L, dtype=torch.bool), new(D)
    of_norm = (x, mask, channels_of, channels_of, channels_of, scalar, x)
    found = [
        Case(
            "batch norm, forward",
            lambda: batch_norm.forward(x, mask, channels_of, channels_of, 1e-5),
        ),
        Case("batch norm, backward", lambda: batch_norm.backward(*of_norm)),
        Case("imls forward", lambda: imls.forward(rows, None, new(D), 4, 0, 1e-5)),
        Case(
            "imls backward",
            lambda: imls.backward(rows, rows, level, new(D), level, 4, 0, 0.0),
        ),
        Case("fatrelu forward", lambda: fatrelu.forward(x, scalar, False)),
        Case(
            "fatrelu backward",
            lambda: fatrelu.backward(x, scalar, scalar, scalar, False, False, True, x, per_frame),
        ),
        Case("lif, T = 4, forward", lambda: lif.run_steps(steps, neuron, keep=True)),
        Case("lif, T = 4, backward", lambda: lif.step_gradients(steps, steps, neuron, flow)),
        Case(
            "lif over frames, forward",
            lambda: lif.run_frames(x, v, lengths, neuron, None, keep=True),
        ),
        Case(
            "lif over frames, backward",
            lambda: lif.frame_gradients(grads, x, v, lengths, neuron, flow, None),
        ),
        Case(
            "lif over frames, learnt tau, through the reset, multi_gauss, backward",
            lambda: lif.frame_gradients(grads, x, v, lengths, neuron, through, scalar),
        ),
    ]
    for N in (16, 256):
        updates = float(B) * L * D * N
        u, bc, A, skip = x.mT, new(B, L, N).mT, new(D, N), new(D)
        chunks = -(-L // selective_scan.CHUNK)
        direction = selective_scan.Direction(u, u, A, bc, bc, skip)
        for S, name in ((1, ""), (2, ", both directions")):
            states, last = new(S, B, chunks - 1, D, N), new(S, B, D, N)

            def forward(scans=[direction] * S):
                selective_scan.forward(scans, lengths, None, True)

            def backward(scans=[direction] * S, ys=[u] * S, states=states, last=last):
                selective_scan.backward(scans, lengths, None, states, ys, last)

            # twice for each frame of whole chunks
            of_chunks = 2.0 * S * B * D * N * chunks * selective_scan.CHUNK
            exponentials = {
                "walk": S * updates,
                "walk_back": S * updates,
                "chunk_gradients": of_chunks,
            }
            found += [
                Case(f"selective scan, N = {N}{name}, {way}", call, False, exponentials)
                for way, call in (("forward", forward), ("backward", backward))
            ]
    q = new(B, L, 8, 64).transpose(1, 2)
    factors = new(B, 8, L)
    # of a frame and 32 channels of values: with its chunk, with a state, and into it
    C, E, V = decay_attention.CHUNK, 64, decay_attention.VALUES
    once, whole = 2.0 * C * (E + V), 4.0 * E * V
    # three products of TF32 stand for one of fp32
    of_frames = 3.0 * B * 8 * L * (E / V)
    for causal in (False, True):

        def attend(causal=causal):
            decay_attention.decayed_product(
                q, q, q, new(8), future=not causal, rows=factors, keys=factors
            )

        flops = of_frames * (once + whole * (1 if causal else 2))
        name = f"decay attention{', causal' * causal}"
        found.append(Case(name, attend, False, flops=flops))
    return found


def rows_of(case: Case, most: float) -> Iterator[dict[str, object]]:
    """Yield a row for each kernel of a case and each GPU; ``most`` is the limit of the traffic."""
    with recorded() as launches:
        case.call()
    for launch in launches:
        for name, gpu in GPUS.items():
            found = examine(launch, gpu.capability)
            exponentials = case.exponentials.get(launch.kernel.__name__, 0.0)
            seconds = max(
                found.moved / gpu.bandwidth, exponentials / gpu.exponentials, case.flops / gpu.tf32
            )
            yield {
                "kernel": f"{case.name}: {launch.kernel.__name__}",
                "GPU": f"{name} (sm_{gpu.capability})",
                "registers": found.registers,
                "spilled bytes": found.spilled,
                "shared bytes": found.shared,
                "occupancy": found.occupancy(gpu),
                "compulsory MB": found.compulsory / 1e6,
                "moved MB": found.moved / 1e6,
                "moved / compulsory": found.moved / found.compulsory,
                "limit": most if case.elementwise else "none",
                "estimated ms": seconds * 1e3,
            }


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=COUNT, default=32, metavar="B")
    parser.add_argument("--frames", type=COUNT, default=400, metavar="L")
    parser.add_argument("--channels", type=COUNT, default=1024, metavar="D")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--most", type=POSITIVE, default=1.3, help="times the compulsory bytes")
    add_out(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Compile, write the table, and fail on spills or on too much traffic."""
    args = get_parser().parse_args(argv)
    chosen = [
        case for case in cases(args.batch, args.frames, args.channels) if args.only in case.name
    ]
    if not chosen:
        raise UserError(f"--only {args.only!r}: no kernel has this name", "leave it out")
    rows = [row for case in chosen for row in rows_of(case, args.most)]
    notes = (
        f"`.venv/bin/python -m benchmarks.bench_kernels`, B {args.batch}, L {args.frames}, "
        f"D {args.channels}.",
        "Compiled, not run: no GPU was at hand. Times are estimated by the roofline, never "
        "measured; a kernel that waits for memory or for sums across threads takes longer.",
        "Bytes moved, and the estimate by them, are an upper bound: lanes that a mask leaves out "
        "count, and what several programs read counts for each, as if no cache had it.",
    )
    print(
        write_report(args.out, "Kernels for CUDA GPUs", rows, machine(["torch", "triton"]), notes)
    )
    for row in rows:
        ratio, limit = row["moved / compulsory"], row["limit"]
        if row["spilled bytes"]:
            raise UserError(f"{row['kernel']} spills registers on {row['GPU']}", "make it smaller")
        if isinstance(limit, float) and isinstance(ratio, float) and ratio > limit:
            raise UserError(
                f"{row['kernel']} moves {ratio:.2f} times its bytes on {row['GPU']}", "see --most"
            )


if __name__ == "__main__":
    run(main)
