import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.nn.ops.decay import decay_exponents, decay_matrix, decay_row_sum

gammas = st.floats(1e-3, 1.0)


def explicit(log_gamma, length, causal=False):
    """D by its definition, entry by entry."""
    i = torch.arange(length, dtype=log_gamma.dtype)
    d = torch.exp((i[:, None] - i).abs() * log_gamma[:, None, None])
    return d.tril() if causal else d


def test_modes():
    def exponents(mode, layer):
        return decay_exponents(mode, layer, 5, 4, 2.0, 6.0, 2.0)

    assert exponents("layer_head", 2) == [3.0, 3.5, 4.0, 4.5]
    assert exponents("layer", 2) == [3.75] * 4
    assert exponents("head", 2) == exponents("head", 5) == [4.0, 4.5, 5.0, 5.5]
    assert exponents("same", 1) == exponents("same", 5) == [4.75] * 4


@settings(deadline=None, max_examples=50)
@given(gamma=gammas, length=st.integers(1, 40), causal=st.booleans())
def test_matrix_is_its_definition(gamma, length, causal):
    log_gamma = torch.tensor([math.log(gamma), -0.1], dtype=torch.double)
    d = decay_matrix(log_gamma, length, causal)
    assert torch.allclose(d, explicit(log_gamma, length, causal), rtol=1e-14, atol=0)
    assert (d.diagonal(dim1=1, dim2=2) == 1).all()
    if not causal:
        assert torch.equal(d, d.transpose(1, 2))


def test_numbers_of_one_gamma():
    d = decay_matrix(torch.tensor([math.log(0.75)]), 5, False)[0]
    assert d[0, 1].item() == pytest.approx(0.75)
    assert d[0, 4].item() == pytest.approx(0.31640625)
    assert (d[0].diff() < 0).all()


def test_long_sequences_fade_to_zero():
    d = decay_matrix(torch.tensor([math.log(0.75)]), 3000, False)
    assert d.isfinite().all() and d[0, 0, -1] == 0 and d[0, 0, 0] == 1


@settings(deadline=None, max_examples=60)
@given(gamma=gammas, length=st.integers(1, 40), padding=st.integers(0, 20), causal=st.booleans())
def test_row_sum_over_valid_frames(gamma, length, padding, causal):
    log_gamma = torch.tensor([math.log(gamma), -1e-7], dtype=torch.double)
    got = decay_row_sum(log_gamma, length + padding, torch.tensor([length]), causal)[0]
    expected = explicit(log_gamma, length, causal).sum(-1)
    assert torch.allclose(got[:, :length], expected, rtol=1e-10)
    assert got.isfinite().all() and (got > 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_traced_matrix_has_any_length(causal):
    log_gamma = torch.tensor([math.log(0.75), -0.1])
    traced = torch.jit.trace(
        lambda x: decay_matrix(log_gamma, x.shape[0], causal), torch.zeros(5), check_trace=False
    )
    for length in (1, 5, 23):
        assert torch.equal(traced(torch.zeros(length)), decay_matrix(log_gamma, length, causal))
