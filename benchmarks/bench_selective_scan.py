"""Time and memory of the selective scan, forward and backward, against mambapy's parallel scan.

    .venv/bin/python -m benchmarks.bench_selective_scan [--threads 1] [--floor 5]
        [--memory_floor 0.25]

Memory is the growth of a fresh process's resident memory from before the forward pass to its
peak, inputs not counted, gradients counted. The bandwidth limit is the time that reading and
writing inputs, output and gradients once would take at the speed of a large copy.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run
from espnet_spike.utils.install import how_to_install

ROOT = Path(__file__).resolve().parents[1]
PEER = "mambapy, parallel scan"
CASES = {
    PEER: "mambapy",
    "ours, compiled (numba)": "numba",
    "ours, plain torch in chunks": "torch",
    "loop over frames (reference)": "ref",
}


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape", type=COUNT, nargs=4, default=[8, 512, 16, 250], metavar="B D N L"
    )
    parser.add_argument("--repeats", type=COUNT, default=9, help="rounds")
    parser.add_argument("--threads", type=COUNT, default=1, help="of torch and of the scan")
    parser.add_argument(
        "--floor", type=POSITIVE, help="fail if not faster than this multiple of mambapy"
    )
    parser.add_argument("--memory_floor", type=POSITIVE, help="fail above this share of its memory")
    parser.add_argument("--measure", help="print the memory of one case and end (used by itself)")
    add_out(parser)
    return parser


def make_inputs(shape):
    """Return u, delta, A, B, C, D stored time-major, as linear layers leave them."""
    import torch

    B, D, N, L = shape
    torch.manual_seed(0)
    inputs = {
        "u": torch.randn(B, L, D),
        "delta": torch.empty(B, L, D).uniform_(-7, -2).exp_(),
        "A": -torch.arange(1.0, N + 1).repeat(D, 1),
        "B": torch.randn(B, L, N),
        "C": torch.randn(B, L, N),
        "D": torch.ones(D),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def forward(case, x):
    """Return y ``(B, L, D)``."""
    if case == "mambapy":
        from mambapy.mamba import MambaBlock

        return MambaBlock.selective_scan(None, *x.values())
    from espnet_spike.nn.ops.selective_scan import selective_scan

    u, delta, B, C = (x[name].mT for name in ("u", "delta", "B", "C"))
    return selective_scan(u, delta, x["A"], B, C, x["D"], backend=case).mT


def forward_backward(case, x, weight):
    """Run both passes; gradients start from none, as after ``zero_grad``."""
    for value in x.values():
        value.grad = None
    forward(case, x).backward(weight)


def resident(field):
    """Return VmRSS or VmHWM (the peak) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise UserError("memory is measured on Linux only")


def measure(case, shape):
    """Return the bytes that a forward and backward pass of ``case`` add at their peak."""
    import torch

    small = make_inputs([2, 32, shape[2], 40])
    forward_backward(case, small, torch.ones(2, 40, 32))  # imports and compilation
    x = make_inputs(shape)
    weight = torch.ones_like(x["u"])
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    forward_backward(case, x, weight)
    return resident("VmHWM") - before


def bandwidth(repeats):
    """Return bytes per second of a large copy, read and written bytes together."""
    import torch

    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(seconds)


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure(args.measure, args.shape)))
        return
    try:
        import mambapy  # noqa: F401
    except ImportError as error:
        raise UserError("the peer mambapy is not installed", how_to_install("bench")) from error
    x = make_inputs(args.shape)
    weight = torch.randn_like(x["u"])
    grads, ys = {}, {}
    for case in CASES.values():
        forward_backward(case, x, weight)
        grads[case] = {name: value.grad for name, value in x.items()}
        with torch.no_grad():
            ys[case] = forward(case, x)
    runs = {
        name: lambda case=case: forward_backward(case, x, weight) for name, case in CASES.items()
    }
    timings = compare(runs, PEER, args.repeats)
    with torch.no_grad():
        forwards = compare(
            {name: lambda case=case: forward(case, x) for name, case in CASES.items()},
            PEER,
            args.repeats,
        )
    speed = bandwidth(args.repeats)
    channels, states = x["u"].nbytes, x["B"].nbytes
    # forward: u, delta, B, C read, y written; backward: these and dy read, four gradients written
    forward_limit = (3 * channels + 2 * states) / speed
    bytes_moved = 8 * channels + 6 * states
    limit = bytes_moved / speed
    command = [sys.executable, "-m", "benchmarks.bench_selective_scan", "--shape"]
    command += [*map(str, args.shape), "--measure"]
    memory = {}
    for name, case in CASES.items():
        done = subprocess.run([*command, case], cwd=ROOT, check=True, capture_output=True)
        memory[name] = json.loads(done.stdout)
    rows = [
        {
            "case": name,
            "forward + backward, ms": 1000 * timing.median,
            "forward alone, ms": 1000 * forwards[name].median,
            "x mambapy": timing.ratio,
            "memory, MB": memory[name] / 1e6,
            "share of mambapy's": memory[name] / memory[PEER],
            "x bandwidth limit": timing.median / limit,
            "largest difference": max(
                float((ys[case] - ys["ref"]).abs().max() / ys["ref"].abs().max()),
                *(
                    float((grads[case][k] - g).abs().max() / g.abs().max())
                    for k, g in grads["ref"].items()
                ),
            ),
        }
        for name, case in CASES.items()
        for timing in [timings[name]]
    ]
    rows.append(
        {
            "case": "limit: memory bandwidth",
            "forward + backward, ms": 1000 * limit,
            "forward alone, ms": 1000 * forward_limit,
            "x mambapy": timings[PEER].median / limit,
            "memory, MB": (3 * channels + 2 * states) / 1e6,
            "share of mambapy's": (3 * channels + 2 * states) / memory[PEER],
            "x bandwidth limit": 1.0,
            "largest difference": "",
        }
    )
    notes = [
        "B {}, D {}, N {}, L {}, float32, {} thread(s), median of {} rounds; the ratio is taken "
        "round by round. Largest difference: of output and gradients from the reference's, "
        "relative to the largest value.".format(*args.shape, args.threads, args.repeats),
        f"Limit: what reading and writing inputs, output and gradients once takes, "
        f"{bytes_moved / 1e6:.0f} MB at {speed / 1e9:.1f} GB/s, "
        "and the memory of output and gradients alone. The compiled scan is bound by arithmetic "
        "(two exponentials for each of the B x D x N x L state updates), not by memory.",
    ]
    facts = machine(["numpy", "numba", "torch", "mambapy"])
    print(write_report(args.out, "Selective scan", rows, facts, notes))
    ours = rows[1]
    if args.floor and ours["x mambapy"] < args.floor:
        raise UserError(f"{ours['x mambapy']:.1f} x mambapy, below {args.floor:g}")
    if args.memory_floor and ours["share of mambapy's"] > args.memory_floor:
        raise UserError(f"{ours["share of mambapy's"]:.2f} of mambapy's memory")


if __name__ == "__main__":
    run(main)
