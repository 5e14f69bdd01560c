"""LIF over time steps and over frames: one pass over memory each way.

Potentials are computed as the reference does, operation by operation and without fused products,
so that spikes are the same to the bit. A program holds some channels of an utterance (or of a
frame, where time steps follow each other) and walks through time; what it needs next is loaded
before it is needed. Arrays are in single or half precision, potentials fp32.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from espnet_spike.nn.ops.triton import launch
from espnet_spike.nn.ops.triton.launch import constexpr
from espnet_spike.nn.ops.triton.surrogates import NAMES, slope

CHANNELS = 64  # of a program over frames: two a thread, for many programs
AHEAD = tl.constexpr(8)  # frames loaded at once
STEP_BLOCK = 1024  # activations of a program over time steps


class Neuron(NamedTuple):
    """How a neuron charges, fires and resets, see ``ops.lif.LIFDynamics``."""

    tau: float
    v_th: float
    v_reset: float
    soft: bool
    decay_input: bool


class Gradient(NamedTuple):
    """How the gradient flows: through the reset or not, and the surrogate's name and parameter."""

    detach: bool
    surrogate: str
    alpha: float


@triton.jit
def charge(v, x, tau, v_reset, DECAY_INPUT: tl.constexpr):
    """Return H, the potential before the neuron may fire."""
    if DECAY_INPUT:
        h = v + tl.div_rn(x - (v - v_reset), tau)
    else:
        h = v - tl.div_rn(v - v_reset, tau) + x
    return h


@triton.jit
def discharge(h, spike, v_th, v_reset, SOFT: tl.constexpr):
    """Return V after the reset."""
    if SOFT:
        v = h - v_th * spike
    else:
        v = h * (1.0 - spike) + v_reset * spike
    return v


@triton.jit
def fires(h, v_th):
    """Return 1 where the neuron fires, else 0."""
    return tl.where(h - v_th >= 0.0, 1.0, 0.0)


@triton.jit
def step_gradient(
    g_s, g_v, h, tau, v_th, v_reset, alpha, SOFT: tl.constexpr, DECAY_INPUT: tl.constexpr,
    DETACH: tl.constexpr, NAME: tl.constexpr,
):  # fmt: skip
    """Return the gradients of H, of the input, and of the potential before the step.

    ``g_s`` is that of the spikes, ``g_v`` that of the potential after the reset.
    """
    if not DETACH:
        g_s -= g_v * (v_th if SOFT else h - v_reset)
    g_h = g_s * slope(h - v_th, alpha, NAME)
    g_h += g_v if SOFT else g_v * (1.0 - fires(h, v_th))
    into = g_h / tau if DECAY_INPUT else g_h
    return g_h, into, g_h * (1.0 - 1.0 / tau)


@triton.jit
def forward_frames(
    x, first, lengths, rate, spikes, potentials, last, counts, tau, v_th, v_reset,
    L: constexpr, C: tl.constexpr, SOFT: tl.constexpr, DECAY_INPUT: tl.constexpr,
    LEARNT: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write spikes, with ``KEEP`` potentials before the reset, and counts ``(blocks, B, L)``."""
    b, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    length = tl.load(lengths + b)
    if LEARNT:
        tau = tl.div_rn(1.0, tl.load(rate))
    v = tl.load(first + b * C + c, mask=inside, other=0.0)
    counts += (block * tl.num_programs(0) + b) * L
    for start in range(0, L, AHEAD):
        at = (b * L + start) * C + c
        currents = ()
        for k in tl.static_range(AHEAD):
            valid = inside & (start + k < length)
            currents += (tl.load(x + at + k * C, mask=valid, other=0.0).to(tl.float32),)
        for k in tl.static_range(AHEAD):
            t = start + k
            valid = t < length
            h = charge(v, currents[k], tau, v_reset, DECAY_INPUT)
            spike = tl.where(valid & inside, fires(h, v_th), 0.0)
            v = tl.where(valid, discharge(h, spike, v_th, v_reset, SOFT), v)
            tl.store(spikes + at + k * C, spike, mask=inside & (t < L))
            if KEEP:
                tl.store(potentials + at + k * C, h, mask=inside & valid)
            tl.store(counts + t, tl.sum(spike, 0), mask=t < L)
    tl.store(last + b * C + c, v, mask=inside)


@triton.jit
def backward_frames(
    grad, grad_counts, grad_last, potentials, first, lengths, rate, grad_x, grad_first,
    grad_rate, tau, v_th, v_reset, alpha, L: constexpr, C: tl.constexpr, SOFT: tl.constexpr,
    DECAY_INPUT: tl.constexpr, DETACH: tl.constexpr, NAME: tl.constexpr, LEARNT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the input, of the first potential, and per program that of the rate.

    With rate r = 1 / tau: dH/dr = X - (V - v_reset), or v_reset - V without ``DECAY_INPUT``.
    """
    b, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    length = tl.load(lengths + b)
    if LEARNT:
        tau = tl.div_rn(1.0, tl.load(rate))
    g_v = tl.load(grad_last + b * C + c, mask=inside, other=0.0)
    at_rest = tl.load(first + b * C + c, mask=inside, other=0.0)
    g_rate = tl.zeros((BLOCK,), tl.float32)
    for back in range(0, L, AHEAD):
        end = (L + AHEAD - 1) // AHEAD * AHEAD - back  # frames end - AHEAD .. end - 1
        at = (b * L + end - AHEAD) * C + c
        grads, totals, charged = (), (), ()
        for k in tl.static_range(AHEAD):
            t = end - AHEAD + k
            valid = inside & (t < length)
            grads += (tl.load(grad + at + k * C, mask=valid, other=0.0).to(tl.float32),)
            totals += (tl.load(grad_counts + b * L + t, mask=t < length, other=0.0),)
            charged += (tl.load(potentials + at + k * C, mask=valid, other=0.0),)
        if LEARNT:
            earlier = inside & (end - AHEAD > 0) & (end - AHEAD <= length)
            before_all = tl.load(potentials + at - C, mask=earlier, other=0.0)
        for k in tl.static_range(AHEAD - 1, -1, -1):
            t = end - AHEAD + k
            valid = inside & (t < length)
            h = charged[k]
            g_h, into, g_before = step_gradient(
                grads[k] + totals[k], g_v, h, tau, v_th, v_reset, alpha, SOFT, DECAY_INPUT,
                DETACH, NAME,
            )  # fmt: skip
            g_v = tl.where(valid, g_before, g_v)
            tl.store(grad_x + at + k * C, tl.where(valid, into, 0.0), mask=inside & (t < L))
            if LEARNT:
                if k > 0:
                    h_before = charged[k - 1]
                else:
                    h_before = before_all
                v = discharge(h_before, fires(h_before, v_th), v_th, v_reset, SOFT)
                v = tl.where(t > 0, v, at_rest)
                drive = tau * (h - v) if DECAY_INPUT else v_reset - v
                g_rate += tl.where(valid, g_h * drive, 0.0)
    tl.store(grad_first + b * C + c, g_v, mask=inside)
    if LEARNT:
        tl.store(grad_rate + b * tl.num_programs(1) + block, tl.sum(g_rate, 0))


@triton.jit
def forward_steps(
    x, spikes, potentials, counts, R, tau, v_th, v_reset, T: tl.constexpr, K: tl.constexpr,
    SOFT: tl.constexpr, DECAY_INPUT: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write spikes, with ``KEEP`` potentials before the reset, and counts ``(blocks, T, R)``."""
    r, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    k = block * BLOCK + tl.arange(0, BLOCK)
    inside = k < K
    v = tl.zeros((BLOCK,), tl.float32) + v_reset
    for t in tl.static_range(T):
        at = (t * R + r) * K + k
        current = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        h = charge(v, current, tau, v_reset, DECAY_INPUT)
        spike = tl.where(inside, fires(h, v_th), 0.0)
        v = discharge(h, spike, v_th, v_reset, SOFT)
        tl.store(spikes + at, spike, mask=inside)
        if KEEP:
            tl.store(potentials + at, h, mask=inside)
        tl.store(counts + (block * T + t) * R + r, tl.sum(spike, 0))


@triton.jit
def backward_steps(
    grad, potentials, grad_x, R, tau, v_th, v_reset, alpha, T: tl.constexpr,
    K: tl.constexpr, SOFT: tl.constexpr, DECAY_INPUT: tl.constexpr, DETACH: tl.constexpr,
    NAME: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input."""
    r, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    k = block * BLOCK + tl.arange(0, BLOCK)
    inside = k < K
    g_v = tl.zeros((BLOCK,), tl.float32)
    for step in tl.static_range(T):
        at = ((T - 1 - step) * R + r) * K + k
        g_s = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        h = tl.load(potentials + at, mask=inside, other=0.0)
        _, into, g_v = step_gradient(
            g_s, g_v, h, tau, v_th, v_reset, alpha, SOFT, DECAY_INPUT, DETACH, NAME
        )
        tl.store(grad_x + at, into, mask=inside)


def run_frames(
    x: Tensor, v: Tensor, lengths: Tensor, neuron: Neuron, rate: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Run frame after frame.

    Args:
        x: ``(B, L, C)``, contiguous, not empty.
        v: potential before the first frame ``(B, C)``.
        lengths: ``(B,)``.
        neuron: how it charges, fires and resets.
        rate: 1 / tau, 0-dim, in place of ``neuron.tau``; or None.
        keep: whether a backward pass needs the potentials.

    Returns:
        spikes, typed as ``x``; the last potential ``(B, C)``; spikes of each frame ``(B, L)``; the
        potentials before the reset ``(B, L, C)``, undefined on padding, or None.
    """
    B, L, C = x.shape
    block = launch.power_of_2(C, CHANNELS)
    grid = (B, launch.blocks(C, block))
    spikes, v = torch.empty_like(x), v.float().contiguous()
    h = torch.empty_like(x, dtype=torch.float32) if keep else None
    last, counts = torch.empty_like(v), v.new_empty(grid[1], B, L)
    tau, v_th, v_reset, soft, decay_input = neuron
    forward_frames[grid](
        x, v, lengths, v if rate is None else rate.float(), spikes, spikes if h is None else h,
        last, counts, tau, v_th, v_reset, L, C, soft, decay_input, rate is not None, keep, block,
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return spikes, last, counts.sum(0), h


def frame_gradients(
    grads: tuple[Tensor, Tensor, Tensor],
    h: Tensor,
    v: Tensor,
    lengths: Tensor,
    neuron: Neuron,
    gradient: Gradient,
    rate: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the input, of the first potential, and of ``rate`` if there is one.

    Args:
        grads: of the spikes ``(B, L, C)``, of their number ``(B, L)``, of the last potential.
        h: potentials before the reset ``(B, L, C)``.
        v: potential before the first frame ``(B, C)``.
        lengths, neuron, rate: as of ``run_frames``.
        gradient: how it flows.
    """
    B, L, C = h.shape
    block = launch.power_of_2(C, CHANNELS)
    grid = (B, launch.blocks(C, block))
    grad, grad_counts, grad_last = (g.contiguous() for g in grads)
    v = v.float().contiguous()
    grad_x, grad_v, parts = torch.empty_like(grad), torch.empty_like(v), v.new_empty(grid)
    tau, v_th, v_reset, soft, decay_input = neuron
    backward_frames[grid](
        grad, grad_counts.float(), grad_last.float(), h, v, lengths,
        v if rate is None else rate.float(), grad_x, grad_v, parts, tau, v_th, v_reset,
        gradient.alpha, L, C, soft, decay_input, gradient.detach, NAMES.index(gradient.surrogate),
        rate is not None, block, num_warps=1,
    )  # fmt: skip
    return grad_x, grad_v, None if rate is None else parts.sum()


def run_steps(x: Tensor, neuron: Neuron, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the time steps of every frame, from rest.

    Args:
        x: ``(T, R, K)``, contiguous, not empty.
        neuron: how it charges, fires and resets.
        keep: whether a backward pass needs the potentials.

    Returns:
        spikes, typed as ``x``; their number per step and frame ``(T, R)``; the potentials before
        the reset, shaped as ``x``, or None.
    """
    T, R, K = x.shape
    block = launch.power_of_2(K, STEP_BLOCK)
    grid = (R, launch.blocks(K, block))
    spikes = torch.empty_like(x)
    h = torch.empty_like(x, dtype=torch.float32) if keep else None
    counts = x.new_empty(grid[1], T, R, dtype=torch.float32)
    forward_steps[grid](
        x, spikes, spikes if h is None else h, counts, R, *neuron[:3], T, K, *neuron[3:], keep,
        block, num_warps=launch.warps(block), enable_fp_fusion=False,
    )  # fmt: skip
    return spikes, counts.sum(0), h


def step_gradients(grad: Tensor, h: Tensor, neuron: Neuron, gradient: Gradient) -> Tensor:
    """Return the gradient of the input ``(T, R, K)`` from that of the spikes."""
    T, R, K = h.shape
    block = launch.power_of_2(K, STEP_BLOCK)
    grad = grad.contiguous()
    grad_x = torch.empty_like(grad)
    backward_steps[(R, launch.blocks(K, block))](
        grad, h, grad_x, R, *neuron[:3], gradient.alpha, T, K, *neuron[3:], gradient.detach,
        NAMES.index(gradient.surrogate), block, num_warps=launch.warps(block),
    )  # fmt: skip
    return grad_x
