import torch

from espnet_spike.nn.ops.selective_scan import selective_scan


def test_without_a_writable_cache(monkeypatch):
    from numba.core import caching

    from espnet_spike.nn.ops import numba_jit

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    compiled = numba_jit.jit()(lambda x: x + 1)
    assert compiled(1) == 2


def test_exponential_over_its_whole_range():
    # y after one step from state 1 with u = 0 is exp(delta A)
    exponents = torch.cat([torch.linspace(-110, 87, 4001), torch.tensor([0.0, -0.0, -1e30, 200])])
    ones = torch.ones(len(exponents), 1)
    y = selective_scan(
        torch.zeros(1, len(exponents), 1), ones[None], exponents[:, None],
        torch.ones(1, 1, 1), torch.ones(1, 1, 1), initial_state=ones[None], backend="numba",
    ).flatten()  # fmt: skip
    expected = exponents.double().exp()
    normal = (exponents > -87) & (exponents < 88)
    relative = (y.double() / expected - 1)[normal].abs().max()
    assert relative < 3e-7
    assert (y[exponents <= -87].abs() < 2e-38).all()
    assert y[exponents == 0].eq(1).all()
    assert y[-1].isinf()
