"""The kernels of batch norm over valid frames against torch, in float64."""

import pytest
import torch

from espnet_spike.nn.ops.batch_norm import batch_norm
from espnet_spike.nn.ops.triton import batch_norm as kernels
from tests.helpers.interpreter import compare, grid, interpreted, kernels_on, on_each_device, randn

# shapes (B, N, ..., C) and valid frames, None without a mask
CASES = grid(
    [((3, 5, 2, 6), (5, 0, 3))],
    [
        ((1, 1, 1), (1,)),
        ((2, 9, 5), None),
        ((2, 40, 3), (40, 1)),
        ((2, 7, 130), (7, 4)),
        ((2, 3, 4, 2, 3), (1, 2)),
        ((2, 4, 2), (0, 0)),
    ],
)


@pytest.fixture(autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        yield


def small(patch):
    for name, value in {"MOST": 4, "TILE": 8, "STEPS": 2}.items():
        patch.setattr(kernels, name, value)


def inputs_of(shape, lengths):
    mask = None if lengths is None else torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    x = 3 + 2 * randn(*shape)
    return {"x": x, "mask": mask, "weight": randn(shape[-1], seed=1), "bias": randn(shape[-1])}


def run(x, mask, weight, bias):
    return batch_norm(x, mask, weight, bias, 1e-5)


@on_each_device
@pytest.mark.parametrize("case", CASES)
def test_values_moments_and_gradients(case, device):
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            small(patch)
        compare(run, inputs_of(*case), "float32", device)


@interpreted
def test_a_large_mean_a_view_and_padding_that_is_not_a_number():
    """In fp32, of half of a projection's channels; the mean is ten thousand deviations."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        whole = 1e4 + randn(2, 9, 10)
        mask = torch.arange(9) < torch.tensor([[9], [4]])
        wanted = whole[mask][:, :5].double()
        whole[1, 4:] = float("nan")
        with kernels_on(True):
            y, mean, var, count = batch_norm(
                whole.chunk(2, -1)[0], mask, torch.ones(5), torch.zeros(5), 1e-5
            )
    assert count == 13 and mean.shape == var.shape == (5,)
    torch.testing.assert_close(mean.double(), wanted.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), wanted.var(0, correction=0), rtol=1e-3, atol=0)
    assert y.is_contiguous() and y[mask].isfinite().all()


@interpreted
def test_two_runs_are_equal_to_the_bit():
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        results = []
        for _ in range(2):
            x = inputs_of((3, 5, 2, 6), (5, 0, 3))
            x = {k: v if k == "mask" else v.requires_grad_() for k, v in x.items()}
            with kernels_on(True):
                y, *moments = run(**x)
            leaves = [x[name] for name in ("x", "weight", "bias")]
            results.append((y, *moments, *torch.autograd.grad(y.square().sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
