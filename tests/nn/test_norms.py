"""Norms before the neurons; batch norm over valid frames only."""

import os

import pytest
import torch
from torch import nn

from espnet_spike.nn.checkpointing import checkpoint
from espnet_spike.nn.norms import NORMS, DyT, MaskedBatchNorm, build_norm

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 5, 3)])
def test_masked_batch_norm_is_batch_norm_of_the_valid_frames(shape):
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    for _ in range(3):
        x = (100 + 3 * torch.randn(shape, dtype=torch.double)).requires_grad_()
        y = ours(x.masked_fill(~MASK.view(2, 4, *(1,) * (len(shape) - 2)), 1e6), MASK)[MASK]
        expected = theirs(x[MASK].reshape(-1, 3)).view_as(y)
        assert torch.allclose(y, expected, atol=1e-9)
        upstream = torch.randn_like(y)
        grads = [torch.autograd.grad(out, x, upstream)[0] for out in (y, expected)]
        assert torch.allclose(*grads, atol=1e-9)
    assert torch.allclose(ours.running_mean, theirs.running_mean)
    assert torch.allclose(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x, MASK).view(-1, 3), theirs(x.reshape(-1, 3)), atol=1e-9)
    scale, shift = ours.affine()
    assert torch.allclose(ours(x), x * scale + shift)


def test_no_mask_means_all_valid():
    x = torch.randn(2, 4, 3)
    assert torch.equal(MaskedBatchNorm(3)(x), MaskedBatchNorm(3)(x, torch.ones(2, 4).bool()))


def test_one_valid_frame_stays_finite():
    norm = MaskedBatchNorm(3)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 0] = True
    assert norm(torch.randn(2, 4, 3), mask).isfinite().all()
    assert norm.running_var.isfinite().all()


def test_half_precision_keeps_fp32_statistics():
    x = (1000 + torch.randn(2, 64, 3)).bfloat16()
    norm = MaskedBatchNorm(3)
    assert norm(x).dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float
    assert torch.allclose(norm.running_mean, 0.1 * x.float().mean((0, 1)))


def test_checkpointing_updates_once():
    plain, again = MaskedBatchNorm(3), MaskedBatchNorm(3)
    x = torch.randn(2, 4, 3, requires_grad=True)
    plain(x, MASK)
    checkpoint(again, x, MASK).sum().backward()
    assert torch.equal(plain.running_mean, again.running_mean)
    assert torch.equal(plain.running_var, again.running_var)


def _halves(rank, path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2
    )
    x, mask = torch.load(f"{path}/x.pt")
    norm = MaskedBatchNorm(3).double()
    x = x[rank : rank + 1].requires_grad_()
    y = norm(x, mask[rank : rank + 1])
    y.square().mul(torch.arange(3)).sum().backward()
    parameters = (norm.weight.grad, norm.bias.grad)
    state = (norm.running_mean, norm.running_var)
    torch.save((y.detach(), x.grad, *state, *parameters), f"{path}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads can outlive the group and abort an ordinary exit


def test_statistics_are_summed_over_processes(tmp_path):
    """Two processes with one utterance each give what one process with both gives."""
    x = torch.randn(2, 4, 3, dtype=torch.double)
    torch.save((x, MASK), tmp_path / "x.pt")
    torch.multiprocessing.spawn(_halves, (str(tmp_path),), nprocs=2)
    norm = MaskedBatchNorm(3).double()
    x.requires_grad_()
    y = norm(x, MASK)
    y.square().mul(torch.arange(3)).sum().backward()
    of_parameters = [0.0, 0.0]
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        expected = (y[rank : rank + 1], x.grad[rank : rank + 1], norm.running_mean)
        assert all(torch.allclose(a, b) for a, b in zip(got, expected, strict=False))
        assert torch.allclose(got[3], norm.running_var)
        of_parameters = [a + b for a, b in zip(of_parameters, got[4:], strict=True)]
    assert torch.allclose(of_parameters[0], norm.weight.grad)
    assert torch.allclose(of_parameters[1], norm.bias.grad)


def test_dyt():
    norm = DyT(3)
    x = torch.randn(2, 4, 3)
    assert torch.allclose(norm(x), torch.tanh(0.5 * x))


def test_norms_by_name():
    for name, cls in NORMS.items():
        norm = build_norm(name, 3)
        assert isinstance(norm, cls)
        assert norm(torch.randn(2, 4, 3), MASK).shape == (2, 4, 3)
    with pytest.raises(ValueError, match="norm: 'bm' is unknown"):
        build_norm("bm", 3)
