"""Spiking attention: folds, masks, invariants of a map without softmax."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from espnet_spike.nn.layers.attention_modes import QK_MODES
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.heads import split_heads
from espnet_spike.nn.layers.spiking_attention import FoldedMap, SpikingAttention
from espnet_spike.nn.neurons.factory import NeuronFactory
from tests.helpers.attention import DIM, HEADS, batch, make, run


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float, 1e-5), (torch.double, 1e-10)])
@pytest.mark.parametrize("mode", ["layer_head", "none"])
@pytest.mark.parametrize("form", ["quadratic", "chunkwise"])
def test_folded_context_equals_the_unfolded(form, mode, dtype, tolerance, bias):
    attn = make(dtype=dtype, decay={"mode": mode}, qkv_bias=bias, form=form)
    x, mask, lengths = batch(dtype)
    xs = attn.neuron_in(x, mask)
    expected = attn.context(xs, mask, lengths).detach()
    attn.reparameterize(fold_qk=True)
    got = attn.context(xs, mask, lengths).detach()
    error = (got - expected)[mask].abs().max() / expected[mask].abs().max()
    assert error < tolerance
    assert not hasattr(attn, "linear_q")
    attn.reparameterize(fold_qk=True)  # once more does nothing
    assert torch.equal(attn.context(xs, mask, lengths), got)


@pytest.mark.parametrize("qk_mode", QK_MODES)
@pytest.mark.parametrize("neuron", ["imls", "ilif", "ternary", "relu"])
def test_padding_has_no_say(qk_mode, neuron):
    """Garbage in padding, a longer padding, or no batch mates: the same output."""
    attn = make(qk_mode, neuron=neuron)
    x, mask, lengths = batch()
    expected = attn(x, mask, lengths).detach()
    junk = x.masked_fill(~mask[..., None], 1e3)
    assert torch.equal(attn(junk, mask, lengths)[mask], expected[mask])
    wide = nn.functional.pad(x, (0, 0, 0, 4)), nn.functional.pad(mask, (0, 4)), lengths
    assert torch.allclose(attn(*wide)[:, :9][mask], expected[mask], rtol=1e-9)
    for b, n in enumerate(lengths):
        alone = attn(x[b : b + 1, :n], mask[b : b + 1, :n], lengths[b : b + 1])
        assert torch.allclose(alone[0], expected[b, :n], rtol=1e-9, atol=1e-12)


def test_there_is_no_softmax():
    """Doubling A doubles O; the neuron after it emits the same counts."""
    attn = make()
    x, mask, lengths = batch()
    xs = attn.neuron_in(x, mask)
    context = attn.context(xs, mask, lengths)
    attn.scale *= 2
    doubled = attn.context(xs, mask, lengths)
    assert torch.allclose(doubled, 2 * context)
    attn.neuron_out(context, mask)
    count = attn.neuron_out.firing.count_sum
    attn.neuron_out(doubled, mask)
    assert attn.neuron_out.firing.count_sum == count


@pytest.mark.parametrize("mode", ["none", "layer_head"])
def test_permutation_equivariance_holds_only_without_decay(mode):
    attn = make(decay={"mode": mode})
    x, mask, lengths = batch(lengths=torch.tensor([7]))
    order = torch.randperm(7)
    same = torch.allclose(run(attn, x[:, order], mask, lengths), run(attn, x, mask, lengths)[order])
    assert same == (mode == "none")


def test_causal_output_does_not_see_later_frames():
    attn = make(decay={"causal": True})
    x, mask, lengths = batch(lengths=torch.tensor([9]))
    part = run(attn, x[:, :5], mask[:, :5], torch.tensor([5]))
    assert torch.allclose(run(attn, x, mask, lengths)[:5], part)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), T=st.integers(1, 6))
def test_map_from_slots_on_both_sides(seed, T):
    """sum over t, t' of S[t] W_QK S[t']^T is the map of the integer counts."""
    torch.manual_seed(seed)
    neuron = NeuronFactory("imls", T)(DIM).double().eval()
    query, key = nn.Linear(DIM, DIM).double(), nn.Linear(DIM, DIM).double()
    folded = FoldedMap(query, key, HEADS, 0.5)
    x = torch.randn(2, 5, DIM, dtype=torch.double)
    y = neuron(x)
    neuron.spike_mode = "binary"
    train = neuron(x)
    expected = split_heads(query(y), HEADS) @ split_heads(key(y), HEADS).transpose(-1, -2) * 0.5
    assert torch.allclose(folded(y), expected)
    assert torch.allclose(folded(train), expected)
    weight = train.channel[:, None] * folded.weight * train.channel
    pairs = sum(
        train.slot(t)[:, None] @ weight @ train.slot(u)[:, None].transpose(-1, -2)
        for t in range(1, T + 1)
        for u in range(1, T + 1)
    )
    frame = train.frame[:, None]
    integer = y[:, None] @ folded.weight @ y[:, None].mT
    assert torch.allclose(frame * pairs * frame.mT, integer)


def test_the_map_keeps_its_precision():
    """Real Q and K follow the float map better than binary ones, in more distinct values."""
    torch.manual_seed(0)
    x = torch.randn(1, 60, 32)
    w_q, w_k = torch.randn(32, 32) / 32**0.5, torch.randn(32, 32) / 32**0.5
    target = (x @ w_q) @ (x @ w_k).mT
    xs = NeuronFactory("imls", 6)(32)(x)
    query, key = xs @ w_q, xs @ w_k
    maps = {"bilinear": query @ key.mT}
    for T in (1, 6):
        neuron = NeuronFactory("imls", T, {"stat": "fixed"})(32)
        counts = [(neuron(v) / neuron.alpha).round() for v in (query, key)]
        maps[T] = counts[0] @ counts[1].mT
    correlation = {
        k: torch.corrcoef(torch.stack([m.flatten(), target.flatten()]))[0, 1].item()
        for k, m in maps.items()
    }
    assert correlation["bilinear"] > correlation[6] > correlation[1]
    distinct = {k: len(m.unique()) for k, m in maps.items()}
    assert distinct[1] <= 32 + 1 and distinct[6] <= 32 * 6**2 + 1
    assert distinct["bilinear"] == 60 * 60


def test_bad_arguments():
    with pytest.raises(ValueError, match="did you mean 'bilinear'"):
        make("bilnear")
    with pytest.raises(ValueError, match="attention_heads: 3 does not divide"):
        SpikingAttention(8, 3, NeuronFactory("imls"), DecayMask(1, 1, 3))
    for decay in ({"causal": True}, {"learn": True}):
        with pytest.raises(ValueError, match="sdsa"):
            make("sdsa", decay=decay)
