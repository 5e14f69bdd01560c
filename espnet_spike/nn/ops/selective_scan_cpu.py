"""The selective scan on CPUs: compiled kernels, their gradient, and the threads that run them.

Threads are Python's: the kernels release the interpreter lock. So nothing clashes with torch's
own threads, two threads of a user may call at once, and a forked process starts with fresh ones.
Their number is torch's (``OMP_NUM_THREADS``, ``torch.set_num_threads``).
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from espnet_spike.nn.ops import backends

# Frames between stored states: fewer cost more memory here, more cost scratch beyond the cache.
CHUNK = 32


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scan with channels last; ``selective_scan`` says what is computed.

    Args:
        u: ``(B, L, D)``, no axis empty; float32 or float64 as everything else.
        delta: ``(B, L, D)``, step sizes.
        A: ``(N, D)``.
        B: ``(B, L, N)``.
        C: ``(B, L, N)``.
        D: ``(D,)``.
        lengths: ``(B,)``, int64.
        state: ``(B, N, D)``, before the first frame.

    Returns:
        y ``(B, L, D)`` and the state after the last valid frame ``(B, N, D)``.
    """
    inputs = (u, delta, A, B, C, D, state)
    # without a backward pass no state in between is needed
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _Scan.apply(CHUNK if keep else u.shape[1], lengths, *inputs)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, chunk, lengths, u, delta, A, B, C, D, state):  # noqa: ANN001
        inputs = [x.contiguous() for x in (u, delta, A, B, C, D, lengths)]
        u = inputs[0]
        states = u.new_empty(u.shape[0], -(-u.shape[1] // chunk) + 1, *state.shape[1:])
        states[:, 0] = state
        y = torch.empty_like(u)
        _run(_kernels().forward, [*inputs, y, states], chunk)
        ctx.save_for_backward(*inputs, states)
        return y, states[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):  # noqa: ANN001
        u, delta, A, B, C, D, lengths, states = ctx.saved_tensors
        blocks = -(-u.shape[2] // _width(u.shape[2]))
        grad_state = grad_state.clone(memory_format=torch.contiguous_format)
        grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
        grad_A, grad_D = A.new_zeros(len(u), *A.shape), D.new_zeros(len(u), *D.shape)
        grad_B, grad_C = B.new_zeros(2, blocks, *B.shape)
        arrays = [u, delta, A, B, C, D, lengths, states, grad_y.contiguous(), grad_state]
        arrays += [grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D]
        _run(_kernels().backward, arrays, CHUNK)
        sums = (_ordered_sum(x) for x in (grad_A, grad_B, grad_C, grad_D))
        return None, None, grad_u, grad_delta, *sums, grad_state


def _kernels() -> ModuleType:
    return backends.kernels("selective_scan")


def _ordered_sum(parts: Tensor) -> Tensor:
    """Sum over the first axis, always in the same order."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _width(dims: int) -> int:
    """Return the channels of a block: blocks of equal width, a multiple of the vector width."""
    kernels = _kernels()
    blocks = -(-dims // kernels.WIDTH)
    return -(-dims // (blocks * kernels.LANES)) * kernels.LANES


def _run(kernel: Callable[..., None], tensors: list[Tensor], chunk: int) -> None:
    """Run all tasks of ``kernel``, sharing them out among threads."""
    u, A = tensors[0], tensors[2]
    width = _width(u.shape[2])
    tasks = u.shape[0] * -(-u.shape[2] // width)
    backends.in_ranges(
        kernel, [*backends.arrays(*tensors), chunk, width], tasks, u.numel() * A.shape[0]
    )
