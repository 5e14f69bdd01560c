"""The Mamba block: against a step-by-step reading of its equations, and its symmetries."""

from unittest.mock import MagicMock

import pytest
import torch
from torch.nn import functional as F

from espnet_spike.nn.accounting import opened
from espnet_spike.nn.layers.fatrelu import FatPoints, named_fatrelus
from espnet_spike.nn.layers.mamba import Mamba
from espnet_spike.nn.ops.selective_scan import reverse_valid
from espnet_spike.nn.stream_state import Carries
from tests.helpers.interpreter import interpreted, kernels_on

LENGTHS = torch.tensor([13, 8, 1])


def make(**conf):
    torch.manual_seed(0)
    return Mamba(6, d_state=3, **conf).double().eval()


def batch(seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, 13, 6, generator=g, dtype=torch.float64)


def mask():
    return torch.arange(13) < LENGTHS[:, None]


def direction_by_hand(ssm, x):
    """One utterance ``(L, E)``, frame by frame, as the paper writes it."""
    kernel = ssm.conv.weight[:, 0]
    padded = torch.cat([x.new_zeros(kernel.shape[1] - 1, x.shape[1]), x])
    h = x.new_zeros(ssm.A_log.shape)
    y = []
    for t in range(len(x)):
        v = F.silu((padded[t : t + kernel.shape[1]].T * kernel).sum(1) + ssm.conv.bias)
        dt_r, B, C = torch.split(ssm.x_proj.weight @ v, ssm.sizes)
        delta = F.softplus(ssm.dt_proj.weight @ dt_r + ssm.dt_proj.bias)
        h = torch.exp(delta[:, None] * -torch.exp(ssm.A_log)) * h + (delta * v)[:, None] * B
        y.append(h @ C + ssm.D * v)
    return torch.stack(y)


@pytest.mark.parametrize("bidirectional", [False, True])
@torch.no_grad()
def test_equals_the_equations(bidirectional):
    mamba = make(bidirectional=bidirectional)
    u = batch()
    out = mamba(u, LENGTHS, mask())
    for row, n in enumerate(LENGTHS):
        x, z = (mamba.in_proj.weight @ u[row, :n].T).T.chunk(2, 1)
        y = direction_by_hand(mamba.ssm, x)
        if bidirectional:
            y = (y + direction_by_hand(mamba.ssm_reverse, x.flip(0)).flip(0)) / 2
        want = (mamba.out_proj.weight @ (y * F.silu(z)).T).T
        torch.testing.assert_close(out[row, :n], want)


@torch.no_grad()
def test_reversed_input_with_swapped_directions():
    mamba = make()
    u = batch()
    out = mamba(u, LENGTHS, mask())
    mamba.ssm, mamba.ssm_reverse = mamba.ssm_reverse, mamba.ssm
    mirrored = mamba(reverse_valid(u, LENGTHS), LENGTHS, mask())
    torch.testing.assert_close(reverse_valid(mirrored, LENGTHS)[mask()], out[mask()])


@pytest.mark.parametrize("points", ["none", "optimized"])
@torch.no_grad()
def test_padding_does_not_matter(points):
    mamba = make(points=FatPoints(points, T=0.05))
    u = batch()
    out = mamba(u, LENGTHS, mask())
    sparsity = {n: float(m.sparsity.fraction) for n, m in named_fatrelus(mamba).items()}
    dirty = mamba(u.masked_fill(~mask()[..., None], 1e3), LENGTHS, mask())
    torch.testing.assert_close(dirty[mask()], out[mask()], rtol=1e-12, atol=1e-12)
    assert sparsity == {n: float(m.sparsity.fraction) for n, m in named_fatrelus(mamba).items()}
    for row, n in enumerate(LENGTHS):
        alone = mamba(u[row : row + 1, :n], LENGTHS[row : row + 1])
        torch.testing.assert_close(alone[0], out[row, :n])


@pytest.mark.parametrize("chunk", [1, 2, 5])
@torch.no_grad()
def test_stream_equals_the_whole(chunk):
    mamba = make(bidirectional=False)
    u = batch()
    whole = mamba(u, torch.tensor([13, 13, 13]))
    stream, parts = Carries(mamba), []
    for part in u.split(chunk, 1):
        with stream.active():
            parts.append(mamba(part, torch.full((3,), part.shape[1])))
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert torch.equal(mamba(u, torch.tensor([13, 13, 13])), whole)
    both = make()
    with Carries(both).active(), pytest.raises(ValueError, match="cannot stream"):
        both(u, LENGTHS)


@torch.no_grad()
def test_causal_in_one_direction_only():
    u = batch()
    changed = u.clone()
    changed[:, 7:] += 1
    full = torch.tensor([13, 13, 13])
    one, both = make(bidirectional=False), make()
    assert torch.equal(one(u, full)[:, :7], one(changed, full)[:, :7])
    assert not torch.allclose(both(u, full)[:, :7], both(changed, full)[:, :7])


def test_parameters_of_the_published_size():
    assert sum(p.numel() for p in Mamba(512, bidirectional=False).parameters()) == 1_694_720
    assert sum(p.numel() for p in Mamba(512).parameters()) == 1_816_576


def test_start_values_survive_espnet_init():
    from espnet2.torch_utils.initialize import initialize

    mamba = Mamba(32, points=FatPoints("optimized", T=0.1))
    initialize(mamba, "xavier_uniform")
    for ssm in (mamba.ssm, mamba.ssm_reverse):
        torch.testing.assert_close(ssm.A_log.exp(), torch.arange(1.0, 17).expand(64, -1))
        assert ssm.D.eq(1).all()
        dt = F.softplus(ssm.dt_proj.bias)
        assert ((dt > 0.9e-3) & (dt < 0.11)).all()
        assert dt.max() / dt.min() > 5
        assert ssm.conv.bias.any()
        assert ssm.A_log._no_weight_decay and ssm.D._no_weight_decay
    assert {round(float(m.T.detach()), 5) for m in named_fatrelus(mamba).values()} == {0.1}


@interpreted
def test_both_directions_go_in_one_launch_unless_someone_counts():
    torch.manual_seed(0)
    mamba, results, calls = Mamba(2, d_state=2, expand=1), [], []
    lengths = torch.tensor([5, 3])
    mask = torch.arange(5) < lengths[:, None]
    mamba.ssm_reverse.register_forward_hook(lambda *_: calls.append(1))
    for counted in (False, True):
        u = batch()[:2, :5, :2].float().requires_grad_()
        with kernels_on(True), opened(MagicMock() if counted else None):
            y = mamba(u, lengths, mask)
        leaves = [u, *mamba.parameters()]
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        assert len(calls) == counted
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_learns_to_remember():
    # the sign of the first frame, told at the last: needs the state, not the convolution
    torch.manual_seed(0)
    mamba, head = Mamba(16, bidirectional=False), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*mamba.parameters(), *head.parameters()], lr=0.03)
    losses = []
    for _ in range(240):
        x = 0.1 * torch.randn(32, 12, 16)
        sign = torch.randint(0, 2, (32,)).float()
        x[:, 0, :8] += (2 * sign - 1)[:, None]
        logits = head(mamba(x, torch.full((32,), 12))[:, -1])[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, sign)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-40:]) / 40 < 0.2
