"""The chunkwise form of decay attention equals the N x N form, without its memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.nn.layers import spiking_attention
from espnet_spike.nn.layers.attention_modes import QK_MODES, build_attention
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.spiking_attention import (
    CHUNKWISE_FROM,
    FUSED_FROM,
    SpikingAttention,
)
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.decay_attention import CHUNK, decay_attention
from tests.helpers.largest_tensor import LargestTensor

GAMMAS = [0.05, 0.75, 0.97, 1.0]


def quadratic(q, k, v, log_gamma, causal):
    """The definition, term by term."""
    n = torch.arange(q.shape[2], dtype=q.dtype)
    distance = n[:, None] - n
    decay = torch.exp(distance.abs() * log_gamma[:, None, None])
    if causal:
        decay = decay * (distance >= 0)
    return (q @ k.transpose(-1, -2) * decay) @ v


def sequences(length, batch=2, gammas=GAMMAS, dims=(3, 5), dtype=torch.double, seed=0):
    """Return q, k, v and log gamma, all asking for gradients."""
    make = torch.Generator().manual_seed(seed)
    heads = len(gammas)
    shapes = [(batch, heads, length, dim) for dim in (dims[0], dims[0], dims[1])]
    tensors = [torch.randn(shape, generator=make, dtype=dtype) for shape in shapes]
    log_gamma = torch.tensor([math.log(g) for g in gammas], dtype=dtype)
    return [t.requires_grad_() for t in (*tensors, log_gamma)]


def with_gradients(function, tensors, seed=1):
    """Return the output and the gradient of every tensor for a random upstream gradient."""
    out = function(*tensors)
    make = torch.Generator().manual_seed(seed)
    upstream = torch.randn(out.shape, generator=make, dtype=torch.double).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, tensors, upstream)


def assert_equal(got, expected, tolerance):
    """Compare relative to the largest entry."""
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.isfinite().all()
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 33, 48])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-11), (torch.float, 1e-5)])
def test_grid_equals_the_definition(length, chunk, causal, dtype, tolerance):
    tensors = sequences(length, dtype=dtype)
    got = with_gradients(lambda *t: decay_attention(*t, causal, chunk), tensors)
    expected = with_gradients(lambda *t: quadratic(*t, causal), tensors)
    assert_equal(got, expected, tolerance)


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck(causal):
    tensors = sequences(7, batch=1, gammas=[0.75, 0.97])
    assert torch.autograd.gradcheck(lambda *t: decay_attention(*t, causal, 3), tensors)


@pytest.mark.parametrize("causal", [False, True])
def test_no_decay_is_linear_attention(causal):
    q, k, v, _ = sequences(21, gammas=[1.0])
    got = decay_attention(q, k, v, None, causal, 8)
    kv = k[..., None] * v[..., None, :]
    state = kv.cumsum(2) if causal else kv.sum(2, keepdim=True)
    expected = (q[..., None, :] @ state)[..., 0, :]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_long_input_stays_finite_and_exact(causal):
    """0.75**-3000 is beyond fp64; here no power is negative."""
    tensors = sequences(3000, batch=1, gammas=[0.75, 0.984], dims=(4, 4), dtype=torch.float)
    got = with_gradients(lambda *t: decay_attention(*t, causal), tensors)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    exact = with_gradients(lambda *t: quadratic(*t, causal), doubles)
    assert_equal(got, [t.float() for t in exact], 1e-5)


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 60),
    chunk=st.integers(1, 70),
    gamma=st.floats(1e-3, 1.0),
    causal=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_chunk_size_gives_the_same(length, chunk, gamma, causal, seed):
    tensors = sequences(length, batch=1, gammas=[gamma, 0.9], seed=seed)
    got = with_gradients(lambda *t: decay_attention(*t, causal, chunk), tensors)
    expected = with_gradients(lambda *t: decay_attention(*t, causal, length), tensors)
    assert_equal(got, expected, 1e-10)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 50), chunk=st.integers(1, 60), seed=st.integers(0, 2**16))
def test_reversing_time_reverses_the_output(length, chunk, seed):
    q, k, v, log_gamma = sequences(length, seed=seed)
    forth = decay_attention(q, k, v, log_gamma, False, chunk)
    back = decay_attention(q.flip(2), k.flip(2), v.flip(2), log_gamma, False, chunk)
    torch.testing.assert_close(back.flip(2), forth)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(2, 50), chunk=st.integers(1, 60), data=st.data())
def test_causal_output_does_not_see_later_frames(length, chunk, data):
    seen = data.draw(st.integers(1, length - 1))
    q, k, v, log_gamma = sequences(length)
    whole = decay_attention(q, k, v, log_gamma, True, chunk)
    part = decay_attention(*(t[:, :, :seen] for t in (q, k, v)), log_gamma, True, chunk)
    torch.testing.assert_close(whole[:, :, :seen], part)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 40), padding=st.integers(0, 40), chunk=st.integers(1, 50))
def test_padding_with_zero_values_changes_nothing(length, padding, chunk):
    q, k, v, log_gamma = sequences(length + padding)
    v = v.detach().clone()
    v[:, :, length:] = 0
    padded = decay_attention(q, k, v, log_gamma, False, chunk)[:, :, :length]
    alone = decay_attention(*(t[:, :, :length] for t in (q, k, v)), log_gamma, False, chunk)
    torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_in_the_length(causal):
    length, heads, dim = 4096, 2, 8
    tensors = sequences(length, batch=1, gammas=[0.9] * heads, dims=(dim, dim), dtype=torch.float)
    with LargestTensor() as largest:
        decay_attention(*tensors, causal).sum().backward()
    assert largest.elements == length * heads * dim  # the output and the gradients of its inputs
    with LargestTensor() as largest:
        quadratic(*tensors, causal)
    assert largest.elements == length * length * heads  # the measure does see the map


def test_forward_needs_one_chunk_beside_the_output(monkeypatch):
    length, heads, dim = 4096, 2, 8
    tensors = sequences(length, batch=1, gammas=[0.9] * heads, dims=(dim, dim), dtype=torch.float)
    out = torch.empty(1, length, heads, dim)
    # the output is handed in from outside, so that the largest tensor made is a working one
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: out)
    with torch.no_grad(), LargestTensor() as largest:
        decay_attention(*tensors, False)
    monkeypatch.setattr(torch, "empty", empty)
    assert largest.elements <= heads * max(CHUNK * CHUNK, CHUNK * dim, dim * dim) * 2


def test_autocast_keeps_fp32():
    q, k, v, log_gamma = (t.detach() for t in sequences(40, dtype=torch.float))
    halves = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        out = decay_attention(*halves, log_gamma, False, 16)
        out.sum().backward()
    exact = quadratic(*(t.detach().float() for t in halves), log_gamma, False)
    assert out.dtype == torch.float
    torch.testing.assert_close(out, exact, rtol=1e-5, atol=1e-5)
    assert all(t.grad.dtype == torch.bfloat16 for t in halves)


def test_chunk_must_be_positive():
    with pytest.raises(ValueError, match="chunk: 0"):
        decay_attention(*sequences(4), False, 0)


def make_attention(form="auto", mode="layer_head", **options):
    torch.manual_seed(0)
    decay = DecayMask(1, 2, 2, mode=mode, **options)
    return SpikingAttention(8, 2, NeuronFactory("imls", 6), decay, form=form)


def attend_both(attn, length, lengths, dtype):
    """Return output and gradients of ``attend`` in both forms."""
    attn = attn.to(dtype)
    lengths = torch.tensor(lengths)
    mask = torch.arange(length) < lengths[:, None]
    make = torch.Generator().manual_seed(2)
    q, k, v = (
        torch.randn(len(lengths), length, 8, generator=make, dtype=dtype).requires_grad_()
        for _ in range(3)
    )
    tensors = [q, k, v] + ([attn.decay.logit] if attn.decay.learn else [])
    results = []
    for form in ("chunkwise", "quadratic"):
        attn.form = form
        results.append(with_gradients(lambda *_: attn.attend(q, k, v, mask, lengths), tensors))
    return results


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", ["layer_head", "same", "none"])
@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize(("length", "lengths"), [(300, [300, 171, 1]), (128, [128]), (9, [4, 9])])
def test_attention_forms_agree(mode, norm, causal, learn, length, lengths):
    attn = make_attention(mode=mode, norm=norm, causal=causal, learn=learn)
    for dtype, tolerance in ((torch.float, 1e-5), (torch.double, 1e-11)):
        chunkwise, reference = attend_both(attn, length, lengths, dtype)
        assert_equal(chunkwise, reference, tolerance)


@pytest.mark.parametrize("spike_mode", ["integer", "binary"])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("qk_mode", sorted(set(QK_MODES) - {"sdsa"}))  # sdsa has no map
def test_forms_agree_in_every_mode(qk_mode, folded, spike_mode):
    torch.manual_seed(0)
    attn = build_attention(qk_mode, 8, 2, NeuronFactory("imls", 4), DecayMask(1, 2, 2))
    attn = attn.double().eval()
    for neuron in named_neurons(attn).values():
        neuron.spike_mode = spike_mode
    if folded:
        attn.reparameterize(fold_qk=True)
    lengths = torch.tensor([150, 70])
    mask = torch.arange(150) < lengths[:, None]
    results = []
    with torch.no_grad():
        xs = attn.neuron_in(torch.randn(2, 150, 8, dtype=torch.double), mask)
        for form in ("chunkwise", "quadratic"):
            attn.form = form
            results.append(attn.context(xs, mask, lengths)[mask])
    assert results[1].abs().max() > 0
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


def test_form_is_chosen_by_length(monkeypatch):
    calls = []
    product = spiking_attention.decay_attention
    monkeypatch.setattr(
        spiking_attention,
        "decay_attention",
        lambda *a, **k: (calls.append(a[0].shape[2]), product(*a, **k))[1],
    )
    attn = make_attention().eval()
    with torch.no_grad():
        for length in (CHUNKWISE_FROM - 1, CHUNKWISE_FROM):
            mask = torch.ones(1, length, dtype=torch.bool)
            attn(torch.randn(1, length, 8), mask, torch.tensor([length]))
    assert calls == [CHUNKWISE_FROM]


def test_a_kernel_is_taken_for_shorter_sequences_too(monkeypatch):
    attn, x = make_attention().eval(), torch.ones(1, FUSED_FROM, 8)
    assert not attn.is_chunkwise(FUSED_FROM, x)  # there is none on a CPU
    monkeypatch.setattr(spiking_attention, "fused", lambda query, value: backends)
    assert attn.is_chunkwise(FUSED_FROM, x) and not attn.is_chunkwise(FUSED_FROM - 1, x)
    attn.dropout.p = 0.1
    assert attn.is_chunkwise(FUSED_FROM, x) and not attn.train().is_chunkwise(FUSED_FROM, x)


def test_dropout_on_the_map_needs_the_map():
    decay, neurons = DecayMask(1, 1, 2), NeuronFactory("imls", 6)
    with pytest.raises(ValueError, match="attention_dropout_rate"):
        SpikingAttention(8, 2, neurons, decay, dropout_rate=0.1, form="chunkwise")
    attn = SpikingAttention(8, 2, neurons, decay, dropout_rate=0.1)
    assert not attn.train().is_chunkwise(CHUNKWISE_FROM)
    assert attn.eval().is_chunkwise(CHUNKWISE_FROM)


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="did you mean 'chunkwise'"):
        make_attention(form="chunkwize")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees():
    tensors = sequences(700, dtype=torch.float, dims=(32, 32))
    got = with_gradients(lambda *t: decay_attention(*t).cpu(), [t for t in tensors])
    on_gpu = [t.detach().cuda().requires_grad_() for t in tensors]
    gpu = with_gradients(lambda *t: decay_attention(*t).cpu(), on_gpu)
    assert_equal([t.cpu() for t in gpu], got, 1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_trace_holds_for_other_lengths(causal):
    q, k, v, log_gamma = (x.detach() for x in sequences(7))
    traced = torch.jit.trace(
        lambda *x: decay_attention(*x, log_gamma, causal, chunk=3), (q, k, v), check_trace=False
    )
    q, k, v, _ = (x.detach() for x in sequences(40, seed=1))
    torch.testing.assert_close(traced(q, k, v), decay_attention(q, k, v, log_gamma, causal, 3))
