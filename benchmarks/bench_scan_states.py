"""The selective scan by states a channel and frames: mambapy, ours, and what no scan can beat.

    .venv/bin/python -m benchmarks.bench_scan_states [--states 16 64 256] [--frames 250 1500]

Forward and backward. Two limits stand beside each case: reading and writing inputs, output and
gradients once (``bench_selective_scan``), and evaluating exp(delta A) once in each pass by
``torch.exp``, for all B x D x N x L state updates. A case that would need more memory than
``--memory``, or plain torch beyond ``--torch_updates`` state updates, is named and left out.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

from benchmarks.bench_selective_scan import ROOT, bandwidth, forward_backward, make_inputs
from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run
from espnet_spike.utils.install import how_to_install

PEER = "mambapy"
OURS = "ours, compiled"
TORCH = "ours, torch in chunks"
CASES = {PEER: "mambapy", OURS: "numba", TORCH: "torch"}
# mambapy keeps exp(delta A), delta B u, its scan of both, and their gradients: so many tensors of
# B x D x N x L, with the frames padded to a power of two, were seen at its peak
PEER_TENSORS = 10


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=COUNT, default=2, metavar="B")
    parser.add_argument("--channels", type=COUNT, default=1024, metavar="D")
    parser.add_argument("--states", type=COUNT, nargs="+", default=[16, 64, 256], metavar="N")
    parser.add_argument("--frames", type=COUNT, nargs="+", default=[250, 1500], metavar="L")
    parser.add_argument("--repeats", type=COUNT, default=3, help="rounds")
    parser.add_argument("--threads", type=COUNT, default=1, help="of torch and of the scan")
    parser.add_argument("--memory", type=POSITIVE, default=12.0, help="GiB that a case may take")
    parser.add_argument(
        "--torch_updates", type=POSITIVE, default=5e7, help="B D N L up to which plain torch is run"
    )
    add_out(parser)
    return parser


def peer_gib(shape: tuple[int, int, int, int]) -> float:
    """Return the GiB that mambapy's scan needs for B, D, N, L."""
    B, D, N, L = shape
    return PEER_TENSORS * 4 * B * D * N * (1 << (L - 1).bit_length()) / 2**30


def exponentials_per_second(repeats: int) -> float:
    """Return how many exponentials of float32 ``torch.exp`` takes a second, out of the cache."""
    import torch

    x = -torch.rand(1 << 24)
    out = torch.empty_like(x)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.exp(x, out=out)
        seconds.append(time.perf_counter() - start)
    return x.numel() / statistics.median(seconds)


def memory_of(case: str, shape: tuple[int, int, int, int]) -> int:
    """Return the bytes that a forward and backward pass add at their peak, in a fresh process."""
    words = [sys.executable, "-m", "benchmarks.bench_selective_scan", "--measure", case]
    done = subprocess.run(
        [*words, "--shape", *map(str, shape)], cwd=ROOT, check=True, capture_output=True
    )
    return json.loads(done.stdout)


def left_out(
    shape: tuple[int, int, int, int], limit_gib: float, torch_updates: float
) -> dict[str, str]:
    """Return the cases that are not run, with why."""
    why = {}
    if (needed := peer_gib(shape)) > limit_gib:
        why[PEER] = f"left out: needs about {needed:.0f} GiB"
    if math.prod(shape) > torch_updates:
        why[TORCH] = f"left out: over {torch_updates:.0e} state updates"
    return why


def rows_of(
    shape: tuple[int, int, int, int], repeats: int, not_run: Mapping[str, str]
) -> list[dict[str, object]]:
    """Return a row for each case of one shape, then one for each limit."""
    import torch

    B, D, N, L = shape
    x = make_inputs(shape)
    weight = torch.ones_like(x["u"])
    cases = {name: case for name, case in CASES.items() if name not in not_run}
    runs = {
        name: lambda case=case: forward_backward(case, x, weight) for name, case in cases.items()
    }
    timings = compare(runs, next(iter(runs)), repeats)
    moved = 8 * x["u"].nbytes + 6 * x["B"].nbytes
    limits = {
        "limit: memory bandwidth": moved / bandwidth(repeats),
        "limit: two exponentials per state update": 2
        * B
        * D
        * N
        * L
        / exponentials_per_second(repeats),
    }
    seconds = {name: timing.median for name, timing in timings.items()} | limits
    rows: list[dict[str, object]] = []
    for name in [*CASES, *limits]:
        row: dict[str, object] = {"N": N, "L": L, "case": name}
        if name not in seconds:
            row["ms"] = not_run[name]
        else:
            row["ms"] = 1000 * seconds[name]
        known = PEER in timings and name in timings
        row["x mambapy"] = timings[name].ratio if known else ""
        row["x exponential limit"] = (
            seconds[name] / limits["limit: two exponentials per state update"]
            if name in seconds
            else ""
        )
        row["memory, MB"] = memory_of(CASES[name], shape) / 1e6 if name in timings else ""
        rows.append(row)
    return rows


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    try:
        import mambapy  # noqa: F401
    except ImportError as error:
        raise UserError("the peer mambapy is not installed", how_to_install("bench")) from error
    rows: list[dict[str, object]] = []
    for frames in args.frames:
        for states in args.states:
            shape = (args.batch, args.channels, states, frames)
            not_run = left_out(shape, args.memory, args.torch_updates)
            rows += rows_of(shape, args.repeats, not_run)
            print(*rows[-len(CASES) - 2 :], sep="\n", flush=True)
    notes = [
        f"B {args.batch}, D {args.channels}, float32, {args.threads} thread(s), forward and "
        f"backward, median of {args.repeats} rounds; ratios are taken round by round. Memory is "
        "what both passes add at their peak in a fresh process.",
    ]
    facts = machine(["numpy", "numba", "torch", "mambapy"])
    title = "Selective scan by states a channel and frames"
    print(write_report(args.out, title, rows, facts, notes))


if __name__ == "__main__":
    run(main)
