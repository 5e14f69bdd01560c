"""The hierarchical decay mask: numbers, symmetries, row normaliser."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.nn.layers.decay_mask import HDM_MODES, DecayMask
from espnet_spike.nn.ops.decay import decay_exponents, decay_matrix, decay_row_sum

gammas = st.floats(1e-3, 1.0)


def gamma(layer, head, layers=18, heads=8, **options):
    return DecayMask(layer, layers, heads, **options).double().log_gamma.exp()[head].item()


def explicit(log_gamma, length, causal=False):
    """D by its definition, entry by entry."""
    i = torch.arange(length, dtype=log_gamma.dtype)
    d = torch.exp((i[:, None] - i).abs() * log_gamma[:, None, None])
    return d.tril() if causal else d


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (1, [0.75000, 0.85135, 0.92567]),
        (6, [0.88939, 0.93423, 0.96712]),
        (12, [0.95843, 0.97528, 0.98764]),
        (18, [0.98438, 0.99071, 0.99535]),
    ],
)
def test_default_values(layer, values):
    for head, value in zip((0, 3, 7), values, strict=True):
        assert gamma(layer, head) == pytest.approx(value, abs=6e-6)


def test_one_layer_takes_e_min():
    assert gamma(1, 0, layers=1) == pytest.approx(0.75)


def test_modes():
    def exponents(mode, layer):
        return decay_exponents(mode, layer, 5, 4, 2.0, 6.0, 2.0)

    assert exponents("layer_head", 2) == [3.0, 3.5, 4.0, 4.5]
    assert exponents("layer", 2) == [3.75] * 4
    assert exponents("head", 2) == exponents("head", 5) == [4.0, 4.5, 5.0, 5.5]
    assert exponents("same", 1) == exponents("same", 5) == [4.75] * 4
    assert set(HDM_MODES) == {"none", "same", "layer", "head", "layer_head"}


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


def test_slower_in_deeper_layers_and_later_heads():
    table = [[gamma(layer, head) for head in range(8)] for layer in range(1, 19)]
    assert all(a < b for row in table for a, b in pairwise(row))
    assert all(a < b for column in zip(*table, strict=True) for a, b in pairwise(column))


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


def test_row_scale():
    mask = DecayMask(1, 2, 2)
    d = mask.matrix(6)[:, :4, :4]
    scale = mask.row_scale(6, torch.tensor([4, 0]))
    assert torch.allclose(scale[0, :, :4], d.sum(-1).rsqrt(), rtol=1e-6)
    assert scale.isfinite().all()
    assert DecayMask(1, 2, 2, norm=False).row_scale(6, torch.tensor([4])) is None


def test_no_decay():
    mask = DecayMask(1, 2, 3, mode="none")
    assert mask.matrix(5) is None
    scale = mask.row_scale(5, torch.tensor([4]))[:, :, :4]
    assert torch.allclose(scale, torch.full((1, 3, 4), 0.5))
    causal = DecayMask(1, 2, 3, mode="none", causal=True)
    assert torch.equal(causal.matrix(4)[0], torch.ones(4, 4).tril())


def test_learned_decay_starts_at_the_formula_and_gets_gradients():
    learned, fixed = DecayMask(2, 4, 3, learn=True), DecayMask(2, 4, 3)
    assert torch.allclose(learned.log_gamma, fixed.log_gamma, rtol=1e-5)
    assert [n for n, _ in learned.named_parameters()] == ["logit"]
    assert not list(fixed.parameters()) and not fixed.state_dict()
    total = learned.matrix(6).sum() + learned.row_scale(6, torch.tensor([5])).sum()
    total.backward()
    assert learned.logit.grad.isfinite().all() and learned.logit.grad.all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="did you mean 'layer_head'"):
        DecayMask(1, 2, 2, mode="layerhead")
    with pytest.raises(ValueError, match="e_min"):
        DecayMask(1, 2, 2, e_min=0.0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_traced_matrix_has_any_length(causal):
    log_gamma = torch.tensor([math.log(0.75), -0.1])
    traced = torch.jit.trace(
        lambda x: decay_matrix(log_gamma, x.shape[0], causal), torch.zeros(5), check_trace=False
    )
    for length in (1, 5, 23):
        assert torch.equal(traced(torch.zeros(length)), decay_matrix(log_gamma, length, causal))
