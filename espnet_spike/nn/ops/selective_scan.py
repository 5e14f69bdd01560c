"""The selective scan of Mamba (arXiv 2312.00752, Algorithm 2), on any machine, behind one function.

For every channel d with N states, input u_t and step size delta_t, B_t and C_t chosen by the input:

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t          h in R^N, product with A elementwise
    y_t = C_t . h_t + D u_t

``selective_scan_ref`` spells it out. The backends of ``selective_scan`` compute the same:

==========  ==========================================================================
``numba``   compiled CPU kernels with a hand-written gradient (``selective_scan_cpu``)
``triton``  compiled kernels for CUDA GPUs, likewise (``triton.selective_scan``), to N = 256
``torch``   chunks of a parallel scan in plain torch, on any device
``mamba``   the CUDA kernel of the package mamba-ssm, where the user has installed it
``ref``     the loop over frames
==========  ==========================================================================
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from espnet_spike.errors import UserError
from espnet_spike.nn.ops import backends, selective_scan_cpu
from espnet_spike.nn.ops.backends import scripted
from espnet_spike.utils.options import choose

BACKENDS = ("auto", "numba", "triton", "torch", "mamba", "ref")
# Frames the torch backend scans at once, at most; log2 of it is the depth of its scan.
TORCH_CHUNK = 32


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    lengths: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    backend: str = "auto",
    memory: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan over time. Arguments and shapes are those of mamba-ssm's ``selective_scan_fn``.

    Half-precision inputs are computed in float32. All tensors may be views; time-major storage,
    ``(B, L, D)`` transposed, is what the CPU path takes without a copy.

    Args:
        u: input ``(B, D, L)``.
        delta: step sizes ``(B, D, L)``.
        A: ``(D, N)``, negative for a state that decays.
        B: ``(B, N, L)``.
        C: ``(B, N, L)``.
        D: weight of the skip path ``(D,)``, or None.
        delta_bias: ``(D,)``, added to ``delta``.
        delta_softplus: delta becomes softplus(delta + delta_bias).
        lengths: valid frames ``(B,)``: y is 0 after them and the state stays what it was.
        initial_state: ``(B, D, N)``; zeros if None.
        return_last_state: also return the state after the last valid frame, to go on from.
        backend: one of ``BACKENDS``; ``auto`` takes ``numba`` on a CPU, on a GPU ``mamba`` if
            mamba-ssm is installed and can do it, else ``triton`` if that can, else ``torch``.
        memory: MiB that the states of ``torch`` may take: it scans fewer frames at once, one after
            the other at the least (two tensors of ``(B, D, N)``); None for ``TORCH_CHUNK`` frames.

    Returns:
        y ``(B, D, L)`` in the dtype of ``u``, or ``(y, last_state)`` with ``(B, D, N)``.

    Raises:
        UserError: the package the backend needs is not installed, or a backend that was chosen by
            its name cannot run here, or do what is asked.
        ValueError: an unknown backend.
    """
    if not torch.compiler.is_compiling():
        backend = _choose_backend(backend, u, A, initial_state is None)
    dtype = u.dtype
    compute = torch.promote_types(torch.promote_types(dtype, A.dtype), torch.float32)
    if backend != "triton":  # its kernels read half precision, and compute in single as well
        u, delta, A, B, C = (x.to(compute) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta.to(compute) + delta_bias.to(compute)[:, None]
    if delta_softplus:
        delta = F.softplus(delta.to(compute))
    D = u.new_zeros(u.shape[1]) if D is None else D.to(compute)
    if torch.compiler.is_compiling():
        inputs = (u, delta, A, B, C, D, lengths, initial_state)
        y, state = _compiled_scan(*inputs, backend, memory)
        y = y.mT.to(dtype)
        return (y, state) if return_last_state else y
    if u.numel() * A.numel() == 0:
        y, state = u * D[:, None], u.new_zeros(u.shape[0], *A.shape)
        state = state if initial_state is None else initial_state.to(compute)
    elif backend == "mamba":
        y, state = _mamba_scan(u, delta, A, B, C, D, lengths)
    elif backend == "triton":
        if lengths is None:
            lengths = torch.full((u.shape[0],), u.shape[2], device=u.device)
        lengths = lengths.to(u.device, torch.int64)
        first = None if initial_state is None else initial_state[None]
        y, state = _TritonScan.apply(lengths, first, u, delta, A, B, C, D)
        state = state.squeeze(0)
    else:
        if initial_state is None:
            initial_state = u.new_zeros(u.shape[0], *A.shape)
        if lengths is None:
            lengths = torch.full((u.shape[0],), u.shape[2], device=u.device)
        scans = {"numba": _numba_scan, "torch": _torch_scan, "ref": selective_scan_ref}
        scan = scripted(selective_scan_ref) if backend == "scripted" else scans[backend]
        lengths = lengths.to(u.device, torch.int64)
        conf = (torch_chunk(u, A.shape[1], memory),) if backend == "torch" else ()
        y, state = scan(u, delta, A, B, C, D, lengths, initial_state.to(compute), *conf)
    return (y.to(dtype), state) if return_last_state else y.to(dtype)


def takes_both(u: Tensor, states: int, backend: str = "auto") -> bool:
    """Return whether both directions of an utterance can go in one launch: on a GPU, by Triton.

    Args:
        u: of the scan, or of its device and type.
        states: N.
        backend: one of ``BACKENDS``; ``auto`` prefers mamba-ssm, which has one direction a launch.
    """
    if torch.compiler.is_compiling():
        return False
    if backend == "auto" and importlib.util.find_spec("mamba_ssm"):
        return False
    kernels = backends.fused(u, "selective_scan") if backend in ("auto", "triton") else None
    return kernels is not None and states <= kernels.MOST_STATES


def scan_both(
    forwards: Sequence[Tensor],
    backwards: Sequence[Tensor],
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Scan an utterance in both directions, in one launch where ``takes_both``.

    Args:
        forwards: u, delta, A, B, C and D as of ``selective_scan``, delta after bias and softplus.
        backwards: the same of the utterance turned round by ``reverse_valid``: what makes them
            runs backwards as well.
        lengths: valid frames ``(B,)``; None when all are.
        backend: one of ``BACKENDS``.

    Returns:
        y ``(B, D, L)`` of each direction, both in the order of the utterance. Values and gradients
        are those of two scans, to the bit.

    Raises:
        UserError: as of ``selective_scan``.
    """
    u, A = forwards[0], forwards[2]
    if not takes_both(u, A.shape[1], backend):
        scan: Any = selective_scan
        y, turned = (
            scan(*inputs, lengths=lengths, backend=backend) for inputs in (forwards, backwards)
        )
        return y, reverse_valid(turned.mT, lengths).mT
    if lengths is None:
        lengths = torch.full((u.shape[0],), u.shape[2], device=u.device)
    lengths = lengths.to(u.device, torch.int64)
    y, turned, _ = _TritonScan.apply(lengths, None, *forwards, *backwards)
    return y, turned


@torch.library.custom_op("espnet_spike::selective_scan", mutates_args=())
def _compiled_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Tensor | None,
    state: Tensor | None,
    backend: str,
    memory: float | None,
) -> tuple[Tensor, Tensor]:
    """Return y ``(B, L, D)`` and the last state: one operation within ``torch.compile``.

    Its kernels run as ever. For gradients it runs once more, as a checkpointed layer does.
    """
    y, last = _scan_of((u, delta, A, B, C, D), (lengths, state, backend, memory))
    return y.mT.contiguous(), last.clone(memory_format=torch.contiguous_format)


@_compiled_scan.register_fake
def _(u, delta, A, B, C, D, lengths, state, backend, memory):  # noqa: ANN001
    batch, channels, length = u.shape
    wide = torch.promote_types(torch.promote_types(u.dtype, A.dtype), torch.float32)
    last = u.new_empty((batch, channels, A.shape[1]), dtype=wide)
    return u.new_empty((batch, length, channels)), last


@torch.library.custom_op("espnet_spike::selective_scan_backward", mutates_args=())
def _compiled_scan_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Tensor | None,
    state: Tensor | None,
    backend: str,
    memory: float | None,
) -> list[Tensor]:
    tensors = [x for x in (u, delta, A, B, C, D, state) if x is not None]
    leaves = [x.detach().requires_grad_() for x in tensors]
    with _differentiable():
        first = leaves[6] if state is not None else None
        y, last = _scan_of(leaves[:6], (lengths, first, backend, memory))
        grads = torch.autograd.grad((y.mT, last), leaves, (grad_y, grad_state))
    return _time_major(grads)


@_compiled_scan_backward.register_fake
def _(grad_y, grad_state, u, delta, A, B, C, D, lengths, state, backend, memory):  # noqa: ANN001
    return _time_major(
        [x.new_empty(x.shape) for x in (u, delta, A, B, C, D, state) if x is not None]
    )


def _keep_inputs(ctx, inputs, output):  # noqa: ANN001
    *tensors, ctx.backend, ctx.memory = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad_y, grad_state):  # noqa: ANN001
    saved = ctx.saved_tensors
    grads = _compiled_scan_backward(grad_y, grad_state, *saved, ctx.backend, ctx.memory)
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, *of_state = grads
    grads = grad_u.mT, grad_delta.mT, grad_A, grad_B.mT, grad_C.mT, grad_D
    return *grads, None, *(of_state or [None]), None, None


_compiled_scan.register_autograd(_gradients, setup_context=_keep_inputs)


def _time_major(grads: Sequence[Tensor]) -> list[Tensor]:
    """Return copies, those of u, delta, B and C with time second: as the tensors lie in memory.

    A compiler takes gradients for lying like that.
    """
    turned = [g.mT if at in (0, 1, 3, 4) else g for at, g in enumerate(grads)]
    return [g.clone(memory_format=torch.contiguous_format) for g in turned]


@contextmanager
def _differentiable() -> Iterator[None]:
    """Let torch note gradients, which it does not inside an operation that is one to it."""
    autograd = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradFunctionality)
    include = torch._C._dispatch_tls_local_include_set()
    exclude = torch._C._dispatch_tls_local_exclude_set() - autograd
    with torch._C._ForceDispatchKeyGuard(include, exclude), torch.enable_grad():
        yield


def _scan_of(inputs: Sequence[Tensor], rest: tuple) -> tuple[Tensor, Tensor]:
    lengths, state, backend, memory = rest
    scan: Any = selective_scan
    return scan(
        *inputs,
        lengths=lengths,
        initial_state=state,
        return_last_state=True,
        backend=backend,
        memory=memory,
    )


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scan frame by frame: the definition the other backends are tested against.

    Args:
        u: ``(B, D, L)``.
        delta: ``(B, D, L)``, after bias and softplus.
        A: ``(D, N)``.
        B: ``(B, N, L)``.
        C: ``(B, N, L)``.
        D: ``(D,)``.
        lengths: ``(B,)``.
        state: ``(B, D, N)``.

    Returns:
        y ``(B, D, L)`` and the last state ``(B, D, N)``.
    """
    y = []
    for t in range(u.shape[2]):
        u_t, delta_t = u[:, :, t, None], delta[:, :, t, None]
        b_t, c_t = B[:, None, :, t], C[:, None, :, t]
        new = torch.exp(delta_t * A) * state + delta_t * b_t * u_t
        valid = (t < lengths)[:, None]
        state = torch.where(valid[..., None], new, state)
        y_t = (c_t * new).sum(2) + D * u[:, :, t]
        y.append(torch.where(valid, y_t, 0))
    return torch.stack(y, 2), state


def reverse_valid(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverse the valid frames of ``x`` ``(B, L, ...)`` in time; padding stays where it is.

    Args:
        x: ``(B, L, ...)``.
        lengths: ``(B,)``; None reverses all L frames.

    Returns:
        the same shape; applied twice it gives ``x`` again.
    """
    if lengths is None:
        return x.flip(1)
    return _ReverseValid.apply(x, lengths)


class _ReverseValid(torch.autograd.Function):
    # torch's gradient of an index is an accumulating scatter; here it is the same copy of rows
    @staticmethod
    def forward(ctx, x, lengths):  # noqa: ANN001
        ctx.save_for_backward(lengths)
        t = torch.arange(x.shape[1], device=x.device)
        mirrored = lengths.to(x.device)[:, None] - 1 - t
        rows = torch.where(mirrored >= 0, mirrored, t)
        rows = rows + torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
        return x.flatten(0, 1).index_select(0, rows.flatten()).view(x.shape)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        return _ReverseValid.apply(grad, ctx.saved_tensors[0]), None


def _choose_backend(backend: str, u: Tensor, A: Tensor, from_zero: bool) -> str:
    choose("scan backend", backend, BACKENDS)
    if torch.jit.is_tracing():
        return "scripted"  # the others would be traced for one length, or as a constant
    if backend == "auto":
        if u.device.type == "cuda" and from_zero and importlib.util.find_spec("mamba_ssm"):
            return "mamba"
        kernels = backends.fused(u, "selective_scan")
        if kernels is not None and A.shape[1] <= kernels.MOST_STATES:
            return "triton"
        if u.device.type != "cpu":
            return "torch"
        backend = "numba"
    if backend == "numba":
        if u.device.type != "cpu":
            raise _elsewhere(f"numba runs on a CPU, not on {u.device.type}")
        if not backends.available():
            raise UserError(
                "the selective scan on a CPU needs the package numba, which is not installed",
                "install numba, or choose the slower plain torch: scan_backend: torch",
            )
    if backend == "triton":
        kernels = backends.fused(u, "selective_scan") if u.numel() else None
        if u.numel() and kernels is None:
            where = f"{u.device.type} in {u.dtype}"
            raise _elsewhere(
                f"triton runs on a CUDA GPU in half or single precision, not on {where}"
            )
        if kernels and A.shape[1] > kernels.MOST_STATES:
            most = kernels.MOST_STATES
            raise _elsewhere(f"triton takes {most} states, not {A.shape[1]}")
    if backend == "mamba" and not from_zero:
        raise _elsewhere("mamba takes no initial state, which streams and decoders have")
    return backend


def _elsewhere(why: str) -> UserError:
    return UserError(
        f"scan_backend: {why}",
        "write scan_backend: auto, for a trained model into the encoder_conf (or decoder_conf) of "
        "its config.yaml: parameters are the same, results are up to rounding",
    )


def _numba_scan(u, delta, A, B, C, D, lengths, state):  # noqa: ANN001
    y, state = selective_scan_cpu.scan(
        *(u.transpose(1, 2), delta.transpose(1, 2)),
        *(A.t(), B.mT, C.mT, D, lengths, state.transpose(1, 2)),
    )
    return y.transpose(1, 2), state.transpose(1, 2)


class _TritonScan(torch.autograd.Function):
    """The scan of Triton kernels; half precision comes in and goes out as it is.

    Takes the inputs of one direction or of two; returns y of each and the last states.
    """

    @staticmethod
    def forward(ctx, lengths, state, *inputs):  # noqa: ANN001
        ctx.kernels = backends.fused_kernels("selective_scan")
        keep = any(ctx.needs_input_grad)
        y, last, states = ctx.kernels.forward(
            _directions(ctx.kernels, inputs), lengths, state, keep
        )
        ctx.save_for_backward(lengths, state, states, *inputs)
        return *y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # noqa: ANN001
        lengths, state, states, *inputs = ctx.saved_tensors
        directions = _directions(ctx.kernels, inputs)
        found, grad_state = ctx.kernels.backward(
            directions, lengths, state, states, grads[:-1], grads[-1]
        )
        grad_state = None if state is None else grad_state.to(state.dtype)
        return None, grad_state, *(grad for direction in found for grad in direction)


def _directions(kernels: ModuleType, inputs: Sequence[Tensor]) -> list:
    return [kernels.Direction(*inputs[n : n + 6]) for n in range(0, len(inputs), 6)]


def _mamba_scan(u, delta, A, B, C, D, lengths):  # noqa: ANN001
    try:
        from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
            selective_scan_fn,
        )
    except ImportError as error:
        raise UserError(
            f"scan_backend: mamba needs the package mamba-ssm ({error})",
            "install mamba-ssm for your CUDA version, or choose scan_backend: auto",
        ) from error
    if lengths is None:
        inputs = [x.contiguous() for x in (u, delta, A, B, C)]
        return selective_scan_fn(*inputs, D, return_last_state=True)
    padding, (u, delta, B, C) = _without_padding(lengths.to(u.device), u, delta, B, C)
    inputs = [x.contiguous() for x in (u, delta, A, B, C)]
    y, state = selective_scan_fn(*inputs, D, return_last_state=True)
    return y.masked_fill(padding, 0), state


def torch_chunk(u: Tensor, states: int, memory: float | None) -> int:
    """Return how many frames the torch backend scans at once, a power of 2.

    Args:
        u: ``(B, D, L)``.
        states: N.
        memory: MiB for tensors ``(K, B, D, N)``; None for no bound.

    Raises:
        ValueError: a bound that is not positive.
    """
    if memory is None:
        return TORCH_CHUNK
    if memory <= 0:
        raise ValueError(f"scan_memory: {memory} MiB is not positive")
    frame = u.shape[0] * u.shape[1] * states * u.element_size()
    chunk, depth = 1, 0
    # the backward pass keeps six such tensors and four of each step
    while chunk < TORCH_CHUNK and 2 * chunk * frame * (6 + 4 * (depth + 1)) <= memory * 2**20:
        chunk, depth = 2 * chunk, depth + 1
    return chunk


def _torch_scan(u, delta, A, B, C, D, lengths, state, frames):  # noqa: ANN001
    """Scan chunk by chunk, so that only one chunk's ``(K, B, D, N)`` exists at a time."""
    padding, (u, delta, B, C) = _without_padding(lengths, u, delta, B, C)
    y = []
    for chunk in zip(*(x.split(frames, 2) for x in (u, delta, B, C)), strict=True):
        y_c, state = _TorchChunk.apply(*chunk, A, state)
        y.append(y_c)
    return (torch.cat(y, 2) + D[:, None] * u).masked_fill(padding, 0), state


def _without_padding(lengths: Tensor, *tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return where padding is, ``(B, 1, L)``, and the tensors ``(B, ..., L)`` with 0 there.

    A step size of 0 leaves the state alone: exp(0 A) = 1 and 0 B u = 0. The others are 0 as well,
    since 0 times inf would not be 0.
    """
    padding = torch.arange(tensors[0].shape[2], device=lengths.device) >= lengths[:, None, None]
    return padding, [x.masked_fill(padding, 0) for x in tensors]


class _TorchChunk(torch.autograd.Function):
    # runs the chunk again in the backward pass instead of keeping its intermediate tensors
    @staticmethod
    def forward(ctx, *inputs):  # noqa: ANN001
        ctx.save_for_backward(*inputs)
        return _torch_chunk(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # noqa: ANN001
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = _torch_chunk(*inputs)
        return torch.autograd.grad(outputs, inputs, grads)


def _torch_chunk(u, delta, B, C, A, state):  # noqa: ANN001
    """Scan one chunk in log2(K) steps: the pair (a, x) of frame t means h_t = a h_start + x.

    After the step of stride s the pair covers the last 2s frames. Products of decays only, no
    division, so nothing overflows.
    """
    delta = delta.permute(2, 0, 1)[..., None]
    a = torch.exp(delta * A)
    x = delta * u.permute(2, 0, 1)[..., None] * B.permute(2, 0, 1)[:, :, None]
    stride = 1
    while stride < a.shape[0]:
        x = torch.cat([x[:stride], torch.addcmul(x[stride:], a[stride:], x[:-stride])])
        a = torch.cat([a[:stride], a[stride:] * a[:-stride]])
        stride *= 2
    h = torch.addcmul(x, a, state)
    y = (h * C.permute(2, 0, 1)[:, :, None]).sum(-1)
    return y.permute(1, 2, 0), h[-1].clone()  # a view would keep the states of the whole chunk
