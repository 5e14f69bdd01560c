"""Operations of an encoder as kernel calls: quantisation, codings, numbers of events.

A ``Site`` is one operation of the network, done once for every frame. It has a ``Form`` for each
coding of the network: which kernel does it, how many events every frame has, and how to make the
call of one frame from the real activations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from espnet_spike.simulator.kernels import EVENT, PLANES, SPIKES_A_TURN, pack, to_events
from espnet_spike.simulator.machine import Call

# dense, event-driven with one product an event, and binary spikes that are only added
KINDS = ("dense", "event", "spike")
# loops as they are written; four steps a turn; several outputs in registers, the best on this core
LOOPS = ("", "_unrolled", "_blocked")
CODINGS = tuple(kind + loop for kind in KINDS for loop in LOOPS)
INT16 = 32000  # a little less than the range: rounding stays inside
SOME = 32
SCALES = 32  # most that scales of a layer's outputs differ by
Array = np.ndarray


@dataclass(frozen=True)
class Sample:
    """The call of one frame and the float layer's result for it.

    Attributes:
        call: the call.
        output: place of the result among the call's arrays.
        scale: what one unit of the result is worth; a number or an array.
        reference: the float result; None where the kernel has no float counterpart of its own.
        events: the output is a list of events with its length behind it, or of spikes, or lists
            of the bits of counts.
    """

    call: Call
    output: int = -1
    scale: float | Array = 1.0
    reference: Array | None = None
    events: bool = False

    def squares(self, arrays: Sequence[Array]) -> Array | None:
        """Return the sums of squares of the difference from the float layer, and of the layer."""
        if self.reference is None:
            return None
        want = np.asarray(self.reference, np.float64)
        got = arrays[self.output]
        if self.events:
            lengths, lists = arrays[self.output + 1], got.reshape(-1, got.shape[-1])
            got = np.zeros(want.size, np.int64)
            for plane, (row, length) in enumerate(zip(lists, lengths, strict=True)):
                found = row[: int(length)]
                spikes = found.dtype == np.uint16
                value = 1 << plane if spikes else found["value"]
                np.add.at(got, found if spikes else found["index"], value)
        got = got.astype(np.float64) * self.scale
        want = want.reshape(got.shape)
        return np.array([((got - want) ** 2).sum(), (want**2).sum()])


@dataclass(frozen=True, eq=False)
class Form:
    """How a site runs in one coding.

    Attributes:
        kernel: of the firmware.
        shape: sizes that decide the cost, beside the events.
        events: ``(frames, k)``, the k numbers that the cost is affine in; k = 0: it is fixed.
        make: frame -> its call.
    """

    kernel: str
    shape: tuple[int, ...]
    events: Array
    make: Callable[[int], Sample]

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """Forms with the same key share their cost function."""
        return self.kernel, self.shape


@dataclass(frozen=True)
class Site:
    """One operation of the network.

    Attributes:
        name: the module.
        part: kind of sub-module, for tables.
        layer: 1-based block; 0 for the front end and what follows the blocks.
        forms: coding -> form; a coding that is missing does without the operation.
        inputs: values that a weight layer reads a frame; 0 for all else.
    """

    name: str
    part: str
    layer: int
    forms: dict[str, Form] = field(default_factory=dict)
    inputs: int = 0

    def only(self, *kinds: str) -> "Site":
        """Return the site without the codings of other kinds."""
        forms = {name: self.forms[name] for name in codings(*kinds) if name in self.forms}
        return Site(self.name, self.part, self.layer, forms, self.inputs)


def everywhere(form: Form) -> dict[str, Form]:
    """Return the same form for all codings."""
    return dict.fromkeys(CODINGS, form)


def codings(*kinds: str) -> tuple[str, ...]:
    """Return the codings of some kinds."""
    return tuple(kind + loop for kind in kinds for loop in LOOPS)


def by_loops(form: Callable[[str], Form], *kinds: str) -> dict[str, Form]:
    """Return the form of each loop, ``form("")`` to ``form("_blocked")``, for codings of kinds."""
    forms = {loop: form(loop) for loop in LOOPS}
    return {kind + loop: forms[loop] for kind in kinds for loop in LOOPS}


def of_kinds(**kinds: Form) -> dict[str, Form]:
    """Return forms by kind of coding (dense, event, spike), the same for all loops."""
    return {kind + loop: form for kind, form in kinds.items() for loop in LOOPS}


def no_events(frames: int) -> Array:
    """Return the events of an operation whose cost is fixed."""
    return np.zeros((frames, 0))


def frozen(array: Array) -> Array:
    """Mark an array as shared by calls."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def quantise(x: Array, limit: float = INT16, largest: float | None = None) -> tuple[Array, float]:
    """Return x as int16 of at most ``limit``, and its scale; ``largest`` instead of max |x|."""
    largest = float(np.abs(x).max(initial=0)) if largest is None else largest
    scale = (largest or 1.0) / limit  # zeros have any scale
    return np.clip(np.round(x / scale), -32768, 32767).astype(np.int16), scale


def quantise_events(
    x: Array, limit: float = INT16, largest: float | None = None
) -> tuple[Array, float]:
    """Return ``quantise``'s result in which nothing becomes zero that was not."""
    q, scale = quantise(x, limit, largest)
    lost = (q == 0) & (x != 0)
    q[lost] = np.sign(x[lost]).astype(np.int16)
    return q, scale


def quantise_weight(w: Array, output: int = 0) -> tuple[Array, Array]:
    """Return w as int8, and the scale of each output ``(outputs,)``; ``output`` is its axis.

    No output has less than a 32nd of the largest scale: its bias has to fit the accumulator, too.
    """
    size = np.abs(w).max(tuple(axis for axis in range(w.ndim) if axis != output), initial=0)
    scale = np.maximum(size, max(float(size.max()), 1e-12) / SCALES) / 127
    shape = [len(scale) if axis == output else 1 for axis in range(w.ndim)]
    return np.round(w / scale.reshape(shape)).astype(np.int8), scale


def headroom(wq: Array, axes: tuple[int, ...]) -> float:
    """Return the largest activation with which no sum over ``axes`` leaves 32 bits."""
    total = float(np.abs(wq.astype(np.int64)).sum(axes).max(initial=1))
    return float(min(INT16, 2.0**30 / max(total, 1.0)))


def with_bias(x: Array, bias: Array, sw: Array, limit: float) -> float:
    """Return the ``largest`` of ``quantise`` with which the accumulators hold the bias, too."""
    return max(float(np.abs(x).max(initial=0)), float(np.abs(bias / sw).max()) * limit / 2.0**29)


def rescale(factor: float) -> tuple[int, int]:
    """Return multiplier and shift with which ``requantize`` multiplies by ``factor`` < 1/4."""
    shift, multiplier = 1, factor * 2.0**33
    while multiplier < 2**29 and shift < 30:
        multiplier, shift = multiplier * 2, shift + 1
    return int(min(multiplier, 2**31 - 1)), shift


@dataclass(frozen=True)
class Events:
    """A sparse input of a weight layer: x[n] = frame[n] * channel * counts[n].

    Attributes:
        counts: integers ``(frames, n)``; 0 is no event.
        frame: ``(frames,)``.
        channel: ``(n,)``.
        spiking: counts are numbers of spikes, not quantised values.
    """

    counts: Array
    frame: Array
    channel: Array
    spiking: bool = True

    @classmethod
    def of(cls, x: Array) -> "Events":
        """Quantise real values with exact zeros ``(frames, n)``."""
        q, scale = quantise_events(x)
        return cls(q, np.full(len(x), scale), np.ones(x.shape[1]), False)

    @property
    def one_unit(self) -> bool:
        """Whether events of all frames have the same unit."""
        return bool(np.all(self.frame == self.frame[0]))

    @property
    def binary(self) -> bool:
        """Whether every event is a single spike."""
        return self.spiking and self.counts.max(initial=0) <= 1

    def number(self) -> Array:
        """Return the events of every frame ``(frames, 1)``."""
        return np.count_nonzero(self.counts, 1)[:, None]

    def spikes(self) -> Array:
        """Return the spikes of every frame ``(frames, 1)``."""
        return self.counts.sum(1, dtype=np.int64)[:, None]


def bits(counts: Array, by_plane: bool = False) -> Array:
    """Return how many bits of counts ``(frames, n)`` are set, or each: ``(bits, frames, n)``."""
    number = max(int(counts.max(initial=0)).bit_length(), 1)
    planes = np.stack([counts >> plane & 1 for plane in range(number)])
    return planes if by_plane else planes.sum(0)


def linear(
    name: str, part: str, layer: int, w: Array, bias: Array | None, x: Array, events: Events | None
) -> list[Site]:
    """Return the sites of a linear layer: the product and its requantisation.

    Args:
        name: of the module.
        part: kind of sub-module.
        layer: block.
        w: ``(outputs, inputs)``.
        bias: ``(outputs,)`` or None.
        x: real input ``(frames, inputs)``.
        events: the same as events; None if it is dense.
    """
    outputs, inputs = w.shape
    wq, sw = quantise_weight(w)
    wide, limit = np.zeros(outputs) if bias is None else bias, headroom(wq, (1,))
    xq, sx = quantise(x, limit, with_bias(x, wide, sw, limit))
    start = frozen(np.round(wide / (sw * sx)).clip(-(2**29), 2**29).astype(np.int32))
    w_dense, w_packed = frozen(wq), frozen(pack(wq))

    def dense(loop: str) -> Form:
        kernel, weights = f"linear_dense{loop}", w_packed if loop == "_blocked" else w_dense

        def make(n: int) -> Sample:
            args = (weights, xq[n].copy(), start, np.zeros(outputs, np.int32), inputs, outputs)
            return Sample(Call(kernel, args), -1, sw * sx, w @ x[n] + wide)

        return Form(kernel, (inputs, outputs), no_events(len(x)), make)

    product = by_loops(dense, *KINDS)
    sites = [Site(name, part, layer, product, inputs)]
    # accumulators of some frames are enough: the cost of turning them into activations is fixed
    some = xq[:: max(len(xq) // SOME, 1)].astype(np.int64)
    sums = some @ wq.T.astype(np.int64) + start
    requantized = requantize_outputs(f"{name}.requantize", part, layer, sums, sw * sx)
    sites.append(stand_for_all(requantized, len(x)))
    if events is None:
        return sites
    folded, se = quantise_weight(w * events.channel)
    by_input, packed = frozen(folded.T), frozen(pack(folded))
    spiking = events.spiking
    # where frames have units of their own, sums get them first, and the bias after that
    first = np.round(wide / (se * events.frame[0]))
    starts = events.one_unit and float(np.abs(first).max()) < 2**29
    inside = wide if starts else np.zeros(outputs)
    begin = frozen((first if starts else inside).astype(np.int32))

    def reference(n: int) -> tuple[float, Array]:
        want = w @ (events.channel * events.counts[n]) * events.frame[n]
        return se * events.frame[n], want + inside

    def event(loop: str) -> Form:
        def make(n: int) -> Sample:
            found, y = to_events(events.counts[n]), np.zeros(outputs, np.int32)
            args = (by_input, found, begin, y, len(found), outputs)
            if loop == "_blocked":
                args = (packed, found, begin, y, len(found), inputs, outputs)
            return Sample(Call(f"linear_event{loop}", args), -1, *reference(n))

        return Form(f"linear_event{loop}", (outputs,), events.number(), make)

    def spike(loop: str) -> Form:
        rows = frozen((np.arange(inputs) * outputs).astype(np.uint32))

        def make(n: int) -> Sample:
            index = np.repeat(np.arange(inputs), events.counts[n]).astype(np.uint16)
            y = np.zeros(outputs, np.int32)
            args = (by_input, rows, index, begin, y, len(index), outputs)
            if loop == "_blocked":
                args = (packed, index, begin, y, len(index), inputs, outputs)
            return Sample(Call(f"linear_spike{loop}", args), -1, *reference(n))

        return Form(f"linear_spike{loop}", (outputs,), events.spikes(), make)

    def planes() -> Form:
        turns = -(-bits(events.counts, by_plane=True).sum(2) // SPIKES_A_TURN)
        many = events.spikes()[:, 0] > SPIKES_A_TURN
        number = np.stack([bits(events.counts).sum(1), many * turns.sum(0), many], 1)

        def make(n: int) -> Sample:
            many = bits(events.counts, by_plane=True)[:, n]
            lists, lengths = np.zeros((len(many), inputs), np.uint16), many.sum(1)
            for plane, row in enumerate(many):
                lists[plane, : lengths[plane]] = np.flatnonzero(row)
            args = (packed, lists, lengths.astype(np.uint32), begin, np.zeros(outputs, np.int32))
            args = (*args, len(many), inputs, outputs)
            return Sample(Call("linear_planes_blocked", args), 4, *reference(n))

        return Form("linear_planes_blocked", (inputs, outputs), number, make)

    if events.binary:  # one spike an event: nothing to multiply
        product |= by_loops(spike, "event", "spike")
    elif spiking:
        product |= by_loops(event, "event") | by_loops(spike, "spike")
        if events.counts.max() < 2**PLANES:
            product["event_blocked"] = planes()
    else:  # real values cannot be added up without a product
        product |= by_loops(event, "event", "spike")
    if not starts:
        sums = events.counts[:: max(len(x) // SOME, 1)].astype(np.int64) @ folded.T.astype(np.int64)
        units = events.frame[:: max(len(x) // SOME, 1)]
        form = requantize_units(sums, units, se, wide)
        last = Site(f"{name}.requantize", part, layer, of_kinds(event=form, spike=form))
        sites[1] = merge(sites[1], stand_for_all(last, len(x)))
    return sites


def requantize(name: str, part: str, layer: int, sums: Array) -> Site:
    """Return the site that turns accumulators ``(frames, n)`` into activations."""
    n = sums.shape[1]
    factor = min(INT16 / max(float(np.abs(sums).max(initial=0)), 1.0), 0.24)
    multiplier, shift = rescale(factor)

    def make(row: int) -> Sample:
        x = sums[row].clip(-(2**31), 2**31 - 1)
        args = (x.astype(np.int32), np.zeros(n, np.int16), n, multiplier, shift)
        return Sample(Call("requantize", args), -1, 1 / factor, x)

    return Site(name, part, layer, everywhere(Form("requantize", (n,), no_events(len(sums)), make)))


def merge(site: Site, other: Site) -> Site:
    """Return a site with the forms of another in place of its own."""
    return Site(site.name, site.part, site.layer, site.forms | other.forms, site.inputs)


def requantize_outputs(name: str, part: str, layer: int, sums: Array, scale: Array) -> Site:
    """Return the site that turns accumulators into activations, each output with its scale.

    Args:
        name: of the site.
        part: kind of sub-module.
        layer: block.
        sums: ``(frames, n)``.
        scale: what a unit of each accumulator is worth ``(n,)``.
    """
    n, real = sums.shape[1], sums * scale
    unit = max(float(np.abs(real).max(initial=0)) / INT16, float(scale.max()) / 0.24)
    multiplier, shift = rescale_outputs(scale / unit)

    def make(row: int) -> Sample:
        x = sums[row].clip(-(2**31), 2**31 - 1).astype(np.int32)
        args = (x, np.zeros(n, np.int16), multiplier, n, shift)
        return Sample(Call("requantize_outputs", args), 1, unit, real[row])

    form = Form("requantize_outputs", (n,), no_events(len(sums)), make)
    return Site(name, part, layer, everywhere(form))


def requantize_units(sums: Array, frame: Array, scale: Array, bias: Array) -> Form:
    """Return the form that also multiplies by the unit of the frame, and adds the bias.

    Args:
        sums: accumulators ``(frames, n)``.
        frame: units ``(frames,)``.
        scale: what a unit of each accumulator is worth, over that of the frame ``(n,)``.
        bias: ``(n,)``.
    """
    n = sums.shape[1]
    want = sums * scale * frame[:, None] + bias
    sy = max(float(np.abs(want).max(initial=0)), float(np.abs(bias).max()), 1e-12) / INT16
    largest = max(float(np.abs(sums * scale).max(initial=0)), 1e-12)
    inner = max(largest / INT16, float(scale.max()) / 0.24)
    multiplier, shift = rescale_outputs(scale / inner)
    # unit / 2^down of the frame turns what the multiplier gives into the output's unit
    factor = frame * inner / sy
    down = int(np.clip(15 - np.ceil(np.log2(max(float(factor.max()), 1e-9))), 0, 15))
    unit = np.round(factor * 2.0**down).clip(0, 32767).astype(np.int64)
    offset = frozen(np.round(bias / sy).clip(-32768, 32767).astype(np.int16))

    def make(row: int) -> Sample:
        x = sums[row].clip(-(2**31), 2**31 - 1).astype(np.int32)
        args = (x, np.zeros(n, np.int16), multiplier, offset, n, shift, int(unit[row]), down)
        return Sample(Call("requantize_units", args), 1, sy, want[row])

    return Form("requantize_units", (n,), no_events(len(sums)), make)


def rescale_outputs(factors: Array) -> tuple[Array, int]:
    """Return multipliers and the shift they share, as ``rescale`` does for one factor."""
    _, shift = rescale(float(factors.max()))
    wide = np.round(factors * 2.0 ** (32 + shift)).clip(0, 2**31 - 1)
    return frozen(wide.astype(np.int32)), shift


def stand_for_all(site: Site, frames: int) -> Site:
    """Let a fixed-cost site whose operands were made for some frames stand for all."""
    forms = {}
    for coding, form in site.forms.items():
        some = len(form.events)
        made = lambda n, form=form, some=some: form.make(n % some)  # noqa: E731
        forms[coding] = Form(form.kernel, form.shape, no_events(frames), made)
    return Site(site.name, site.part, site.layer, forms)


def add(name: str, part: str, layer: int, y: Array) -> Site:
    """Return the site that adds y ``(frames, n)`` to as many values."""
    q, scale = quantise(y, INT16 / 2)
    n = y.shape[1]

    def make(row: int) -> Sample:
        x = np.roll(q, 1, 0)[row].copy()
        call = Call("add", (x, q[row].copy(), n))
        return Sample(call, 0, scale, (x.astype(int) + q[row]) * scale)

    return Site(name, part, layer, everywhere(Form("add", (n,), no_events(len(y)), make)))


def lookup(x: Array, function: Callable[[Array], Array]) -> Form:
    """Return the form that applies a function by table to x ``(frames, n)``."""
    q, sx = quantise(x)
    values = function((np.arange(257) * 256 - 32768) * sx)
    table, sy = quantise(values)
    table, n = frozen(table), x.shape[1]

    def make(row: int) -> Sample:
        args = (q[row].copy(), np.zeros(n, np.int16), table, n)
        return Sample(Call("lookup", args), 1, sy, function(x[row]))

    return Form("lookup", (n,), no_events(len(x)), make)


def norm(name: str, part: str, layer: int, kind: str, w: Array, b: Array | None, x: Array) -> Site:
    """Return the site of a ``layernorm`` or ``rmsnorm`` over x ``(frames, n)``."""
    q, _ = quantise(x)
    n = x.shape[1]
    shift = int(np.clip(np.floor(np.log2(INT16 / max(np.abs(w).max(), 1e-9))), 0, 14))
    weight = frozen(np.round(w * 2.0**shift).astype(np.int16))
    bias = np.zeros(n) if b is None else b
    offset = frozen(np.round(bias * 1024).clip(-32768, 32767).astype(np.int16))

    def make(row: int) -> Sample:
        v = x[row] - x[row].mean() if kind == "layernorm" else x[row]
        want = v / np.sqrt((v**2).mean() + 1e-20) * w + bias
        args = (q[row].copy(), weight, offset, np.zeros(n, np.int16), n, shift)
        return Sample(Call(kind, args), -1, 2.0**-10, want)

    return Site(name, part, layer, everywhere(Form(kind, (n,), no_events(len(x)), make)))


def affine(scale: Array, offset: Array, x: Array) -> Form:
    """Return the form of a scale and offset a channel, a batch norm in evaluation."""
    q, sx = quantise(x)
    want = x * scale + offset
    sy = max(float(np.abs(want).max(initial=0)), 1e-12) / INT16
    factors = scale * sx / sy
    shift = int(np.clip(np.floor(np.log2(INT16 / max(np.abs(factors).max(), 1e-9))), 0, 15))
    factor = frozen(np.round(factors * 2.0**shift).clip(-32768, 32767).astype(np.int16))
    start = frozen(np.round(offset / sy).clip(-32768, 32767).astype(np.int16))
    n = x.shape[1]

    def make(row: int) -> Sample:
        args = (q[row].copy(), factor, start, np.zeros(n, np.int16), n, shift)
        return Sample(Call("affine", args), -1, sy, want[row])

    return Form("affine", (n,), no_events(len(x)), make)


def threshold(x: Array, T: float, two_sided: bool) -> Form:
    """Return the form of a FATReLU over x ``(frames, n)``."""
    q, sx = quantise(x)
    kernel = "fatrelu_two_sided" if two_sided else "fatrelu"
    at, n = max(int(np.ceil(T / sx)), 1), x.shape[1]
    kept = (np.abs(q.astype(int)) if two_sided else q) >= at

    def make(row: int) -> Sample:
        args = (q[row].copy(), np.zeros(n, EVENT), np.zeros(1, np.uint32), n, at)
        want = np.where((np.abs(x[row]) if two_sided else x[row]) >= max(T, 1e-30), x[row], 0)
        return Sample(Call(kernel, args), 1, sx, want, events=True)

    return Form(kernel, (n,), np.count_nonzero(kept, 1)[:, None], make)


def relu(x: Array, T: float = 0.0) -> Form:
    """Return the form of a dense ReLU over x ``(frames, n)``, zero below T."""
    q, sx = quantise(x)
    n, at = x.shape[1], int(np.ceil(T / sx))

    def make(row: int) -> Sample:
        args = (q[row].copy(), np.zeros(n, np.int16), n, at)
        want = np.where(q[row] >= at, x[row], 0)
        return Sample(Call("relu", args), 1, sx, want)

    return Form("relu", (n,), no_events(len(x)), make)
