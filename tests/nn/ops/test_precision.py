import pytest
import torch

from espnet_spike.nn.ops.precision import full_einsum, full_matmul

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_many_spikes_are_counted_under_autocast(dtype):
    spikes = torch.ones(1, 3001)
    with torch.autocast("cpu", dtype):
        assert full_matmul(spikes, spikes.mT).item() == 3001
        assert full_einsum("ab,cb->ac", spikes, spikes).item() == 3001
        assert (spikes @ spikes.mT).item() != 3001  # what it is for


@pytest.mark.parametrize("dtype", HALVES)
def test_half_inputs_give_fp32(dtype):
    x = torch.ones(2, 2, dtype=dtype)
    assert full_matmul(x, x).dtype == full_einsum("ab,bc->ac", x, x).dtype == torch.float32


def test_double_stays_double():
    x = torch.ones(2, 2, dtype=torch.float64)
    assert full_matmul(x, x.float()).dtype == torch.float64


def test_tensors_without_values_have_the_shape():
    x = torch.ones(2, 3, device="meta")
    assert full_matmul(x, x.mT).shape == full_einsum("ab,cb->ac", x, x).shape == (2, 2)
