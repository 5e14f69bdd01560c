"""Attention as kernel calls: scores, decay or softmax, context; Spikformer's on spikes."""

from collections.abc import Callable, Sequence

import numpy as np

from espnet_spike.simulator import operations as ops
from espnet_spike.simulator.kernels import exp_table, to_events
from espnet_spike.simulator.machine import Call
from espnet_spike.simulator.operations import Array, Form, Sample, Site

TABLE = ops.frozen(exp_table())


class Keys:
    """Which utterance and place a frame belongs to, and what it attends to."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.utt = np.repeat(np.arange(len(lengths)), lengths)

    def of(self, frame: int) -> tuple[slice, int]:
        """Return the frames of a frame's utterance, and its place among them."""
        utt = self.utt[frame]
        start = int(self.starts[utt])
        return slice(start, int(self.starts[utt + 1])), frame - start

    def number(self) -> Array:
        """Return the keys of every frame ``(frames, 1)``."""
        return np.repeat(self.lengths, self.lengths)[:, None]

    def total(self, per_frame: Array) -> Array:
        """Return, for every frame, a sum over the frames of its utterance ``(frames, 1)``."""
        sums = np.add.reduceat(per_frame.reshape(-1), self.starts[:-1])
        return np.repeat(sums, self.lengths)[:, None]


def scores(name: str, layer: int, q: Array, k: Array, heads: int, keys: Keys) -> tuple[Site, float]:
    """Return the site of Q K^T and the scale of its result; q, k ``(frames, D)``."""
    head_dim = q.shape[1] // heads
    limit = min(ops.INT16, np.sqrt(2.0**30 / head_dim))
    (qq, sq), (kq, sk) = ops.quantise(q, limit), ops.quantise(k, limit)

    def form(kernel: str) -> Form:
        def make(n: int) -> Sample:
            span, _ = keys.of(n)
            count = span.stop - span.start
            s = np.zeros((heads, count), np.int32)
            args = (qq[n].copy(), kq[span].copy(), s, heads, head_dim, count)
            split = k[span].reshape(count, heads, head_dim)
            want = np.einsum("hd,khd->hk", q[n].reshape(heads, head_dim), split)
            return Sample(Call(kernel, args), -1, sq * sk, want)

        return Form(kernel, (heads, head_dim), keys.number(), make)

    forms = ops.by_loops(lambda loop: form(f"scores_dense{loop}"), *ops.KINDS)
    return Site(f"{name}.scores", "attention", layer, forms), sq * sk


def context(
    name: str,
    layer: int,
    p: "Probabilities",
    v: Array,
    counts: Array | None,
    heads: int,
    keys: Keys,
) -> Site:
    """Return the site of the weighted sum of v ``(frames, D)``; ``counts`` if v spikes."""
    dim = v.shape[1]
    head_dim = dim // heads
    vq, sv = ops.quantise(v, 8000)
    head = ops.frozen(np.repeat(np.arange(heads), head_dim).astype(np.uint8))

    def weights(n: int, largest: float) -> tuple[Array, float, slice]:
        span, _ = keys.of(n)
        weight = p(n)
        room = 2.0**30 / (max(np.abs(weight).sum(0).max(), 1e-12) * largest)
        scale = max(np.abs(weight).max() / ops.INT16, 1 / room)
        return np.round(weight / scale).astype(np.int16), scale, span

    def want(weight: Array, scale: float, values: Array) -> Array:
        split = values.reshape(len(values), heads, head_dim)
        return np.einsum("kh,khd->hd", weight * scale, split).reshape(-1)

    def dense(kernel: str) -> Form:
        def make(n: int) -> Sample:
            weight, scale, span = weights(n, 8000)
            count = len(weight)
            args = (weight, vq[span].copy(), np.zeros(dim, np.int32), heads, head_dim, count)
            return Sample(Call(kernel, args), -1, scale * sv, want(weight, scale, v[span]))

        return Form(kernel, (heads, head_dim), keys.number(), make)

    forms = ops.by_loops(lambda loop: dense(f"context_dense{loop}"), *ops.KINDS)
    if counts is not None:
        largest = max(float(np.abs(counts).max(initial=0)), 1.0)

        def sparse(kernel: str, per_frame: Array) -> Form:
            def make(n: int) -> Sample:
                weight, scale, span = weights(n, largest)
                rows = counts[span]
                found = [to_events(row) for row in rows]
                if kernel == "context_spike":
                    found = [np.repeat(e["index"], e["value"]).astype(np.uint16) for e in found]
                starts = np.concatenate([[0], np.cumsum([len(e) for e in found])]).astype(np.uint32)
                y = np.zeros(dim, np.int32)
                events = np.concatenate(found)
                args = (weight, head, events, starts, y, heads, len(rows), dim)
                return Sample(Call(kernel, args), -1, scale, want(weight, scale, rows))

            number = np.concatenate([keys.number(), keys.total(per_frame)], 1)
            return Form(kernel, (heads, dim), number, make)

        number = np.count_nonzero(counts, 1)
        forms |= ops.of_kinds(
            event=sparse("context_event", number),
            spike=sparse("context_spike", counts.sum(1, dtype=np.int64)),
        )
    return Site(f"{name}.context", "attention", layer, forms)


class Probabilities:
    """Attention weights of a frame ``(keys, heads)``, from real Q and K ``(frames, D)``."""

    def __init__(
        self, q: Array, k: Array, heads: int, keys: Keys, gamma: Array | None, row_norm: bool = True
    ) -> None:
        self.q, self.k, self.heads, self.keys, self.gamma = q, k, heads, keys, gamma
        self.row_norm = row_norm

    def scores(self, n: int) -> Array:
        """Return Q K^T of a frame ``(heads, keys)``."""
        span, _ = self.keys.of(n)
        k = self.k[span].reshape(span.stop - span.start, self.heads, -1)
        return np.einsum("hd,khd->hk", self.q[n].reshape(self.heads, -1), k)

    def decay(self, n: int) -> Array:
        """Return decay over distance times the row's normalisation ``(heads, keys)``."""
        span, place = self.keys.of(n)
        count = span.stop - span.start
        assert self.gamma is not None  # sites of decay are those of attention that has it
        powers = self.gamma[:, None] ** np.arange(count)
        if not self.row_norm:
            return powers
        total = powers[:, np.abs(np.arange(count) - place)].sum(1, keepdims=True)
        return powers / np.sqrt(np.maximum(total, 1.0))

    def __call__(self, n: int) -> Array:
        """Return the weights: decayed scores, or their softmax where there is no decay."""
        s = self.scores(n)
        if self.gamma is None:
            e = np.exp(s - s.max(1, keepdims=True))
            return (e / e.sum(1, keepdims=True)).T
        place = self.keys.of(n)[1]
        return (s * self.decay(n)[:, np.abs(np.arange(s.shape[1]) - place)]).T


class Linear(Probabilities):
    """Weights that are the scores themselves."""

    def __init__(self, q: Array, k: Array, heads: int, keys: Keys) -> None:
        super().__init__(q, k, heads, keys, None)

    def __call__(self, n: int) -> Array:
        """Return Q K^T ``(keys, heads)``."""
        return self.scores(n).T


def decay(name: str, layer: int, p: Probabilities) -> Site:
    """Return the site that fades scores with distance."""
    heads = p.heads

    def make(n: int) -> Sample:
        s = p.scores(n)
        scale = max(np.abs(s).max(), 1e-12) / 2**29
        _, place = p.keys.of(n)
        count = s.shape[1]
        fading = np.round(p.decay(n) * 2**15).clip(0, 65535).astype(np.uint16)
        key = np.full(count, 2**15, np.uint16)
        out = np.zeros((count, heads), np.int16)
        wide = np.round(s / scale).astype(np.int32)
        call = Call("decay_scores", (wide, fading, key, out, heads, count, place, 14))
        return Sample(call, 3, scale * 2**14, p(n))

    form = Form("decay_scores", (heads,), p.keys.number(), make)
    return Site(f"{name}.decay", "attention", layer, ops.everywhere(form))


def softmax(name: str, layer: int, p: Probabilities) -> Site:
    """Return the site of the softmax over keys."""
    heads = p.heads

    def operands(n: int) -> tuple[Array, Array, int]:
        s = p.scores(n)
        scale = max(np.abs(s).max(), 1e-3) / 2**29
        return s, np.round(s / scale).astype(np.int32), round(scale * 4096 * 2**32)

    def work(n: int) -> tuple[int, int, int]:
        """Return keys, how often a larger score was met, and values that the table gives."""
        _, wide, multiplier = operands(n)
        top = np.maximum.accumulate(wide, 1)
        below = (top[:, -1:].astype(np.int64) - wide).astype(np.uint64)
        near = (below * np.uint64(multiplier)) >> np.uint64(32) < 65536
        return wide.shape[1], int((top[:, 1:] > top[:, :-1]).sum()), int(near.sum())

    def make(n: int) -> Sample:
        s, wide, multiplier = operands(n)
        out = np.zeros((s.shape[1], heads), np.int16)
        call = Call("softmax", (wide, TABLE, out, heads, s.shape[1], multiplier))
        return Sample(call, 2, 2.0**-15, p(n))

    number = np.array([work(n) for n in range(len(p.q))])
    form = Form("softmax", (heads,), number, make)
    return Site(f"{name}.softmax", "attention", layer, ops.everywhere(form))


def dense_products(
    name: str, layer: int, q: Array, k: Array, v: Array, heads: int, keys: Keys
) -> list[Site]:
    """Return the sites of Q K^T V without a softmax ``(frames, D)``, in dense codings.

    In the order of fewer products: Q (K^T V) for utterances of more frames than a head has
    channels, else (Q K^T) V.
    """
    head_dim = q.shape[1] // heads
    if sum(n * n for n in keys.lengths) <= head_dim * sum(keys.lengths):
        p = Linear(q, k, heads, keys)
        sites = [
            scores(name, layer, q, k, heads, keys)[0],
            context(name, layer, p, v, None, heads, keys),
        ]
    else:
        sites = _summary_products(name, layer, q, k, v, heads, keys)
    return [site.only("dense") for site in sites]


def _summary_products(
    name: str, layer: int, q: Array, k: Array, v: Array, heads: int, keys: Keys
) -> list[Site]:
    """Return the sites of K^T V, once for each utterance and channel of a head, and of Q on it.

    Both are weighted sums of rows as ``context`` forms them: of the frames of v with a channel of
    k, and of the rows of K^T V with a query.
    """
    dim = q.shape[1]
    head_dim, utterances = dim // heads, len(keys.lengths)

    def by_channel(x: Array) -> Array:  # (..., D) -> (..., head_dim, heads)
        return x.reshape(*x.shape[:-1], heads, head_dim).swapaxes(-1, -2)

    def summary(utt: int) -> Array:
        span = slice(int(keys.starts[utt]), int(keys.starts[utt + 1]))
        values = v[span].reshape(-1, heads, head_dim)
        return np.einsum("tch,thd->chd", by_channel(k[span]), values).reshape(head_dim, dim)

    def form(kernel: str, number: Array, of: Callable[[int], tuple[Array, Array]]) -> Form:
        def make(n: int) -> Sample:
            weight, rows = of(n)
            limit = 2.0**15 / np.sqrt(2 * len(rows))
            (wq, sw), (rq, sr) = ops.quantise(weight, limit), ops.quantise(rows, limit)
            args = (wq, rq, np.zeros(dim, np.int32), heads, head_dim, len(rows))
            split = rows.reshape(-1, heads, head_dim)
            want = np.einsum("jh,jhd->hd", weight, split).reshape(-1)
            return Sample(Call(kernel, args), -1, sw * sr, want)

        return Form(kernel, (heads, head_dim), number, make)

    def outer(n: int) -> tuple[Array, Array]:
        span = slice(int(keys.starts[n // head_dim]), int(keys.starts[n // head_dim + 1]))
        return by_channel(k[span])[:, n % head_dim].copy(), v[span]

    def read(n: int) -> tuple[Array, Array]:
        return by_channel(q[n]).copy(), summary(int(keys.utt[n]))

    lengths = np.repeat(keys.lengths, head_dim)[:, None]
    channels = np.full((len(q), 1), head_dim)
    sums = np.concatenate([summary(utt) for utt in range(utterances)])
    scale = 2.0**28 / max(float(np.abs(sums).max(initial=0)), 1e-12)
    sums = np.round(sums * scale).astype(np.int64)
    part = "attention"
    return [
        Site(
            f"{name}.outer",
            part,
            layer,
            ops.by_loops(lambda loop: form(f"context_dense{loop}", lengths, outer), *ops.KINDS),
        ),
        ops.requantize(f"{name}.outer.requantize", part, layer, sums),
        Site(
            f"{name}.read",
            part,
            layer,
            ops.by_loops(lambda loop: form(f"context_dense{loop}", channels, read), *ops.KINDS),
        ),
    ]


def spike_products(
    name: str, layer: int, q: Array, k: Array, v: Array, heads: int, keys: Keys
) -> list[Site]:
    """Return the sites of Spikformer's Q (K^T V) on spikes ``(frames, D)``, in spike codings."""
    frames, dim = q.shape
    head_dim = dim // heads
    of_head = np.repeat(np.arange(heads), head_dim)
    head = ops.frozen(of_head.astype(np.uint8))
    rows = np.arange(dim) * head_dim
    less = ops.frozen((rows - of_head * head_dim).astype(np.int32))
    rows = ops.frozen(rows.astype(np.uint32))
    first = ops.frozen((of_head * head_dim).astype(np.uint16))

    def table(span: slice) -> Array:
        ks, vs = (x[span].reshape(-1, heads, head_dim) for x in (k, v))
        return np.einsum("nhc,nhd->hcd", ks, vs).reshape(dim, head_dim).astype(np.int16)

    def outer(n: int) -> Sample:
        span, _ = keys.of(n)
        ki, vi = (np.flatnonzero(x[n]).astype(np.uint16) for x in (k, v))
        starts = np.searchsorted(vi, np.arange(heads + 1) * head_dim).astype(np.uint32)
        args = (table(slice(span.start, n)), less, head, ki, vi, starts, len(ki))
        return Sample(Call("outer_spike", args), 0, 1.0, table(slice(span.start, n + 1)))

    def read(n: int) -> Sample:
        span, _ = keys.of(n)
        kv, qi = table(span), np.flatnonzero(q[n]).astype(np.uint16)
        y = np.zeros(dim, np.int32)
        want = (kv.reshape(heads, head_dim, -1) * q[n].reshape(heads, head_dim, 1)).sum(1)
        args = (kv, rows, first, qi, y, len(qi), head_dim, dim)
        return Sample(Call("read_spike", args), 4, 1.0, want.reshape(-1))

    ks, vs = (np.count_nonzero(x.reshape(frames, heads, -1), 2) for x in (k, v))
    pairs = np.stack([ks.sum(1), (ks * vs).sum(1)], 1)
    forms = {
        "outer": Form("outer_spike", (heads, head_dim), pairs, outer),
        "read": Form("read_spike", (heads, head_dim), np.count_nonzero(q, 1)[:, None], read),
    }
    return [
        Site(f"{name}.{part}", "attention", layer, ops.of_kinds(event=form, spike=form))
        for part, form in forms.items()
    ]
