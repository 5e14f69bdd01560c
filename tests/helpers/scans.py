"""Inputs of a selective scan, and all that it gives."""

import torch

from espnet_spike.nn.ops.selective_scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "state")


def make_inputs(B, D, N, L, dtype=torch.float64, seed=0):
    """Random inputs in the shapes of ``selective_scan_ref``, all leaves of autograd."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    x = {
        "u": randn(B, D, L),
        "delta": (randn(B, D, L) - 2).exp(),
        "A": -(randn(D, N).exp()) * N**0.5,
        "B": randn(B, N, L),
        "C": randn(B, N, L),
        "D": randn(D),
        "state": randn(B, D, N),
    }
    return {name: value.requires_grad_() for name, value in x.items()}


def outputs_and_grads(x, lengths, backend, seed=1):
    """Return y, the last state and the gradient of a random functional of both."""
    y, state = selective_scan(
        x["u"], x["delta"], x["A"], x["B"], x["C"], x["D"],
        lengths=lengths, initial_state=x["state"], return_last_state=True, backend=backend,
    )  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(o.shape, generator=g, dtype=torch.float64) for o in (y, state)]
    loss = sum((w.to(o.dtype) * o).sum() for w, o in zip(weights, (y, state), strict=True))
    grads = torch.autograd.grad(loss, [x[name] for name in NAMES], materialize_grads=True)
    return dict(zip(("y", "last_state", *NAMES), (y, state, *grads), strict=True))
