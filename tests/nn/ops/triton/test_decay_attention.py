"""The kernel of decayed attention against the N x N map, in float64."""

import pytest
import torch

from espnet_spike.nn.checkpointing import checkpoint
from espnet_spike.nn.ops.decay_attention import decay_attention
from espnet_spike.nn.ops.triton import decay_attention as kernels
from tests.helpers.interpreter import compare, grid, interpreted, kernels_on, on_each_device, randn

# B, H, N, E, D; valid frames. A chunk has 16 frames.
CASES = grid(
    [((2, 2, 35, 5, 7), (35, 9))],
    [
        ((1, 1, 1, 1, 1), (1,)),
        ((2, 1, 16, 16, 16), (16, 0)),
        ((2, 3, 33, 20, 50), (32, 33)),
        ((1, 2, 64, 64, 4), (63,)),
    ],
)


def map_of(query, key, value, log_gamma, mask, row_scale, causal):
    """Return the same by the map of all frames."""
    frames = torch.arange(query.shape[2], dtype=query.dtype, device=query.device)
    distance = frames[:, None] - frames
    decay = torch.exp(distance.abs() * log_gamma[:, None, None])
    decay = decay.tril() if causal else decay
    value = value.masked_fill(~mask[:, None, :, None], 0.0)
    return (query @ key.mT * decay) @ value * row_scale[..., None]


@on_each_device
@pytest.mark.parametrize("dtype", grid(["float32"], ["bfloat16", "float16"]))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, causal, dtype, device):
    (B, H, N, E, D), lengths = case

    def run(query, key, value, log_gamma, mask, row_scale):
        if query.dtype == torch.float64:
            return (map_of(query, key, value, log_gamma, mask, row_scale, causal),)
        conf = {"mask": mask, "row_scale": row_scale}
        return (decay_attention(query, key, value, log_gamma, causal, **conf),)

    inputs = {
        "query": randn(B, H, N, E),
        "key": randn(B, H, N, E, seed=1),
        "value": randn(B, H, N, D, seed=2),
        "log_gamma": torch.linspace(-0.5, 0.0, H),
        "mask": torch.arange(N) < torch.tensor(lengths)[:, None],
        "row_scale": randn(B, H, N, seed=3).abs() + 0.1,
    }
    assert kernels.CHUNK == 16
    compare(run, inputs, dtype, device, singles=["log_gamma", "row_scale"])


@interpreted
@pytest.mark.parametrize("causal", [False, True])
def test_constant_factors_are_those_of_separate_passes(causal):
    """Mask, frame scale and row scale without gradient: in the kernel, as by themselves."""
    q, k, v = (randn(2, 2, 20, 4, seed=n).requires_grad_() for n in range(3))
    mask, log_gamma = torch.arange(20) < torch.tensor([[20], [7]]), torch.tensor([-0.3, -0.01])
    frame, row = randn(2, 20, seed=5).abs(), randn(2, 2, 20, seed=6).abs()
    results = []
    for wanted in (True, False):
        with kernels_on(wanted):
            o = decay_attention(
                q, k, v, log_gamma, causal, mask=mask, frame_scale=frame, row_scale=row
            )
            results.append((o, *torch.autograd.grad(o.square().sum(), (q, k, v))))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


@interpreted
def test_padding_has_no_say_whatever_it_holds():
    q, k, v = (randn(2, 1, 20, 4, seed=n) for n in range(3))
    results = []
    for filling in (0.0, float("nan")):
        for x in (k, v):
            x[1, :, 6:] = filling
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        mask = torch.arange(20) < torch.tensor([[20], [6]])
        with kernels_on(True):
            o = decay_attention(*leaves, torch.tensor([-0.2]), mask=mask)
        results.append((o, *torch.autograd.grad(o.sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@interpreted
def test_under_autocast_and_checkpointing():
    """Kernels of both passes run as without: the result is fp32, the gradients are the same."""
    x, weight = randn(2, 20, 8), (randn(8, 8, seed=1) / 3).requires_grad_()

    def block(x):
        heads = (x @ weight).unflatten(2, (2, 4)).transpose(1, 2)
        return decay_attention(heads, heads, heads, torch.tensor([-0.3, 0.0]))

    results = []
    for run in (block, lambda x: checkpoint(block, x)):
        with kernels_on(True), torch.autocast("cpu", torch.bfloat16):
            o = run(x)
            results.append((o, *torch.autograd.grad(o.square().sum(), weight)))
    assert results[0][0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
