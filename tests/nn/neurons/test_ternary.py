"""The ternary momentum neuron."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.nn.neurons.ternary import TernaryMomentum, ternary_digits


@settings(deadline=None, max_examples=50)
@given(T=st.integers(1, 8), seed=st.integers(0, 2**16), saturate=st.booleans())
def test_the_dynamics_round_to_the_nearest_level(T, seed, saturate):
    """Double the potential, fire at +-v/2, subtract v: step by step on the real input."""
    neuron = TernaryMomentum(4, T=T).double()
    make = torch.Generator().manual_seed(seed)
    x = (3 if saturate else 1) * torch.randn(1, 5, 4, generator=make, dtype=torch.double)
    y = neuron(x)
    unit = neuron.alpha * x.abs().mean(-1, keepdim=True)
    v = unit * 2 ** (T - 1)
    u = x.clamp(min=0)
    total, spikes = torch.zeros_like(x), 0
    for t in range(T):
        u = 2 * u if t else u
        s = (u >= v / 2).double() - (u <= -v / 2).double()
        u = u - v * s
        total += s * v / 2**t
        spikes += s.abs().sum()
    assert torch.allclose(total, y)
    assert neuron.firing.count_sum == spikes
    assert neuron.firing.levels == T


@pytest.mark.parametrize("T", range(1, 9))
def test_digits_add_up(T):
    counts = torch.arange(2.0**T)
    digits = torch.stack(list(ternary_digits(counts, T)))
    weights = 2.0 ** torch.arange(T - 1, -1, -1)
    assert torch.equal((digits * weights[:, None]).sum(0), counts)
    assert set(digits.unique().tolist()) <= {-1, 0, 1}


def test_an_early_spike_is_corrected():
    # v = 8: 5 fires at once (>= v/2); the rest, -3, doubles to -6 and fires back, and so on
    assert [d.item() for d in ternary_digits(torch.tensor(5.0), 4)] == [1, -1, 1, -1]


def test_fewer_spikes_than_unary():
    make = torch.Generator().manual_seed(0)
    x = torch.randn(1, 100, 64, generator=make)
    neuron = TernaryMomentum(64, T=4)
    y = neuron(x)
    counts = (y / (neuron.alpha * x.abs().mean(-1, keepdim=True))).round().sum()
    assert neuron.firing.count_sum < 0.51 * counts


def test_fewer_steps_at_inference():
    x = torch.randn(1, 5, 4)
    neuron = TernaryMomentum(4, T=4)
    neuron.set_levels(2, "rescale")
    y = neuron(x)
    unit = neuron.alpha * x.abs().mean(-1, keepdim=True)
    assert (y / unit).max() <= 3.001
    assert neuron.firing.levels == 2


def test_trains_like_imls():
    neuron = TernaryMomentum(4, T=3)
    x = torch.randn(1, 5, 4, requires_grad=True)
    neuron(x).sum().backward()
    assert x.grad.any() and neuron.a.grad.any()
