"""Speed of the hardware simulator: simulated cycles a second of one process; cost of its kernels.

.venv/bin/python -m benchmarks.bench_simulator [--floor 4]
"""

import resource
import statistics
from pathlib import Path

import numpy as np

from benchmarks.harness import add_out, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run

ROOT = Path(__file__).resolve().parents[1]
KERNELS = tuple(
    f"linear_{kind}{loop}"
    for kind in ("dense", "event", "spike")
    for loop in ("", "_unrolled", "_blocked")
)


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardware", nargs="+", default=["small", "maxperf"], help="conf/hardware")
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=KERNELS, help="of these")
    parser.add_argument("--mcycles", type=POSITIVE, default=8.0, help="simulated a round, about")
    parser.add_argument("--repeats", type=COUNT, default=5, help="rounds")
    parser.add_argument(
        "--floor", type=POSITIVE, help="fail below this many million cycles per second"
    )
    add_out(parser)
    return parser


def make_call(kernel, size=256):
    """Return a 256 x 256 linear layer with half of its inputs zero."""
    from espnet_spike.simulator.kernels import pack, to_events
    from espnet_spike.simulator.machine import Call

    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (size, size)).astype(np.int8)
    w.flags.writeable = False
    x = np.zeros(size, np.int16)
    x[::2] = rng.integers(1, 999, size // 2)
    bias, y = np.zeros(size, np.int32), np.zeros(size, np.int32)
    kind, blocked = kernel.split("_")[1], kernel.endswith("_blocked")
    if blocked:
        w = pack(w.T.copy() if kind != "dense" else w)
        w.flags.writeable = False
    half = (size // 2, size, size) if blocked else (size // 2, size)
    if kind == "event":
        return Call(kernel, (w, to_events(x), bias, y, *half))
    if kind == "spike":
        spikes = np.flatnonzero(x).astype(np.uint16)
        rows = () if blocked else ((np.arange(size) * size).astype(np.uint32),)
        return Call(kernel, (w, *rows, spikes, bias, y, *half))
    return Call(kernel, (w, x, bias, y, size, size))


def processor_seconds():
    """Return the processor time of finished children: a busy machine does not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv=None):
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    from espnet_spike.simulator.hardware import read_hardware
    from espnet_spike.simulator.machine import Machine

    rows = []
    for name in args.hardware:
        core = Machine(read_hardware(ROOT / f"conf/hardware/{name}.yaml"))
        for kernel in args.kernels:
            call = make_call(kernel)
            (result,) = core.run([call])
            calls = [call] * max(round(args.mcycles * 1e6 / result.counters.cycles), 1)
            speeds = []
            for _ in range(args.repeats):
                before = processor_seconds()
                core.run(calls)
                speeds.append(core.speed.cycles / (processor_seconds() - before) / 1e6)
            rows.append(
                {
                    "core": name,
                    "kernel": kernel,
                    "cycles a call": result.counters.cycles,
                    "cycles a weight": round(result.counters.cycles / 256**2, 3),
                    "Mcycles/s, median": statistics.median(speeds),
                    "Mcycles/s, best": max(speeds),
                }
            )
    record = core.core.record
    versions = ", ".join(record[name] for name in ("rtl", "verilator", "cxx"))
    notes = [
        "A linear layer of 256 x 256, half of its inputs zero; cycles a weight, those that events "
        f"pass over among them. One process, by its processor time. {versions}."
    ]
    facts = machine(["numpy", "verilator", "ziglang"])
    print(write_report(args.out, "Hardware simulator", rows, facts, notes))
    slowest = min(row["Mcycles/s, median"] for row in rows)
    if args.floor is not None and slowest < args.floor:
        raise UserError(f"{slowest:.2f} Mcycles/s, below {args.floor:g}")


if __name__ == "__main__":
    run(main)
