"""Convolutions, neurons, gates and the scan as kernel calls; see ``operations``."""

from collections.abc import Callable

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.simulator import operations as ops
from espnet_spike.simulator.attention_sites import TABLE, Keys
from espnet_spike.simulator.kernels import (
    BLEND,
    CELL,
    CONV_EVENT,
    EVENT,
    MAX_TAPS,
    NOWHERE,
    PLANES,
    SPIKES_A_TURN,
    fading_table,
    pack,
    to_events,
)
from espnet_spike.simulator.machine import Call
from espnet_spike.simulator.operations import Array, Events, Form, Sample, Site

FADING = ops.frozen(fading_table())


def conv(
    name: str,
    part: str,
    w: Array,
    bias: Array,
    x: Array,
    stride: int,
    sparse: bool,
    counts: Array | None = None,
) -> list[Site]:
    """Return the sites of a 2-D convolution.

    Args:
        name: of the module.
        part: kind of sub-module.
        w: ``(outputs, channels, time taps, frequency taps)``.
        bias: ``(outputs,)``.
        x: windows of the padded input ``(frames, time taps, bins, channels)``.
        stride: over frequency.
        sparse: the input comes from a neuron or FATReLU (zero padding alone is no sparsity).
        counts: numbers of spikes like x, whose values x has; None if they are not spikes.
    """
    outputs, channels, taps, width = w.shape
    frames, _, bins, _ = x.shape
    positions = (bins - width) // stride + 1
    wq, sw = ops.quantise_weight(w.transpose(0, 2, 3, 1))
    limit = ops.headroom(wq, (1, 2, 3))
    quantise = ops.quantise_events if sparse else ops.quantise
    xq, sx = quantise(x, limit, ops.with_bias(x, bias, sw, limit))
    start = ops.frozen(np.round(bias / (sw * sx)).clip(-(2**29), 2**29).astype(np.int32))
    w_dense, w_event = ops.frozen(wq), ops.frozen(wq.transpose(1, 2, 3, 0))
    w_packed = ops.frozen(pack(wq.reshape(outputs, -1)))
    shape = (taps, width, channels, positions, outputs)

    def sums(n: int, values: Array) -> Array:
        y = np.tile(start.astype(np.int64), (positions, 1))
        for p in range(positions):
            part_ = values[n, :, p * stride : p * stride + width].astype(np.int64)
            y[p] += np.einsum("otfc,tfc->o", wq.astype(np.int64), part_)
        return y

    def reference(n: int) -> Array:
        return np.stack(
            [
                np.einsum("octf,tfc->o", w, x[n, :, p * stride : p * stride + width]) + bias
                for p in range(positions)
            ]
        )

    def dense(loop: str) -> Form:
        sizes = (taps, width * channels, bins * channels, stride * channels, positions, outputs)
        kernel, weights = f"conv_dense{loop}", w_packed if loop == "_blocked" else w_dense

        def make(n: int) -> Sample:
            y = np.zeros((positions, outputs), np.int32)
            args = (weights, xq[n].reshape(taps, -1).copy(), start, y, *sizes)
            return Sample(Call(kernel, args), -1, sw * sx, reference(n))

        return Form(kernel, shape, ops.no_events(frames), make)

    product = ops.by_loops(dense, *ops.KINDS)
    sample = np.stack([sums(n, xq) for n in range(0, frames, max(frames // 16, 1))])
    flat, scales = sample.reshape(len(sample), -1), np.tile(sw * sx, positions)
    sites = [
        Site(name, part, 0, product, x[0].size),
        ops.stand_for_all(
            ops.requantize_outputs(f"{name}.requantize", part, 0, flat, scales), frames
        ),
    ]
    if not sparse:
        return sites
    rows = (np.arange(taps)[:, None] * width * channels + np.arange(channels)).reshape(-1)
    rows = ops.frozen((rows * outputs).astype(np.uint32))
    target = np.full((bins, MAX_TAPS), NOWHERE, np.uint16)
    for p in range(positions):
        for k in range(width):
            target[p * stride + k, k] = p * outputs
    reached = (target != NOWHERE).sum(1)
    target = ops.frozen(target)

    def event(kernel: str, values: Array, repeat: bool) -> Form:
        weight = values.astype(np.int64) if repeat else (values != 0)
        number = [weight.sum((1, 2, 3)), (weight.sum((1, 3)) * reached).sum(1)]
        if repeat and kernel.endswith("_blocked"):
            number.append(_turns(weight.sum(3), width, stride, positions))

        def make(n: int) -> Sample:
            t, b, c = np.nonzero(values[n])
            times = values[n, t, b, c] if repeat else np.ones(len(t), int)
            t, b, c = (np.repeat(place, times) for place in (t, b, c))
            y = np.zeros((positions, outputs), np.int32)
            if kernel.endswith("_blocked"):
                args = blocked(t, b, c, values[n], repeat, y)
            else:
                found = np.zeros(len(t), CONV_EVENT)
                found["source"], found["bin"] = t * channels + c, b
                found["value"] = values[n, t, b, c]
                sizes = (len(found), width, channels * outputs, positions, outputs)
                args = (w_event, rows, target, found, start, y, *sizes)
            want = None if repeat else reference(n)
            return Sample(Call(kernel, args), -1, sw * sx, want)

        return Form(kernel, shape, np.stack(number, 1), make)

    def blocked(t: Array, b: Array, c: Array, values: Array, repeat: bool, y: Array) -> tuple:
        index = (b * channels + c).astype(np.uint16)
        found = index
        if not repeat:
            found = np.zeros(len(index), EVENT)
            found["index"], found["value"] = index, values[t, b, c]
        starts = np.searchsorted(t, np.arange(taps + 1)).astype(np.uint32)
        room = np.zeros((taps, bins + 1), np.uint32)
        sizes = (taps, bins, channels, width, stride, width * channels, stride * channels)
        sizes = (*sizes, taps * width * channels, positions, outputs)
        return (w_packed, found, starts, room, start, y, *sizes)

    def listed(kernel: str, values: Array, repeat: bool) -> Form:
        """The list that plain loops read, of what neurons made of each frame."""
        weight = values.astype(np.int64) if repeat else (values != 0).astype(np.int64)
        bins_of_taps = np.where(weight.sum(3) > 0, np.arange(bins), 0).max(2).sum(1)
        number = np.stack([weight.sum((1, 2, 3)), bins_of_taps], 1)

        def make(n: int) -> Sample:
            t, b, c = np.nonzero(values[n])
            times = values[n, t, b, c] if repeat else np.ones(len(t), int)
            found = np.zeros(int(times.sum()), EVENT)
            found["index"] = np.repeat(b * channels + c, times)
            found["value"] = np.repeat(values[n, t, b, c], times)
            starts = np.searchsorted(np.repeat(t, times), np.arange(taps + 1)).astype(np.uint32)
            given = found["index"].copy() if repeat else found
            return Sample(Call(kernel, (given, starts, np.zeros(len(found), CONV_EVENT), *sizes)))

        sizes = taps, channels
        return Form(kernel, (taps, channels), number, make)

    product |= ops.by_loops(lambda loop: event(f"conv_event{loop}", xq, False), "event", "spike")
    lists = ops.of_kinds(event=(of_events := listed("conv_list", xq, False)), spike=of_events)
    if counts is not None:
        kinds = ["spike"]
        of_spikes = listed("conv_list_spike", counts, True)
        lists |= ops.of_kinds(spike=of_spikes)
        if counts.max(initial=0) <= 1:
            lists |= ops.of_kinds(event=of_spikes)
            kinds.append("event")
        else:
            # frames have different units, which multiply the sums of each tap before they add up
            none, units = np.zeros(positions * outputs), np.ones(len(flat))
            form = ops.requantize_units(flat, units, scales, none)
            for tap in range(1, taps):
                extra = Site(f"{name}.tap{tap}", part, 0, ops.everywhere(form))
                more = ops.add(f"{name}.tap{tap}.add", part, 0, flat.astype(np.float64))
                for site in (extra, more):
                    sites.append(ops.stand_for_all(site.only(*kinds), frames))
            first = ops.stand_for_all(Site("", part, 0, ops.of_kinds(spike=form)), frames)
            sites[1] = ops.merge(sites[1], first)
        product |= ops.by_loops(lambda loop: event(f"conv_spike{loop}", counts, True), *kinds)
    # blocked loops find their events themselves
    plain = {coding: form for coding, form in lists.items() if not coding.endswith("_blocked")}
    return [*sites, Site(f"{name}.list", part, 0, plain)]


def _turns(spikes: Array, width: int, stride: int, positions: int) -> Array:
    """Return how often the blocked spike kernel adds up, for spikes ``(frames, taps, bins)``."""
    before = np.pad(spikes.cumsum(2), ((0, 0), (0, 0), (1, 0)))
    first = np.arange(positions) * stride
    return -(-(before[:, :, first + width] - before[:, :, first]) // SPIKES_A_TURN).sum((1, 2))


def depthwise(
    name: str,
    layer: int,
    w: Array,
    bias: Array,
    x: Array,
    events: Events | None = None,
    over: Callable[[Array], Array] = np.asarray,
) -> list[Site]:
    """Return the sites of a depthwise convolution over time.

    Frames of spikes may have different units: an event's value is multiplied by that of its frame
    once, when it is made, and kept for all taps; spikes in slots bring it with each addition.

    Args:
        name: of the module.
        layer: block.
        w: ``(taps, channels)``, the oldest first.
        bias: ``(channels,)``.
        x: windows ``(frames, taps, channels)``.
        events: the input, of each frame once; None if it is dense.
        over: values ``(frames, C)`` -> their windows ``(frames, taps, C)``.
    """
    taps, channels = w.shape
    wq, sw = ops.quantise_weight(w, 1)
    limit = ops.headroom(wq, (0,))
    xq, sx = ops.quantise(x, limit, ops.with_bias(x, bias, sw, limit))
    w8, start = ops.frozen(wq), ops.frozen(np.round(bias / (sw * sx)).astype(np.int32))

    def reference(n: int) -> Array:
        return (w * x[n]).sum(0) + bias

    def form(loop: str) -> Form:
        kernel = f"depthwise_dense{loop}"

        def make(n: int) -> Sample:
            args = (w8, xq[n].copy(), start, np.zeros(channels, np.int32), taps, channels)
            return Sample(Call(kernel, args), -1, sw * sx, reference(n))

        return Form(kernel, (taps, channels), ops.no_events(len(x)), make)

    some = xq[:: max(len(xq) // ops.SOME, 1)]
    sums = (wq.astype(np.int64) * some).sum(1) + start
    forms = ops.by_loops(form, *ops.KINDS)
    site = Site(name, "conv1d", layer, forms)
    requantized = ops.requantize_outputs(f"{name}.requantize", "conv1d", layer, sums, sw * sx)
    sites = [site, ops.stand_for_all(requantized, len(x))]
    if events is None:
        return sites
    folded, se = ops.quantise_weight(w * events.channel, 1)
    by_channel = ops.frozen(folded)
    units = over(events.frame[:, None])[:, :, 0]
    counts = over(events.counts).astype(np.int64)
    same = events.one_unit
    largest = float((events.counts * events.frame[:, None]).max(initial=0)) or 1.0
    room = ops.headroom(folded, (0,)) / 2
    unit = events.frame[0] if same else largest / min(room, ops.INT16)
    # what an event of each tap's frame is multiplied by
    of_frame = np.ones(units.shape) if same else np.round(units / unit)
    of_frame = of_frame.clip(0, ops.INT16).astype(np.int64)
    level = np.round(bias / (se * unit)).clip(-(2**29), 2**29).astype(np.int32)
    begin = ops.frozen(level)

    def lists(n: int, values: Array) -> tuple[Array, Array]:
        found = [to_events(row) for row in values]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in found])])
        return np.concatenate(found), starts.astype(np.uint32)

    def event(n: int) -> Sample:
        made, starts = lists(n, (counts[n] * of_frame[n][:, None]).astype(np.int16))
        args = (by_channel, made, starts, begin, np.zeros(channels, np.int32), taps, channels)
        return Sample(Call("depthwise_event", args), -1, se * unit, reference(n))

    def spike(n: int) -> Sample:
        made, starts = lists(n, counts[n].astype(np.int16))
        index = np.repeat(made["index"], made["value"])
        times = np.concatenate([[0], np.cumsum(made["value"].astype(np.int64))])
        starts, y = times[starts].astype(np.uint32), np.zeros(channels, np.int32)
        args = (by_channel, index, starts, begin, y, taps, channels)
        if not same:
            args = (by_channel, index, starts, of_frame[n].astype(np.int16), *args[3:])
        return Sample(Call(spikes_kernel, args), -1, se * unit, reference(n))

    spikes_kernel = "depthwise_spike" if same else "depthwise_scaled"
    number, shape = np.count_nonzero(counts, (1, 2))[:, None], (taps, channels)
    slots = counts.sum((1, 2))[:, None]
    as_events = Form("depthwise_event", shape, number, event)
    as_spikes = Form(spikes_kernel, shape, slots, spike)
    forms |= ops.of_kinds(event=as_events, spike=as_spikes if events.spiking else as_events)
    if events.spiking and not same:
        sites.append(_scale(f"{name}.unit", layer, events, unit).only("event"))
    return sites


def _scale(name: str, layer: int, events: Events, unit: float) -> Site:
    """Return the site that multiplies the events of a frame by the frame's unit."""
    of_frame = np.round(events.frame / unit).clip(0, ops.INT16).astype(np.int64)

    def make(n: int) -> Sample:
        found = to_events(events.counts[n])
        return Sample(Call("scale_events", (found, len(found), int(of_frame[n]))))

    form = Form("scale_events", (), events.number(), make)
    return Site(name, "conv1d", layer, ops.everywhere(form))


def imls(
    name: str,
    part: str,
    layer: int,
    x: Array,
    counts: Array,
    alpha: Array,
    levels: int,
    level: float,
    planes: bool,
) -> Site:
    """Return the site of an IMLS neuron; its dense twin is a ReLU.

    Args:
        name: of the module.
        part: kind of sub-module.
        layer: block.
        x: ``(frames, n)``.
        counts: spikes that the float neuron gave, like x.
        alpha: threshold factor of each value ``(n,)``.
        levels: largest count.
        level: of every frame; 0: the frame's mean magnitude.
        planes: its events are read by linear layers alone, whose blocked loops take them as a list
            for each bit of the counts.
    """
    q, sx = ops.quantise(x, ops.INT16)
    n = x.shape[1]
    inverse = ops.frozen(np.round(1024 / alpha).clip(1, 65535).astype(np.uint16))
    fixed = round(level / sx) if level else 0
    number = np.count_nonzero(counts, 1)[:, None]
    spikes = counts.sum(1, dtype=np.int64)[:, None]

    def form(kernel: str, room: type | np.dtype, size: int, events: Array) -> Form:
        def make(row: int) -> Sample:
            found = np.zeros(size, room), np.zeros(1, np.uint32)
            call = Call(kernel, (q[row].copy(), inverse, *found, n, levels, fixed))
            return Sample(call, 2, 1.0, counts[row], events=True)

        return Form(kernel, (n, levels), events, make)

    def lists(row: int) -> Sample:
        bits = levels.bit_length()
        found = np.zeros((bits, n), np.uint16), np.zeros(bits, np.uint32)
        call = Call("imls_planes", (q[row].copy(), inverse, *found, n, bits, levels, fixed))
        return Sample(call, 2, 1.0, counts[row], events=True)

    forms = ops.of_kinds(
        dense=ops.relu(x),
        event=form("imls", EVENT, n, number),
        spike=form("imls_spikes", np.uint16, n * levels, np.concatenate([number, spikes], 1)),
    )
    if planes and levels < 2**PLANES:
        bits = ops.bits(counts).sum(1)[:, None]
        listed = np.concatenate([number, bits], 1)
        forms["event_blocked"] = Form("imls_planes", (n, levels), listed, lists)
    return Site(name, part, layer, forms)


def lif(
    name: str, layer: int, x: Array, before: Array, spikes: Array, tau: float, v_th: float,
    reset: str, decay_input: bool,
) -> Site:  # fmt: skip
    """Return the site of a LIF neuron over frames: x and the potential before, ``(frames, n)``.

    Raises:
        UserError: the time constant is no power of two.
    """
    shift = round(np.log2(tau))
    if 2**shift != tau:
        raise UserError(f"{name}: tau {tau} is no power of two; the kernel shifts", "see neurons.c")
    kernel = f"lif_{reset}" + ("" if decay_input else "_full_input")
    n, largest = x.shape[1], max(np.abs(x).max(initial=0), np.abs(before).max(initial=0), v_th)
    xq, sx = ops.quantise(x, largest=largest)
    vq, _ = ops.quantise(before, largest=largest)

    def make(row: int) -> Sample:
        room = np.zeros(n, np.uint16), np.zeros(1, np.uint32)
        at = round(v_th / sx)
        h = (
            before[row] + (x[row] - before[row]) / tau
            if decay_input
            else (before[row] * (1 - 1 / tau) + x[row])
        )
        want = np.where(h >= v_th, h - v_th if reset == "soft" else 0.0, h)
        return Sample(
            Call(kernel, (xq[row].copy(), vq[row].copy(), *room, n, at, shift)), 1, sx, want
        )

    number = np.count_nonzero(spikes, 1)[:, None]
    return Site(name, "neuron", layer, ops.everywhere(Form(kernel, (n,), number, make)))


def gate(y: Array, g: Array) -> Form:
    """Return the form of a dense product y * g ``(frames, n)``."""
    (yq, sy), (gq, sg) = ops.quantise(y), ops.quantise(g)
    n, shift = y.shape[1], _product_shift(yq, gq)

    def make(row: int) -> Sample:
        args = (yq[row].copy(), gq[row].copy(), np.zeros(n, np.int16), n, shift)
        return Sample(Call("gate", args), -1, sy * sg * 2**shift, y[row] * g[row])

    return Form("gate", (n,), ops.no_events(len(y)), make)


def _product_shift(y: Array, g: Array) -> int:
    """Return by how many bits int16 products have to be shifted so that the largest fits again.

    Seldom are both factors large at once: 15 bits would leave few of the product's.
    """
    largest = int(np.abs(y.astype(np.int64) * g).max(initial=0))
    return max(largest.bit_length() - 15, 0)


def gate_events(y: Array, g: Array, T: float) -> Form:
    """Return the form of y * g on the events of g, with a FATReLU of threshold T on it."""
    (yq, sy), (gq, sg) = ops.quantise(y), ops.quantise_events(g)
    n, shift = y.shape[1], _product_shift(yq, gq)
    at = max(int(np.ceil(T / (sy * sg * 2**shift))), 1)
    kept = (gq != 0) & ((yq.astype(np.int64) * gq >> shift) >= at)
    number = np.stack([np.count_nonzero(gq, 1), kept.sum(1)], 1)

    def make(row: int) -> Sample:
        found = to_events(gq[row])
        room = np.zeros(n, EVENT), np.zeros(1, np.uint32)
        return Sample(Call("gate_event", (yq[row].copy(), found, *room, len(found), shift, at)))

    return Form("gate_event", (), number, make)


def gate_spikes(a: Array, b: Array) -> Form:
    """Return the form of the product of two spike vectors ``(frames, n)``."""
    n = a.shape[1]
    number = np.stack([merged(*pair) for pair in zip(a, b, strict=True)])

    def make(row: int) -> Sample:
        one, two = (np.flatnonzero(x[row]).astype(np.uint16) for x in (a, b))
        room = np.zeros(n, np.uint16), np.zeros(1, np.uint32)
        return Sample(Call("gate_spike", (one, two, *room, len(one), len(two))))

    return Form("gate_spike", (), number, make)


def merged(a: Array, b: Array) -> tuple[int, int, int]:
    """Return the steps of ``gate_spike`` on two spike vectors ``(n,)``.

    Spikes of a alone, of b alone and of both that it passes until one of its lists ends.
    """
    if not a.any() or not b.any():
        return 0, 0, 0
    last = min(int(np.flatnonzero(x)[-1]) for x in (a, b)) + 1
    both = int(np.count_nonzero(a[:last] * b[:last]))
    one, other = (int(np.count_nonzero(x[:last])) - both for x in (a, b))
    return one, other, both


class Scan:
    """The selective scan of one direction, over the frames of all utterances.

    Args:
        u, delta: ``(frames, E)``.
        A: ``(E, N)``, negative.
        B, C: ``(frames, N)``.
        D: ``(E,)``.
        keys: where utterances start.
    """

    def __init__(
        self, u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array, keys: Keys
    ) -> None:
        self.u, self.delta, self.A, self.B, self.C, self.D, self.keys = u, delta, A, B, C, D, keys

    def states(self, n: int) -> tuple[Array, Array]:
        """Return the state before and after a frame ``(E, N)``."""
        span, _ = self.keys.of(n)
        h = np.zeros(self.A.shape)
        for t in range(span.start, n + 1):
            before = h
            added = (self.delta[t] * self.u[t])[:, None] * self.B[t]
            h = np.exp(self.delta[t][:, None] * self.A) * before + added
        return before, h

    def sample(self, n: int, kernel: str) -> Sample:
        """Return the call of a frame to one of the scan's kernels."""
        channels, states = self.A.shape
        before, after = self.states(n)
        (uq, su), (bq, sb) = ops.quantise(self.u[n]), ops.quantise_events(self.B[n])
        cq, sc = ops.quantise_events(self.C[n])
        kd, ka = _binary_units(self.delta[n], 15), _binary_units(self.A, 16)
        kd = max(kd, 20 - ka)
        dq = np.round(self.delta[n] * 2.0**kd).clip(0, 32767).astype(np.int16)
        product = np.abs(dq.astype(np.int64) * uq).max(initial=1)
        input_shift = max(int(product).bit_length() - 15, 0)
        unit = su * 2.0 ** (input_shift - kd) * sb
        want = (after * self.C[n]).sum(1) + self.D * self.u[n]
        # the state, and the output in its unit, have to fit
        largest = max(np.abs(before).max(), np.abs(after).max(), 1e-12) * states
        outside = max(np.abs(want).max(), np.abs(self.D * self.u[n]).max()) / (sc * 2.0**16)
        fit = max(largest, outside) / unit / 2.0**28
        state_shift = min(max(int(np.ceil(np.log2(max(fit, 1.0)))), 0), 31)
        sh = unit * 2.0**state_shift
        sy = sh * sc * 2.0**16
        d = ops.frozen(np.round(self.D * su / sy).clip(-(2.0**30), 2.0**30).astype(np.int32))
        a = ops.frozen(np.round(-self.A * 2.0**ka).clip(0, 65535).astype(np.uint16))
        h = np.round(before / sh).astype(np.int32)
        y = np.zeros(channels, np.int32)
        sizes = (channels, states, input_shift, state_shift)
        if kernel.endswith("_blocked"):
            cells, blend = np.zeros(h.shape, CELL), np.zeros(states, BLEND)
            cells["h"], cells["a"], blend["b"], blend["c"] = h, a, bq, cq.astype(np.int32) << 16
            step = kd + ka - 6  # bits of a 64th, the step of the table
            limit = min(len(FADING) << step, 2**32 - 1)
            args = (uq, dq, cells, blend, d, FADING, y, *sizes, step, limit)
            return Sample(Call(kernel, args), 6, sy, want)
        args = (uq, dq, a, bq, cq, d, TABLE, h, y, *sizes, kd + ka - 20)
        if kernel == "scan_event":
            found = to_events(bq), to_events(cq)
            args = (*args, *found, *map(len, found))
        return Sample(Call(kernel, args), 8, sy, want)

    def lasting(self) -> Array:
        """Return how many states of every frame are not forgotten at once ``(frames, 0 or 1)``.

        Their decay exp(delta A) is more than nothing, and costs a few cycles. Where nearly all
        last, as they mostly do, their number is left out.
        """
        number = np.array(
            [np.sum(-self.A < (16 / np.maximum(d, 1e-9))[:, None]) for d in self.delta]
        )
        all_last = number.min() > 0.99 * self.A.size
        return ops.no_events(len(number)) if all_last else number[:, None]

    def site(self, name: str, layer: int) -> Site:
        """Return the site; it has events where u, B or C have zeros."""
        shape, lasting = self.A.shape, self.lasting()

        def form(kernel: str, events: Array) -> Form:
            number = np.concatenate([events, lasting], 1)
            # layers in which states are forgotten have a cost function of their own
            key = (*shape, lasting.shape[1])
            return Form(kernel, key, number, lambda n: self.sample(n, kernel))

        def dense(loop: str) -> Form:
            plain = "_blocked" if loop == "_blocked" else ""
            return form(f"scan_dense{plain}", ops.no_events(len(self.u)))

        def event(loop: str) -> Form:
            plain = "_blocked" if loop == "_blocked" else ""
            return form(f"scan_event{plain}", np.stack([active, active * nb, nc], 1))

        active, nb, nc = (np.count_nonzero(x, 1) for x in (self.u, self.B, self.C))
        forms = ops.by_loops(dense, *ops.KINDS)
        shares = np.concatenate([active / shape[0], nb / shape[1], nc / shape[1]])
        if (shares <= 0.98).any():
            forms |= ops.by_loops(event, "event", "spike")
        return Site(name, "scan", layer, forms)


def _binary_units(x: Array, bits: int) -> int:
    """Return k so that x in units of 2^-k fills that many bits."""
    return int(np.floor(bits - np.log2(max(np.abs(x).max(), 1e-6) * 1.0001)))
