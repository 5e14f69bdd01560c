"""Decayed attention without a map: all chunks of a head in one program, forward and backward.

One kernel computes the product of ``ops.decay_attention`` with a factor for each row of the result
and one for each row that is summed over,

    o_i = r_i sum_j gamma^|i-j| (q_i . k_j) s_j v_j

so that the row norm, the mask of padded keys and a scale per frame of V cost no pass of their own.
Every gradient is such a product again (``ops.decay_attention``), with the two factors as they are
or exchanged. The state of all frames before a chunk, then that of all frames behind it, stays in
registers; no map of all frames exists, and every sum has its order.

Products are of fp32 values on tensor cores, three TF32 products each (``tf32x3``), which is as
exact as fp32 nearly.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch
from espnet_spike.nn.ops.triton.launch import constexpr

CHUNK = 16  # frames; longer ones spill registers of the products of three
MOST = 64  # channels of queries and keys
VALUES = 32  # channels of values of a program
PRECISION = "tf32x3"


@triton.jit
def product(
    query, key, value, out, log_gamma, rows, keys,
    q_b, q_h, q_n, q_e, k_b, k_h, k_n, k_e, v_b, v_h, v_n, v_e, o_b, o_h, o_n, r_b, r_h, r_n,
    s_b, s_h, s_n, H, N: constexpr, E: tl.constexpr, V: tl.constexpr, PAST: tl.constexpr,
    FUTURE: tl.constexpr, BY_ROW: tl.constexpr, BY_KEY: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write o ``(B, H, N, V)``; j = i always counts, earlier and later frames by flags."""
    b, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    c, e = tl.arange(0, CHUNK), tl.arange(0, BLOCK_E)
    v_at = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside_e, inside_v = (e < E)[None], (v_at < V)[None]
    query += b * q_b + head * q_h + e[None] * q_e
    key += b * k_b + head * k_h + e[None] * k_e
    value += b * v_b + head * v_h + v_at[None] * v_e
    out += b * o_b + head * o_h + v_at[None]
    rows += b * r_b + head * r_h
    keys += b * s_b + head * s_h
    slope = tl.load(log_gamma + head).to(tl.float32)
    over = tl.exp(slope * CHUNK)
    distance = c[:, None] - c[None]
    decay = tl.exp(slope * tl.abs(distance).to(tl.float32))
    if not FUTURE:
        decay = tl.where(distance >= 0, decay, 0.0)
    if not PAST:
        decay = tl.where(distance <= 0, decay, 0.0)
    into_past = tl.exp(slope * c.to(tl.float32))[:, None]
    into_future = tl.exp(slope * (CHUNK - 1 - c).to(tl.float32))[:, None]
    state = tl.zeros((BLOCK_E, BLOCK_V), tl.float32)
    for start in range(0, N, CHUNK):
        t = (start + c)[:, None]
        inside = t < N
        q = tl.load(query + t * q_n, mask=inside & inside_e, other=0.0).to(tl.float32)
        k = tl.load(key + t * k_n, mask=inside & inside_e, other=0.0).to(tl.float32)
        v = tl.load(value + t * v_n, mask=inside & inside_v, other=0.0).to(tl.float32)
        if BY_KEY:
            s = tl.load(keys + t * s_n, mask=inside, other=0.0).to(tl.float32)
            k, v = tl.where(s != 0, k, 0.0), tl.where(s != 0, v * s, 0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay
        o = tl.dot(scores, v, input_precision=PRECISION)
        if PAST:
            o += tl.dot(q * into_past, state, input_precision=PRECISION)
            # gamma^(C - c): into_future is gamma^(C - 1 - c)
            k = tl.trans(k * (into_future * tl.exp(slope)))
            state = state * over + tl.dot(k, v, input_precision=PRECISION)
        if BY_ROW and not FUTURE:
            r = tl.load(rows + t * r_n, mask=inside, other=0.0).to(tl.float32)
            o = tl.where(r != 0, o * r, 0.0)
        tl.store(out + t * o_n, o, mask=inside & inside_v)
    if FUTURE:
        tl.debug_barrier()  # what is written above is read below
        state = tl.zeros((BLOCK_E, BLOCK_V), tl.float32)
        for back in range(0, N, CHUNK):
            start = (N + CHUNK - 1) // CHUNK * CHUNK - CHUNK - back
            t = (start + c)[:, None]
            inside = t < N
            q = tl.load(query + t * q_n, mask=inside & inside_e, other=0.0).to(tl.float32)
            k = tl.load(key + t * k_n, mask=inside & inside_e, other=0.0).to(tl.float32)
            v = tl.load(value + t * v_n, mask=inside & inside_v, other=0.0).to(tl.float32)
            if BY_KEY:
                s = tl.load(keys + t * s_n, mask=inside, other=0.0).to(tl.float32)
                k, v = tl.where(s != 0, k, 0.0), tl.where(s != 0, v * s, 0.0)
            o = tl.load(out + t * o_n, mask=inside & inside_v, other=0.0)
            o += tl.dot(q * into_future, state, input_precision=PRECISION)
            k = tl.trans(k * (into_past * tl.exp(slope)))
            state = state * over + tl.dot(k, v, input_precision=PRECISION)
            if BY_ROW:
                r = tl.load(rows + t * r_n, mask=inside, other=0.0).to(tl.float32)
                o = tl.where(r != 0, o * r, 0.0)
            tl.store(out + t * o_n, o, mask=inside & inside_v)


def decayed_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_gamma: Tensor,
    past: bool = True,
    future: bool = True,
    rows: Tensor | None = None,
    keys: Tensor | None = None,
) -> Tensor:
    """Return o, fp32, ``(B, H, N, D)``, stored as ``(B, N, H, D)``.

    Args:
        query, key: ``(B, H, N, E)``, E at most ``MOST``.
        value: ``(B, H, N, D)``, D likewise, since E and D change places in the gradients.
        log_gamma: ``(H,)``.
        past: whether earlier frames count.
        future: whether later frames do.
        rows: r ``(B, H, N)``, where 0 makes a row 0 whatever it holds; None for 1.
        keys: s ``(B, H, N)``, where 0 leaves a frame out, whatever it holds; None for 1.
    """
    B, H, N, E = query.shape
    V = value.shape[-1]
    out = torch.empty(B, N, H, V, dtype=torch.float32, device=query.device).transpose(1, 2)
    # tensor cores take 16 channels at least
    block_e, block_v = (
        max(16, launch.power_of_2(size, most)) for size, most in ((E, MOST), (V, VALUES))
    )
    product[(B * H, launch.blocks(V, block_v))](
        query, key, value, out, log_gamma, out if rows is None else rows,
        out if keys is None else keys, *query.stride(), *key.stride(), *value.stride(),
        *out.stride()[:3], *_strides(rows), *_strides(keys), H, N, E, V, past, future,
        rows is not None, keys is not None, CHUNK, block_e, block_v, PRECISION,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def _strides(factors: Tensor | None) -> Sequence[int]:
    return (0, 0, 0) if factors is None else factors.stride()
