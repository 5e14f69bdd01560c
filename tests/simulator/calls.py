"""Random but sensible calls of every kernel, for tests."""

import numpy as np

from espnet_spike.simulator.kernels import (
    BLEND,
    CELL,
    CONV_EVENT,
    EVENT,
    MAX_TAPS,
    NOWHERE,
    exp_table,
    fading_table,
    pack,
    to_events,
)
from espnet_spike.simulator.machine import Call


def sparse(rng, n, count, low=-2000, high=2000, spikes=False):
    """An int16 vector with that many values that are not zero."""
    x = np.zeros(n, np.int16)
    index = rng.permutation(n)[:count]
    values = (
        np.ones(count)
        if spikes
        else rng.integers(1, high, count) * rng.choice([1] if low >= 0 else [-1, 1], count)
    )
    x[index] = values
    return x


def linear(kernel, rng, inputs, outputs, count):
    """A call of a linear kernel whose input has ``count`` values that are not zero."""
    w = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    bias = rng.integers(-9999, 9999, outputs).astype(np.int32)
    y = np.zeros(outputs, np.int32)
    x = sparse(rng, inputs, count, spikes="spike" in kernel)
    spikes = np.flatnonzero(x).astype(np.uint16)
    if kernel == "linear_planes_blocked":
        counts = np.where(x != 0, rng.integers(1, 8, inputs), 0)
        lists, lengths = np.zeros((3, inputs), np.uint16), np.zeros(3, np.uint32)
        for plane in range(3):
            found = np.flatnonzero(counts >> plane & 1)
            lists[plane, : len(found)], lengths[plane] = found, len(found)
        return Call(kernel, (pack(w), lists, lengths, bias, y, 3, inputs, outputs))
    if kernel.endswith("_blocked"):
        given = {"event": to_events(x), "spike": spikes}.get(kernel.split("_")[1], x)
        sizes = (inputs, outputs) if given is x else (count, inputs, outputs)
        return Call(kernel, (pack(w), given, bias, y, *sizes))
    if "event" in kernel:
        return Call(kernel, (w.T.copy(), to_events(x), bias, y, count, outputs))
    if "spike" in kernel:
        rows = (np.arange(inputs) * outputs).astype(np.uint32)
        return Call(kernel, (w.T.copy(), rows, spikes, bias, y, count, outputs))
    return Call(kernel, (w, x, bias, y, inputs, outputs))


def conv(kernel, rng, count, taps=3, width=3, bins=15, channels=3, outputs=7, stride=2):
    """A call of a convolution kernel; ``count`` inputs are not zero."""
    positions = (bins - width) // stride + 1
    w = rng.integers(-127, 128, (outputs, taps, width, channels)).astype(np.int8)
    bias = rng.integers(-9999, 9999, outputs).astype(np.int32)
    y = np.zeros((positions, outputs), np.int32)
    x = sparse(rng, taps * bins * channels, count, spikes="spike" in kernel)
    x = x.reshape(taps, bins, channels)
    if "dense" in kernel:
        sizes = (taps, width * channels, bins * channels, stride * channels, positions, outputs)
        given = pack(w.reshape(outputs, -1)) if kernel.endswith("_blocked") else w
        return Call(kernel, (given, x.reshape(taps, -1).copy(), bias, y, *sizes))
    if kernel.endswith("_blocked") or "list" in kernel:
        found = [to_events(row.reshape(-1)) for row in x]
        starts = np.cumsum([0, *map(len, found)]).astype(np.uint32)
        events = np.concatenate(found)
        events = events["index"].copy() if "spike" in kernel else events
        if "list" in kernel:
            room = np.zeros(len(events), CONV_EVENT)
            return Call(kernel, (events, starts, room, taps, channels))
        room = np.zeros((taps, bins + 1), np.uint32)
        sizes = (taps, bins, channels, width, stride, width * channels, stride * channels)
        args = (pack(w.reshape(outputs, -1)), events, starts, room, bias, y, *sizes)
        return Call(kernel, (*args, taps * width * channels, positions, outputs))
    events = np.zeros(count, CONV_EVENT)
    t, b, c = np.nonzero(x)
    events["source"], events["bin"], events["value"] = t * channels + c, b, x[t, b, c]
    rows = np.arange(taps)[:, None] * width * channels + np.arange(channels)
    target = np.full((bins, MAX_TAPS), NOWHERE, np.uint16)
    for p in range(positions):
        for k in range(width):
            target[p * stride + k, k] = p * outputs
    rows = (rows.reshape(-1) * outputs).astype(np.uint32)
    weights = w.transpose(1, 2, 3, 0).copy()
    sizes = (count, width, channels * outputs, positions, outputs)
    return Call(kernel, (weights, rows, target, events, bias, y, *sizes))


def depthwise(kernel, rng, count, taps=4, channels=13):
    """A call of a depthwise convolution kernel; ``count`` inputs are not zero."""
    w = rng.integers(-127, 128, (taps, channels)).astype(np.int8)
    bias = rng.integers(-9999, 9999, channels).astype(np.int32)
    y = np.zeros(channels, np.int32)
    x = sparse(rng, taps * channels, count, spikes="spike" in kernel).reshape(taps, channels)
    if "dense" in kernel:
        return Call(kernel, (w, x, bias, y, taps, channels))
    starts = np.concatenate([[0], np.count_nonzero(x, 1).cumsum()]).astype(np.uint32)
    events = np.concatenate([to_events(row) for row in x])
    if "spike" in kernel:
        events = events["index"].copy()
    if kernel == "depthwise_scaled":
        events = events["index"].copy()
        unit = rng.integers(0, 999, taps).astype(np.int16)
        return Call(kernel, (w, events, starts, unit, bias, y, taps, channels))
    return Call(kernel, (w, events, starts, bias, y, taps, channels))


def threshold(kernel, rng, n=40, at=700):
    """A call of ``relu`` or a FATReLU kernel."""
    x = rng.integers(-2000, 2000, n).astype(np.int16)
    if kernel == "relu":
        return Call(kernel, (x, np.zeros(n, np.int16), n, at))
    return Call(kernel, (x, np.zeros(n, EVENT), np.zeros(1, np.uint32), n, at))


def imls(kernel, rng, n=40, levels=6, level=0):
    """A call of an IMLS kernel."""
    x = rng.integers(-9000, 9000, n).astype(np.int16)
    inverse_alpha = np.round(1024 / rng.uniform(0.3, 0.9, n)).astype(np.uint16)
    if kernel == "imls_planes":
        room = np.zeros((3, n), np.uint16), np.zeros(3, np.uint32)
        return Call(kernel, (x, inverse_alpha, *room, n, 3, levels, level))
    room = np.zeros(n, EVENT) if kernel == "imls" else np.zeros(n * levels, np.uint16)
    return Call(kernel, (x, inverse_alpha, room, np.zeros(1, np.uint32), n, levels, level))


def lif(kernel, rng, n=40):
    """A call of a LIF kernel."""
    x, v = (rng.integers(-20000, 20000, n).astype(np.int16) for _ in range(2))
    return Call(kernel, (x, v, np.zeros(n, np.uint16), np.zeros(1, np.uint32), n, 4096, 1))


def _int16(rng, *shape, size=30000):
    return rng.integers(-size, size, shape).astype(np.int16)


def elementwise(kernel, rng, n=40):
    """A call of a kernel that works value by value."""
    x, y = _int16(rng, n), np.zeros(n, np.int16)
    if kernel == "requantize":
        wide = rng.integers(-(2**31), 2**31, n).astype(np.int32)
        return Call(kernel, (wide, y, n, int(rng.integers(2**30, 2**31)), int(rng.integers(1, 20))))
    if kernel.startswith("requantize_"):
        wide = rng.integers(-(2**31), 2**31, n).astype(np.int32)
        each = rng.integers(2**28, 2**31, n).astype(np.int32)
        if kernel == "requantize_outputs":
            return Call(kernel, (wide, y, each, n, int(rng.integers(1, 20))))
        unit = int(rng.integers(0, 32768))
        return Call(kernel, (wide, y, each, x, n, int(rng.integers(1, 20)), unit, 12))
    if kernel == "lookup":
        return Call(kernel, (x, y, np.sort(_int16(rng, 257)), n))
    if kernel == "gate":
        return Call(kernel, (x, _int16(rng, n), y, n, 14))
    if kernel == "gate_event":
        g = to_events(sparse(rng, n, 25, low=0))
        room = np.zeros(n, EVENT), np.zeros(1, np.uint32)
        return Call(kernel, (x, g, *room, len(g), 9, 100))
    if kernel == "scale_events":
        found = to_events(sparse(rng, n, 25, low=0, high=7))
        return Call(kernel, (found, len(found), 321))
    if kernel == "gate_spike":
        a, b = (np.sort(rng.permutation(n)[:20]).astype(np.uint16) for _ in range(2))
        return Call(kernel, (a, b, np.zeros(n, np.uint16), np.zeros(1, np.uint32), 20, 20))
    if kernel == "add":
        return Call(kernel, (x, _int16(rng, n), n))
    if kernel == "affine":
        return Call(kernel, (x, _int16(rng, n), _int16(rng, n), y, n, 13))
    size = int(rng.choice([3, 300, 30000]))
    return Call(kernel, (_int16(rng, n, size=size), x, _int16(rng, n), y, n, 13))


def attention(kernel, rng, heads=2, head_dim=6, keys=9):
    """A call of an attention kernel."""
    dim = heads * head_dim
    head = np.repeat(np.arange(heads), head_dim)
    if "scores_dense" in kernel:
        q, k = _int16(rng, dim, size=9000), _int16(rng, keys, dim, size=9000)
        return Call(kernel, (q, k, np.zeros((heads, keys), np.int32), heads, head_dim, keys))
    scores = rng.integers(-(2**28), 2**28, (heads, keys)).astype(np.int32)
    p = np.zeros((keys, heads), np.int16)
    if kernel == "decay_scores":
        decay = rng.integers(0, 2**15, (heads, keys)).astype(np.uint16)
        key = rng.integers(0, 2**15, keys).astype(np.uint16)
        return Call(kernel, (scores, decay, key, p, heads, keys, 4, 14))
    if kernel == "softmax":
        return Call(kernel, (scores, exp_table(), p, heads, keys, 2**20))
    p = _int16(rng, keys, heads, size=3000)
    y = np.zeros(dim, np.int32)
    if "context_dense" in kernel:
        return Call(kernel, (p, _int16(rng, keys, dim), y, heads, head_dim, keys))
    x = sparse(rng, keys * dim, 30, spikes="spike" in kernel).reshape(keys, dim)
    starts = np.concatenate([[0], np.count_nonzero(x, 1).cumsum()]).astype(np.uint32)
    events = np.concatenate([to_events(row) for row in x])
    if kernel.startswith("context"):
        events = events["index"].copy() if "spike" in kernel else events
        rest = (y, heads, keys, dim)
        return Call(kernel, (p, head.astype(np.uint8), events, starts, *rest))
    kv = _int16(rng, dim, head_dim, size=100)
    rows = np.arange(dim) * head_dim
    k, v = (np.sort(rng.permutation(dim)[:5]).astype(np.uint16) for _ in range(2))
    if kernel == "read_spike":
        first = (head * head_dim).astype(np.uint16)
        return Call(kernel, (kv, rows.astype(np.uint32), first, k, y, 5, head_dim, dim))
    starts = np.searchsorted(v, np.arange(heads + 1) * head_dim).astype(np.uint32)
    rows = (rows - head * head_dim).astype(np.int32)
    return Call(kernel, (kv, rows, head.astype(np.uint8), k, v, starts, 5))


def scan(kernel, rng, channels=5, states=4, nonzero=3):
    """A call of a scan kernel."""
    u = sparse(rng, channels, nonzero, high=30000)
    delta = rng.integers(1, 12000, channels).astype(np.int16)
    a = rng.integers(50, 5000, (channels, states)).astype(np.uint16)
    b, c = (sparse(rng, states, 2, high=30000) for _ in range(2))
    d = rng.integers(-999, 999, channels).astype(np.int32)
    h = rng.integers(-(2**28), 2**28, (channels, states)).astype(np.int32)
    y = np.zeros(channels, np.int32)
    if kernel.endswith("_blocked"):
        cells, blend = np.zeros((channels, states), CELL), np.zeros(states, BLEND)
        cells["h"], cells["a"], blend["b"], blend["c"] = h, a, b, c.astype(np.int32) << 16
        args = (u, delta, cells, blend, d, fading_table(), y, channels, states, 12, 3, 14, 1 << 24)
        return Call(kernel, args)
    args = (u, delta, a, b, c, d, exp_table(), h, y, channels, states, 12, 3, 0)
    if kernel == "scan_dense":
        return Call(kernel, args)
    events = to_events(b), to_events(c)
    return Call(kernel, (*args, *events, *map(len, events)))


def any_call(kernel, rng):
    """A call of any kernel."""
    if kernel.startswith("linear"):
        return linear(kernel, rng, 19, int(rng.choice([11, 32, 50])), int(rng.integers(0, 20)))
    if kernel.startswith("conv"):
        return conv(kernel, rng, int(rng.integers(0, 60)), outputs=int(rng.choice([7, 19])))
    if kernel.startswith("depthwise"):
        return depthwise(kernel, rng, int(rng.integers(0, 40)))
    if kernel.startswith(("relu", "fatrelu")):
        return threshold(kernel, rng)
    if kernel.startswith("imls"):
        return imls(kernel, rng, level=int(rng.choice([0, 500])))
    if kernel.startswith("lif"):
        return lif(kernel, rng)
    if kernel.startswith("scan"):
        return scan(kernel, rng)
    if kernel.startswith(("scores", "decay", "softmax", "context", "outer", "read")):
        return attention(kernel, rng)
    return elementwise(kernel, rng)
