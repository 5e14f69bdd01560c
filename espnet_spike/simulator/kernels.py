"""A numpy model of every kernel of the firmware, bit for bit.

``MODELS[name]`` takes what the C function takes, in the order of its argument struct, and changes
the same arrays in place; shapes and units are in ``csrc/*.c``. int8 weights, int16
activations, int32 accumulators that wrap around as the core's do.
"""

from collections.abc import Callable

import numpy as np

from espnet_spike.simulator.machine import Call

BLOCK, WORD = 16, 4  # outputs that a blocked kernel has in registers, weights of a word
EVENT = np.dtype([("index", "<u2"), ("value", "<i2")])
CELL = np.dtype([("h", "<i4"), ("a", "<u4")])
BLEND = np.dtype([("b", "<i4"), ("c", "<i4")])
CONV_EVENT = np.dtype([("source", "<u2"), ("bin", "<u2"), ("value", "<i2"), ("unused", "<i2")])
SPIKES_A_TURN = 256  # that a blocked spike kernel sums in 16 bits
PLANES = 4  # bits of a count at most, as lists
MAX_TAPS = 8
NOWHERE = 0xFFFF

Array = np.ndarray
MODELS: dict[str, Callable[..., None]] = {}


def model(*names: str) -> Callable:
    """Register a function as the model of kernels."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        MODELS.update(dict.fromkeys(names, function))
        return function

    return register


def expected(call: Call) -> list[Array]:
    """Return what the arrays of a call have to be after it."""
    args = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in call.args]
    with np.errstate(over="ignore"):
        MODELS[call.kernel](*args)
    return [arg for arg in args if isinstance(arg, np.ndarray)]


def wrap(x: Array) -> Array:
    """Keep the low 32 bits of integers, signed."""
    return np.asarray(x).astype(np.int64).astype(np.uint64).astype(np.uint32).astype(np.int32)


def saturate16(x: Array) -> Array:
    """Clip to 16 bits."""
    return np.clip(x, -32768, 32767).astype(np.int16)


def _wide(x: Array) -> Array:
    return x.astype(np.int64)


def _put(array: Array, count: Array, values: Array) -> None:
    array[: len(values)] = values
    count[0] = len(values)


def to_events(x: Array) -> Array:
    """Return the events of a vector: index and value of what is not zero."""
    index = np.flatnonzero(x)
    events = np.zeros(len(index), EVENT)
    events["index"], events["value"] = index, x[index]
    return events


def pack(w: Array) -> Array:
    """Return int8 weights ``(outputs, inputs)`` as the blocked kernels read them: uint32 words.

    Sixteen outputs of one input side by side, then what remains four at a time; a word holds four
    outputs, the first in its lowest byte, each as w + 128.
    """
    outputs, inputs = w.shape
    padded = np.zeros((-(-outputs // WORD) * WORD, inputs), np.uint8)
    padded[:outputs] = w.view(np.uint8) ^ 128
    full = outputs // BLOCK * BLOCK
    parts = [
        rows.reshape(-1, size, inputs).transpose(0, 2, 1).reshape(-1)
        for rows, size in ((padded[:full], BLOCK), (padded[full:], WORD))
    ]
    return np.concatenate(parts).view("<u4")


def unpack(words: Array, inputs: int, outputs: int) -> Array:
    """Return the weights ``(outputs, inputs)`` that ``pack`` packed."""
    data = words.view(np.uint8) ^ 128
    split = outputs // BLOCK * BLOCK * inputs
    blocks = [
        part.view(np.int8).reshape(-1, inputs, size).transpose(0, 2, 1).reshape(-1, inputs)
        for part, size in ((data[:split], BLOCK), (data[split:], WORD))
    ]
    return np.concatenate(blocks)[:outputs]


@model("linear_dense", "linear_dense_unrolled", "linear_skip")
def _linear(w, x, bias, y, inputs, outputs) -> None:
    y[:] = wrap(bias + _wide(w) @ _wide(x))


@model("linear_event", "linear_event_unrolled")
def _linear_event(w, events, bias, y, count, outputs) -> None:
    events = events[:count]
    y[:] = wrap(bias + _wide(events["value"]) @ _wide(w[events["index"]]))


@model("linear_spike", "linear_spike_unrolled")
def _linear_spike(w, rows, spikes, bias, y, count, outputs) -> None:
    y[:] = wrap(bias + _wide(w[spikes[:count]]).sum(0))


@model("linear_dense_blocked")
def _linear_blocked(w, x, bias, y, inputs, outputs) -> None:
    _linear(unpack(w, inputs, outputs), x, bias, y, inputs, outputs)


@model("linear_event_blocked")
def _linear_event_blocked(w, events, bias, y, count, inputs, outputs) -> None:
    _linear_event(unpack(w, inputs, outputs).T, events, bias, y, count, outputs)


@model("linear_spike_blocked")
def _linear_spike_blocked(w, spikes, bias, y, count, inputs, outputs) -> None:
    _linear_spike(unpack(w, inputs, outputs).T, None, spikes, bias, y, count, outputs)


@model("linear_planes_blocked")
def _linear_planes_blocked(w, lists, lengths, bias, y, planes, inputs, outputs) -> None:
    rows, out = _wide(unpack(w, inputs, outputs).T), _wide(bias)
    for plane in range(planes):
        out += rows[lists[plane, : lengths[plane]]].sum(0) << plane
    y[:] = wrap(out)


@model("conv_dense", "conv_dense_unrolled")
def _conv(w, x, bias, y, taps, span, row, step, positions, outputs) -> None:
    for p in range(positions):
        window = x.reshape(taps, row)[:, p * step : p * step + span]
        y[p] = wrap(bias + _wide(w).reshape(outputs, -1) @ _wide(window).reshape(-1))


def _conv_events(
    w, rows, target, events, values, bias, y, count, width, tap, positions, outputs
) -> None:
    flat, out = w.reshape(-1), np.tile(_wide(bias), (positions, 1)).reshape(-1)
    for (source, bin_, _, _), value in zip(events[:count], values[:count], strict=True):
        for k in range(width):
            to = int(target.reshape(-1, MAX_TAPS)[bin_, k])
            if to != NOWHERE:
                start = int(rows[source]) + k * tap
                out[to : to + outputs] += _wide(flat[start : start + outputs]) * int(value)
    y[:] = wrap(out).reshape(y.shape)


@model("conv_event", "conv_event_unrolled")
def _conv_event(w, rows, target, events, *rest) -> None:
    _conv_events(w, rows, target, events, events["value"], *rest)


@model("conv_spike", "conv_spike_unrolled")
def _conv_spike(w, rows, target, events, *rest) -> None:
    _conv_events(w, rows, target, events, np.ones(len(events), np.int64), *rest)


def _conv_list(index, values, starts, out, taps, channels) -> None:
    tap = np.repeat(np.arange(taps), np.diff(starts))
    part = out[: len(index)]
    part["source"], part["bin"] = tap * channels + index % channels, index // channels
    if values is not None:
        part["value"] = values


@model("conv_list")
def _conv_list_event(events, starts, out, taps, channels) -> None:
    _conv_list(events["index"], events["value"], starts, out, taps, channels)


@model("conv_list_spike")
def _conv_list_spike(spikes, starts, out, taps, channels) -> None:
    _conv_list(spikes, None, starts, out, taps, channels)


@model("conv_dense_blocked")
def _conv_blocked(w, x, bias, y, taps, span, row, step, positions, outputs) -> None:
    _conv(unpack(w, taps * span, outputs), x, bias, y, taps, span, row, step, positions, outputs)


def _conv_events_blocked(
    w, index, values, starts, first, bias, y, taps, bins, channels, width, stride, span, step,
    inputs, positions, outputs,
) -> None:  # fmt: skip
    x = np.zeros((taps, bins * channels), np.int64)
    tap = np.repeat(np.arange(taps), np.diff(starts))
    np.add.at(x, (tap, index), values)
    limits = np.arange(bins + 1) * channels
    for t in range(taps):
        found = index[starts[t] : starts[t + 1]]
        first[t] = starts[t] + np.searchsorted(found, limits)
    _conv_blocked(w, x, bias, y, taps, span, bins * channels, step, positions, outputs)


@model("conv_event_blocked")
def _conv_event_blocked(w, events, *rest) -> None:
    _conv_events_blocked(w, events["index"], events["value"], *rest)


@model("conv_spike_blocked")
def _conv_spike_blocked(w, spikes, *rest) -> None:
    _conv_events_blocked(w, spikes, 1, *rest)


@model("depthwise_dense", "depthwise_dense_unrolled", "depthwise_dense_blocked")
def _depthwise(w, x, bias, y, taps, channels) -> None:
    y[:] = wrap(bias + (_wide(w) * _wide(x)).sum(0))


@model("depthwise_event")
def _depthwise_event(w, events, starts, bias, y, taps, channels) -> None:
    out = _wide(bias)
    for t in range(taps):
        part = events[starts[t] : starts[t + 1]]
        np.add.at(out, part["index"], _wide(w[t, part["index"]]) * part["value"])
    y[:] = wrap(out)


@model("depthwise_spike")
def _depthwise_spike(w, spikes, starts, bias, y, taps, channels) -> None:
    out = _wide(bias)
    for t in range(taps):
        part = spikes[starts[t] : starts[t + 1]]
        np.add.at(out, part, w[t, part])
    y[:] = wrap(out)


@model("depthwise_scaled")
def _depthwise_scaled(w, spikes, starts, unit, bias, y, taps, channels) -> None:
    out = _wide(bias)
    for t in range(taps):
        part = spikes[starts[t] : starts[t + 1]]
        np.add.at(out, part, _wide(w[t, part]) * int(unit[t]))
    y[:] = wrap(out)


@model("scale_events")
def _scale_events(events, count, unit) -> None:
    events["value"][:count] = (_wide(events["value"][:count]) * unit).astype(np.int16)


@model("relu")
def _relu(x, y, n, threshold) -> None:
    y[:] = np.where(x >= threshold, x, 0)


@model("fatrelu")
def _fatrelu(x, events, count, n, threshold) -> None:
    _put(events, count, to_events(np.where(x >= threshold, x, 0)))


@model("fatrelu_two_sided")
def _fatrelu_two_sided(x, events, count, n, threshold) -> None:
    _put(events, count, to_events(np.where(abs(_wide(x)) >= threshold, x, 0)))


def imls_counts(x: Array, inverse_alpha: Array, levels: int, level: int) -> Array:
    """Return the spike counts that the kernel ``imls`` computes; arguments as there."""
    m = level or max(int(abs(_wide(x)).sum()) // len(x), 1)
    ratio = (wrap(_wide(x) * inverse_alpha).astype(np.int64) * (0x7FFFFFFF // m)) >> 32
    return np.clip((ratio + 256) >> 9, 0, levels)


@model("imls")
def _imls(x, inverse_alpha, events, count, n, levels, level) -> None:
    _put(events, count, to_events(imls_counts(x, inverse_alpha, levels, level)))


@model("imls_planes")
def _imls_planes(x, inverse_alpha, lists, lengths, n, planes, levels, level) -> None:
    counts = imls_counts(x, inverse_alpha, levels, level)
    for plane in range(planes):
        found = np.flatnonzero(counts >> plane & 1)
        lists[plane, : len(found)] = found
        lengths[plane] = len(found)


@model("imls_spikes")
def _imls_spikes(x, inverse_alpha, spikes, count, n, levels, level) -> None:
    _put(spikes, count, np.repeat(np.arange(n), imls_counts(x, inverse_alpha, levels, level)))


def _lif(x, v, spikes, count, threshold, tau_shift, soft, decay_input) -> None:
    x, h = _wide(x), _wide(v)
    h = h + ((x - h) >> tau_shift) if decay_input else h - (h >> tau_shift) + x
    fired = h >= threshold
    _put(spikes, count, np.flatnonzero(fired))
    v[:] = saturate16(np.where(fired, h - threshold if soft else 0, h))


@model("lif_hard")
def _lif_hard(x, v, spikes, count, n, threshold, tau_shift) -> None:
    _lif(x, v, spikes, count, threshold, tau_shift, False, True)


@model("lif_soft")
def _lif_soft(x, v, spikes, count, n, threshold, tau_shift) -> None:
    _lif(x, v, spikes, count, threshold, tau_shift, True, True)


@model("lif_hard_full_input")
def _lif_hard_full(x, v, spikes, count, n, threshold, tau_shift) -> None:
    _lif(x, v, spikes, count, threshold, tau_shift, False, False)


@model("lif_soft_full_input")
def _lif_soft_full(x, v, spikes, count, n, threshold, tau_shift) -> None:
    _lif(x, v, spikes, count, threshold, tau_shift, True, False)


@model("requantize")
def _requantize(x, y, n, multiplier, shift) -> None:
    y[:] = saturate16((((_wide(x) * multiplier) >> 32) + (1 << (shift - 1))) >> shift)


@model("requantize_outputs")
def _requantize_outputs(x, y, multiplier, n, shift) -> None:
    _requantize(x, y, n, multiplier, shift)


@model("requantize_units")
def _requantize_units(x, y, multiplier, offset, n, shift, unit, down) -> None:
    _requantize(x, y, n, multiplier, shift)
    y[:] = saturate16(((_wide(y) * unit) >> down) + offset)


@model("lookup")
def _lookup(x, y, table, n) -> None:
    u, at = _wide(x) + 32768, _wide(table)
    low = at[u >> 8]
    y[:] = (low + (((at[(u >> 8) + 1] - low) * (u & 255)) >> 8)).astype(np.int16)


@model("gate")
def _gate(y, g, out, n, shift) -> None:
    out[:] = saturate16((_wide(y) * g) >> shift)


@model("gate_event")
def _gate_event(y, g, out, out_count, count, shift, threshold) -> None:
    g = g[:count]
    product = saturate16((_wide(y[g["index"]]) * g["value"]) >> shift)
    events = g[product >= threshold].copy()
    events["value"] = product[product >= threshold]
    _put(out, out_count, events)


@model("gate_spike")
def _gate_spike(a, b, out, out_count, count_a, count_b) -> None:
    _put(out, out_count, np.intersect1d(a[:count_a], b[:count_b]))


@model("add")
def _add(x, y, n) -> None:
    x[:] = saturate16(_wide(x) + y)


@model("affine")
def _affine(x, scale, offset, y, n, shift) -> None:
    y[:] = saturate16(((_wide(x) * scale) >> shift) + offset)


def _inverse_root(total: int, n: int) -> tuple[int, int]:
    exponent = 0
    while total >> 31:
        total, exponent = total >> 2, exponent + 1
    mean = max(total // n, 1)
    while mean < 1 << 28:
        mean, exponent = mean << 2, exponent - 1
    return (1 << 29) // int(np.floor(np.sqrt(np.float64(mean)))), exponent


@model("rmsnorm")
def _rmsnorm(x, weight, bias, y, n, shift) -> None:
    x = _wide(x)
    inverse, exponent = _inverse_root(int((x * x).sum()), n)
    v = _wide(saturate16(wrap(x * inverse) >> (19 + exponent)))
    y[:] = saturate16((v * weight) >> shift)


@model("layernorm")
def _layernorm(x, weight, bias, y, n, shift) -> None:
    x = _wide(x)
    total = int(x.sum())
    mean = abs(total) // n * (1 if total >= 0 else -1)  # C rounds towards zero
    d = _wide(saturate16(x - mean))
    inverse, exponent = _inverse_root(int((d * d).sum()), n)
    v = _wide(saturate16(wrap(d * inverse) >> (19 + exponent)))
    y[:] = saturate16(((v * weight) >> shift) + bias)


@model("scores_dense", "scores_dense_unrolled", "scores_dense_blocked")
def _scores(q, k, s, heads, head_dim, keys) -> None:
    query = _wide(q).reshape(heads, head_dim)
    s[:] = wrap(np.einsum("hd,khd->hk", query, _wide(k).reshape(keys, heads, head_dim)))


@model("decay_scores")
def _decay(s, decay, key, p, heads, keys, query, shift) -> None:
    distance = abs(np.arange(keys) - query)
    faded = ((_wide(s) >> shift) * _wide(decay)[:, distance]) >> 15
    p[:] = wrap((faded * _wide(key)) >> 15).astype(np.int16).T


@model("softmax")
def _softmax(s, table, p, heads, keys, multiplier) -> None:
    below = _wide(s.max(1, keepdims=True)) - s
    z = ((below.astype(np.uint64) * np.uint64(multiplier)) >> np.uint64(32)).astype(np.int64)
    at = _wide(table)
    low = np.minimum(z >> 8, 255)
    e = np.where(z < 65536, at[low] - (((at[low] - at[low + 1]) * (z & 255)) >> 8), 0)
    inverse = (1 << 30) // e.sum(1, keepdims=True)
    p[:] = saturate16((e * inverse) >> 15).T


@model("context_dense", "context_dense_unrolled", "context_dense_blocked")
def _context(p, v, y, heads, head_dim, keys) -> None:
    value = _wide(v).reshape(keys, heads, head_dim)
    y[:] = wrap(np.einsum("kh,khd->hd", _wide(p), value)).reshape(-1)


@model("context_event")
def _context_event(p, head, events, starts, y, heads, keys, channels) -> None:
    out = np.zeros(channels, np.int64)
    for j in range(keys):
        part = events[starts[j] : starts[j + 1]]
        np.add.at(out, part["index"], _wide(p[j, head[part["index"]]]) * part["value"])
    y[:] = wrap(out)


@model("context_spike")
def _context_spike(p, head, spikes, starts, y, heads, keys, channels) -> None:
    out = np.zeros(channels, np.int64)
    for j in range(keys):
        part = spikes[starts[j] : starts[j + 1]]
        np.add.at(out, part, p[j, head[part]])
    y[:] = wrap(out)


@model("outer_spike")
def _outer_spike(kv, rows, head, k, v, starts, count) -> None:
    flat = kv.reshape(-1)
    for c in k[:count]:
        h = int(head[c])
        flat[int(rows[c]) + _wide(v[starts[h] : starts[h + 1]])] += 1


@model("read_spike")
def _read_spike(kv, rows, first, q, y, count, head_dim, channels) -> None:
    out = np.zeros(channels, np.int64)
    for c in q[:count]:
        out[first[c] : first[c] + head_dim] += kv.reshape(-1)[rows[c] : rows[c] + head_dim]
    y[:] = wrap(out)


def _fade(table: Array, z: Array) -> Array:
    at = _wide(table)
    low = np.minimum(z >> 16, 255)
    e = at[low] - (((at[low] - at[low + 1]) * ((z >> 8) & 255)) >> 8)
    return np.where(z >> 24, 0, e << 16)


@model("scan_dense")
def _scan(u, delta, a, b, c, d, table, h, y, channels, states, *shifts) -> None:
    _scan_with(_wide(b), _wide(c), u, delta, a, d, table, h, y, *shifts)


@model("scan_event")
def _scan_event(u, delta, a, b, c, d, table, h, y, channels, states, *shifts_and_events) -> None:
    *shifts, events_b, events_c, count_b, count_c = shifts_and_events

    def filled(events, count):
        full = np.zeros(states, np.int64)
        full[events["index"][:count]] = events["value"][:count]
        return full

    b, c = filled(events_b, count_b), filled(events_c, count_c)
    _scan_with(b, c, u, delta, a, d, table, h, y, *shifts)


def _scan_with(b, c, u, delta, a, d, table, h, y, input_shift, state_shift, fade_shift) -> None:
    u, delta = _wide(u), _wide(delta)
    fade = _fade(table, (delta[:, None] * a) >> fade_shift)
    faded = wrap(((_wide(h) * fade) >> 32) * 2).astype(np.int64)
    added = wrap(((delta * u) >> input_shift)[:, None] * b).astype(np.int64) >> state_shift
    h[:] = wrap(faded + added)
    y[:] = wrap(_wide(d) * u + ((_wide(h) * (c << 16)) >> 32).sum(1))


@model("scan_dense_blocked", "scan_event_blocked")
def _scan_blocked(
    u, delta, cells, blend, d, table, y, channels, states, input_shift, state_shift, fade_shift,
    limit,
) -> None:  # fmt: skip
    u, delta, b, c = _wide(u), _wide(delta), _wide(blend["b"]), _wide(blend["c"])
    z = delta[:, None] * cells["a"]
    left = z < limit
    e = table.astype(np.uint64)[np.where(left, z >> fade_shift, 0)]
    rest = ((z << (32 - fade_shift)) & 0xFFFFFFFF).astype(np.uint64)
    e = _wide(e - ((e * rest) >> np.uint64(38)))
    # a product of 32 signed and 32 unsigned bits leaves 64 signed ones: take it in two halves
    h = _wide(cells["h"])
    faded = (h * (e >> 16) + ((h * (e & 0xFFFF)) >> 16)) >> 16
    added = wrap(((delta * u) >> input_shift)[:, None] * b).astype(np.int64) >> state_shift
    cells["h"] = wrap(np.where(left, faded, 0) + added)
    y[:] = wrap(_wide(d) * u + ((_wide(cells["h"]) * c) >> 32).sum(1))


def fading_table() -> Array:
    """Return what the blocked scan reads exp from: 2^32 exp(-i / 64), i = 0..1023."""
    exact = np.round(2.0**32 * np.exp(-np.arange(1024) / 64))
    return np.minimum(exact, 2.0**32 - 1).astype(np.uint32)


def exp_table() -> Array:
    """Return what ``softmax`` and the scans read exp from: 32767 exp(-i / 16), i = 0..256."""
    return np.round(32767 * np.exp(-np.arange(257) / 16)).astype(np.uint16)
