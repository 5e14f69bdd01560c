"""The hierarchical decay mask: numbers, symmetries, row normaliser."""

from itertools import pairwise

import pytest
import torch

from espnet_spike.nn.layers.decay_mask import HDM_MODES, DecayMask


def gamma(layer, head, layers=18, heads=8, **options):
    return DecayMask(layer, layers, heads, **options).double().log_gamma.exp()[head].item()


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


def test_slower_in_deeper_layers_and_later_heads():
    table = [[gamma(layer, head) for head in range(8)] for layer in range(1, 19)]
    assert all(a < b for row in table for a, b in pairwise(row))
    assert all(a < b for column in zip(*table, strict=True) for a, b in pairwise(column))


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
    assert set(HDM_MODES) == {"none", "same", "layer", "head", "layer_head"}
    with pytest.raises(ValueError, match="did you mean 'layer_head'"):
        DecayMask(1, 2, 2, mode="layerhead")
    with pytest.raises(ValueError, match="e_min"):
        DecayMask(1, 2, 2, e_min=0.0)
