"""Attention with a decay mask and no softmax in linear time and memory: the chunkwise form.

Without a softmax the N x N map need not exist. For queries q_i, keys k_j, values v_j and a decay
0 < gamma <= 1 per head, the decayed product

    o_i = sum_j gamma^|i-j| (q_i . k_j) v_j                        causal: only j <= i

splits at the borders of chunks of C frames. Within a chunk it is the small C x C map; everything
before the chunk reaches it through one matrix per head, everything after it through another. For
a chunk that starts at frame s, holds c frames and counts them by a, b = 0..c-1:

    P = sum_{j < s} gamma^(s-j) k_j v_j^T            P <- gamma^c P + sum_b gamma^(c-b) k_b v_b^T
    F = sum_{j >= s+c} gamma^(j-s-c+1) k_j v_j^T     F <- gamma^c F + sum_b gamma^(b+1) k_b v_b^T
    o_a = sum_b gamma^|a-b| (q_a . k_b) v_b  +  gamma^a q_a P  +  gamma^(c-1-a) q_a F

P is carried from the first chunk to the last, F from the last to the first. No power is negative
(0.75^-400 overflows), so far frames fade to 0 and nothing becomes infinite. The result is that of
the quadratic form (``nn.layers.spiking_attention``) up to the order of sums. Chunkwise retention is
RetNet's (arXiv 2307.08621, eq. 7); the second direction and the backward pass are ours.

Padded keys are left out by a value of 0. The row normaliser is a factor per row with a closed form
(``espnet_spike.nn.layers.decay_mask``). On CUDA GPUs one kernel does all of it.
"""

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.decay import decay_matrix
from espnet_spike.nn.ops.precision import without_autocast

CHUNK = 128
"""Frames per chunk; 64 to 256 take about the same time."""


def decay_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_gamma: Tensor | None,
    causal: bool = False,
    chunk: int = CHUNK,
    mask: Tensor | None = None,
    frame_scale: Tensor | None = None,
    row_scale: Tensor | None = None,
) -> Tensor:
    """Return o_i = r_i sum_j gamma^|i-j| (q_i . k_j) s_j v_j without the N x N map.

    Beyond its result, the forward pass needs memory for one chunk and one ``(E, D)`` matrix per
    head; the backward pass keeps its inputs only and is three more forward passes (four where
    gamma is learned).

    Args:
        query: ``(B, H, N, E)``, scaled by the caller.
        key: ``(B, H, N, E)``.
        value: ``(B, H, N, D)``.
        log_gamma: ``(H,)``, at most 0; None where nothing decays (gamma = 1).
        causal: no weight on later frames.
        chunk: C, frames per chunk; the result does not depend on it.
        mask: ``(B, N)``, true on valid frames; None where padded frames of ``value`` are 0.
        frame_scale: s ``(B, N)``; None for 1.
        row_scale: r ``(B, H, N)``; None for 1.

    Returns:
        ``(B, H, N, D)``, computed and returned in fp32 at least, whatever the autocast state. Its
        memory lies as ``(B, N, H, D)``, so that joining the heads copies nothing.

    Raises:
        ValueError: if ``chunk`` is not positive.
    """
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} is not positive")
    if log_gamma is None:
        log_gamma = torch.zeros(query.shape[1], device=query.device)
    kernels = fused(query, value)
    if kernels is not None:
        keys = _key_factors(mask, frame_scale, query.shape)
        # a factor that is learnt needs a gradient of its own
        outside = row_scale if row_scale is not None and row_scale.requires_grad else None
        rows = row_scale if outside is None else None
        out = _FusedAttention.apply(query, key, value, log_gamma, keys, rows, causal, kernels)
        return out if outside is None else out * outside[..., None]
    if mask is not None:
        value = value.masked_fill(~mask[:, None, :, None], 0.0)
    if frame_scale is not None:
        value = value * frame_scale[:, None, :, None]
    out = _attend(query, key, value, log_gamma, causal, chunk)
    return out if row_scale is None else out * row_scale[..., None].to(out.dtype)


def fused(query: Tensor, value: Tensor) -> ModuleType | None:
    """Return the Triton kernels where they can take queries and values, else None."""
    kernels = backends.fused(query, "decay_attention")
    if kernels is None or value.dtype not in backends.GPU_DTYPES or not value.numel():
        return None
    return kernels if max(query.shape[-1], value.shape[-1]) <= kernels.MOST else None


def _key_factors(
    mask: Tensor | None, frame_scale: Tensor | None, shape: torch.Size
) -> Tensor | None:
    """Return what each frame's value counts, ``(B, H, N)``; None for 1."""
    if frame_scale is None:
        keys = mask
    else:
        keys = frame_scale if mask is None else frame_scale.masked_fill(~mask, 0.0)
    return None if keys is None else keys.float()[:, None].expand(shape[:3])


def _attend(
    query: Tensor, key: Tensor, value: Tensor, log_gamma: Tensor, causal: bool, chunk: int
) -> Tensor:
    """Return the product without factors."""
    if torch.jit.is_tracing():  # chunks would be traced for one length: take the N x N map
        return (query @ key.mT * decay_matrix(log_gamma, query.shape[2], causal)) @ value
    return _DecayAttention.apply(query, key, value, log_gamma, causal, chunk)


class _DecayAttention(torch.autograd.Function):
    """The product and its gradients; D is symmetric, or triangular when causal.

    With W_ij = gamma^|i-j| and the upstream gradient g, every gradient is such a product again:

        dq_i = sum_j W_ij (g_i . v_j) k_j
        dk_j = sum_i W_ij (v_j . g_i) q_i
        dv_j = sum_i W_ij (k_j . q_i) g_i
        dlog gamma = sum_ij |i-j| W_ij (q_i . k_j) (g_i . v_j)
    """

    @staticmethod
    def forward(ctx, query, key, value, log_gamma, causal, chunk):  # noqa: ANN001
        ctx.save_for_backward(query, key, value, log_gamma)
        ctx.causal, ctx.chunk = causal, chunk
        with without_autocast(query.device.type):
            return _product(query, key, value, log_gamma, chunk, future=not causal)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: ANN001
        q, k, v, log_gamma = ctx.saved_tensors
        chunk, both = ctx.chunk, not ctx.causal
        dq = dk = dv = dlog = None
        with without_autocast(q.device.type):
            if ctx.needs_input_grad[0]:
                dq = _product(grad, v, k, log_gamma, chunk, future=both).to(q.dtype)
            if ctx.needs_input_grad[1]:
                dk = _product(v, grad, q, log_gamma, chunk, past=both).to(k.dtype)
            if ctx.needs_input_grad[2]:
                dv = _product(k, q, grad, log_gamma, chunk, past=both).to(v.dtype)
            if ctx.needs_input_grad[3]:
                dlog = _slope(q, k, v, grad, log_gamma, chunk, future=both).to(log_gamma.dtype)
        return dq, dk, dv, dlog, None, None


class _FusedAttention(torch.autograd.Function):
    """``_DecayAttention`` by one kernel, with the factors of values and of rows in it."""

    @staticmethod
    def forward(ctx, query, key, value, log_gamma, keys, rows, causal, kernels):  # noqa: ANN001
        ctx.save_for_backward(query, key, value, log_gamma, keys, rows)
        ctx.causal, ctx.kernels = causal, kernels
        return kernels.decayed_product(
            query, key, value, log_gamma, future=not causal, rows=rows, keys=keys
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: ANN001
        q, k, v, log_gamma, keys, rows = ctx.saved_tensors
        run, both = ctx.kernels.decayed_product, not ctx.causal
        dq = dk = dv = dlog = None
        if ctx.needs_input_grad[0]:
            # the value's factor is that of v, the row's that of grad: the same places as forward
            dq = run(grad, v, k, log_gamma, future=both, rows=rows, keys=keys).to(q.dtype)
        if ctx.needs_input_grad[1]:
            dk = run(v, grad, q, log_gamma, past=both, rows=keys, keys=rows).to(k.dtype)
        if ctx.needs_input_grad[2]:
            dv = run(k, q, grad, log_gamma, past=both, rows=keys, keys=rows).to(v.dtype)
        if ctx.needs_input_grad[3]:
            if keys is not None:
                v = (v * keys[..., None]).masked_fill(keys[..., None] == 0, 0.0)
            if rows is not None:
                grad = grad * rows[..., None]
            with without_autocast(q.device.type):
                dlog = _slope(q, k, v, grad, log_gamma, CHUNK, future=both).to(log_gamma.dtype)
        return dq, dk, dv, dlog, None, None, None, None


class _Chunks:
    """Cuts sequences into chunks and holds the powers of gamma that a chunk needs.

    Args:
        like: a sequence ``(B, H, N, E)``; its length, device and precision (fp32 at least) count.
        log_gamma: ``(H,)``.
        chunk: C.
    """

    def __init__(self, like: Tensor, log_gamma: Tensor, chunk: int) -> None:
        self.length = like.shape[2]
        self.size = max(1, min(chunk, self.length))
        self.dtype = torch.promote_types(like.dtype, torch.float32)
        self.log_gamma = log_gamma.detach().to(self.dtype)
        steps = torch.arange(self.size + 1, device=like.device, dtype=self.dtype)
        # gamma^0 .. gamma^C, (H, C + 1, 1)
        self.powers = torch.exp(steps * self.log_gamma[:, None])[..., None]

    def map(self, past: bool, future: bool) -> Tensor:
        """Return gamma^|a-b| ``(H, C, C)``, 0 in a direction that does not count."""
        decay = decay_matrix(self.log_gamma, self.size, causal=not (past and future))
        return decay if past else decay.transpose(1, 2)

    def __call__(
        self, *sequences: Tensor, backwards: bool = False
    ) -> Iterator[tuple[int, int, list[Tensor]]]:
        """Yield ``(start, stop, chunk of each sequence)`` in order."""
        starts = range(0, self.length, self.size)
        for start in reversed(starts) if backwards else starts:
            stop = min(start + self.size, self.length)
            yield start, stop, [x[:, :, start:stop].to(self.dtype) for x in sequences]

    def rising(self, c: int, first: int = 0) -> Tensor:
        """Return gamma^first .. gamma^(first+c-1), ``(H, c, 1)``."""
        return self.powers[:, first : first + c]

    def falling(self, c: int, last: int = 0) -> Tensor:
        """Return gamma^(last+c-1) .. gamma^last, ``(H, c, 1)``."""
        return self.powers[:, last : last + c].flip(1)


def _product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_gamma: Tensor,
    chunk: int,
    past: bool = True,
    future: bool = True,
) -> Tensor:
    """Return the decayed product over earlier and/or later frames; j = i always counts."""
    batch, heads, length, _ = query.shape
    chunks = _Chunks(query, log_gamma, chunk)
    decay = chunks.map(past, future)
    shape = (batch, length, heads, value.shape[-1])
    out = torch.empty(shape, dtype=chunks.dtype, device=query.device).transpose(1, 2)
    state = _empty_state(key, value, chunks)
    for start, stop, (q, k, v) in chunks(query, key, value):
        c = stop - start
        scores = (q @ k.transpose(-1, -2)).mul_(decay[:, :c, :c])
        out[:, :, start:stop] = scores @ v
        if past:
            out[:, :, start:stop] += (q * chunks.rising(c)) @ state
            state = _advance(state, k * chunks.falling(c, 1), v, chunks.powers[:, c, None])
    if future:
        state = _empty_state(key, value, chunks)
        for start, stop, (q, k, v) in chunks(query, key, value, backwards=True):
            c = stop - start
            out[:, :, start:stop] += (q * chunks.falling(c)) @ state
            state = _advance(state, k * chunks.rising(c, 1), v, chunks.powers[:, c, None])
    return out


def _slope(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    log_gamma: Tensor,
    chunk: int,
    future: bool,
) -> Tensor:
    """Return sum_ij |i-j| gamma^|i-j| (q_i . k_j) (g_i . v_j) over the batch, ``(H,)``.

    Every state S travels with its derivative S' by log gamma; a frame that is r steps from the
    border of its chunk sees r gamma^r S + gamma^r S'.
    """
    chunks = _Chunks(query, log_gamma, chunk)
    distance = torch.arange(chunks.size, device=query.device, dtype=chunks.dtype)
    distance = (distance[:, None] - distance).abs()
    decay = chunks.map(True, future) * distance
    total = torch.zeros(query.shape[1], dtype=torch.float64, device=query.device)
    for backwards in (False, True) if future else (False,):
        state = _empty_state(key, value, chunks)
        slope = _empty_state(key, value, chunks)
        for start, stop, (q, k, v, g) in chunks(query, key, value, grad, backwards=backwards):
            c = stop - start
            steps = torch.arange(c, device=q.device, dtype=q.dtype)[:, None]
            if backwards:
                from_border, steps_from = chunks.falling(c), steps.flip(0)
                to_border, steps_to = chunks.rising(c, 1), steps + 1
            else:
                from_border, steps_from = chunks.rising(c), steps
                to_border, steps_to = chunks.falling(c, 1), steps.flip(0) + 1
                scores = (q @ k.transpose(-1, -2)).mul_(decay[:, :c, :c])
                total += (scores @ v).mul_(g).sum((0, 2, 3))
            q = q * from_border
            seen = q.transpose(-1, -2) @ g
            seen_slope = (q * steps_from).transpose(-1, -2) @ g
            total += (seen * slope).add_(seen_slope * state).sum((0, 2, 3))
            power = chunks.powers[:, c, None]
            k = k * to_border
            slope = _advance(slope + c * state, k * steps_to, v, power)
            state = _advance(state, k, v, power)
    return total


def _empty_state(key: Tensor, value: Tensor, chunks: _Chunks) -> Tensor:
    """Return zeros ``(B, H, E, D)``."""
    shape = (*key.shape[:2], key.shape[-1], value.shape[-1])
    return torch.zeros(shape, dtype=chunks.dtype, device=key.device)


def _advance(state: Tensor, key: Tensor, value: Tensor, power: Tensor) -> Tensor:
    """Return ``power`` * state + K^T V."""
    return state * power + key.transpose(-1, -2) @ value
