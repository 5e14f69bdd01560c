"""The IMLS neuron: definition, gradients, invariances, binary form."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.nn.checkpointing import checkpoint
from espnet_spike.nn.layers.spike_layers import SpikeLinear
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.multi_level import EPS, IMLS_STATS
from espnet_spike.nn.neurons.spike_train import IMLSRecompute

seeds = st.integers(0, 2**16)
levels = st.sampled_from([1, 2, 4, 6, 8])
stats = st.sampled_from(IMLS_STATS)


def make(dim=5, dtype=torch.double, seed=0, **conf):
    """Return a neuron whose thresholds differ between channels."""
    neuron = IMLS(dim, **conf).to(dtype)
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        neuron.a += 0.5 * torch.randn(dim, generator=make, dtype=torch.double).to(dtype)
    return neuron


def data(*shape, seed=0, dtype=torch.double):
    make = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=make, dtype=torch.double).to(dtype)


def mask_of(lengths, length):
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def reference(neuron, x, mask, level=None):
    """The definition in plain operations, gradients by straight-through estimators."""
    over = tuple(range(2, x.dim()))
    if level is None:
        level = {
            "token": lambda: x.abs().mean(over, keepdim=True),
            "max": lambda: x.abs().amax(over, keepdim=True) / neuron.T,
            "fixed": lambda: torch.ones_like(x[..., :1]),
        }.get(neuron.stat, lambda: utterance_level(x, mask))()
    if neuron.detach_stat:
        level = level.detach()
    threshold = neuron.alpha * level.clamp(min=EPS)
    ratio = (x / threshold).clamp(0, neuron.T)
    rounded = (ratio + 0.5).floor() if neuron.rounding == "half_up" else ratio.round()
    return threshold * (ratio + (rounded - ratio).detach())


def utterance_level(x, mask):
    per_frame = x.abs().flatten(2).mean(-1)
    level = (per_frame * mask).sum(1) / mask.sum(1)
    return level.view(-1, *(1,) * (x.dim() - 1))


def test_closed_forms():
    """V = 0.5, T = 4: the table worked out by hand from the gradient's equations."""
    neuron = IMLS(4, T=4, alpha_init=0.5, stat="fixed").double()
    x = torch.tensor([[[-0.1, 0.2, 0.6, 2.4]]], dtype=torch.double, requires_grad=True)
    y = neuron(x)
    assert y.flatten().tolist() == pytest.approx([0, 0, 0.5, 2.0])
    y.sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 0]
    # V = softplus(a); one valid element per channel: gradient scale 1 / sqrt(T)
    slope = torch.sigmoid(neuron.a.detach())
    expected = torch.tensor([0, -0.4, -0.2, 4.0], dtype=torch.double) * slope / math.sqrt(4)
    assert torch.allclose(neuron.a.grad, expected, rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    T=levels,
    stat=st.sampled_from(["token", "utt", "max", "fixed"]),
    detach=st.booleans(),
    rounding=st.sampled_from(["half_up", "even"]),
    bins=st.sampled_from([None, 3]),
)
def test_output_and_gradients_follow_the_definition(seed, T, stat, detach, rounding, bins):
    neuron = make(T=T, stat=stat, detach_stat=detach, rounding=rounding, seed=seed)
    shape = (2, 4, 5) if bins is None else (2, 4, bins, 5)
    x = data(*shape, seed=seed).requires_grad_()
    mask = mask_of([4, 2], 4)
    upstream = data(*shape, seed=seed + 1) * mask.view(2, 4, *(1,) * (x.dim() - 2))
    y = neuron(x, mask)
    got = torch.autograd.grad(y, [x, neuron.a], upstream)
    expected_y = reference(neuron, x, mask)
    expected = torch.autograd.grad(expected_y, [x, neuron.a], upstream)
    valid = mask.view(2, 4, *(1,) * (x.dim() - 2)).expand_as(y)
    assert torch.allclose(y[valid], expected_y[valid], rtol=1e-12)
    assert torch.allclose(got[0], expected[0], atol=1e-12)
    scale = 1 / math.sqrt(T * 6 * (bins or 1))
    assert torch.allclose(got[1], expected[1] * scale, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, T=levels, stat=stats, scale=st.floats(1e-3, 1e3))
def test_counts_and_thermometer_slots(seed, T, stat, scale):
    neuron = make(T=T, stat=stat, seed=seed).eval()
    neuron.spike_mode = "binary"
    x = scale * data(2, 3, 5, seed=seed)
    train = neuron(x)
    slots = [train.slot(t) for t in range(1, T + 1)]
    assert torch.equal(train.counts, train.counts.round())
    assert train.counts.min() >= 0 and train.counts.max() <= T
    assert torch.equal(sum(slots), train.counts)
    assert all(set(slot.unique().tolist()) <= {0.0, 1.0} for slot in slots)
    assert all((a >= b).all() for a, b in pairwise(slots))
    neuron.spike_mode = "integer"
    assert torch.allclose(train.value(), neuron(x), rtol=1e-14)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, T=levels, stat=st.sampled_from(["token", "utt", "max"]), c=st.floats(1e-2, 1e3))
def test_positive_homogeneity(seed, T, stat, c):
    neuron = make(T=T, stat=stat, seed=seed)
    x = data(2, 3, 5, seed=seed)
    y, scaled = neuron(x), neuron(c * x)
    assert torch.allclose(scaled, c * y, rtol=1e-9)
    assert torch.equal(scaled == 0, y == 0)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, T=levels)
def test_an_integrate_and_fire_neuron_emits_the_same_counts(seed, T):
    """Soft reset, no leak, pre-charged by half a threshold, T steps."""
    neuron = make(T=T, seed=seed).eval()
    neuron.spike_mode = "binary"
    x = 2 * data(2, 3, 5, seed=seed)
    train = neuron(x)
    threshold = train.frame * train.channel
    u = x + threshold / 2
    spikes = torch.zeros_like(x)
    for t in range(1, T + 1):
        fired = (u >= threshold).double()
        assert torch.equal(fired, train.slot(t))
        u = u - threshold * fired
        spikes += fired
    assert torch.equal(spikes, train.counts)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, stat=stats, training=st.booleans())
def test_padding_changes_nothing(seed, stat, training):
    results = []
    for junk in (0.0, 1e3):
        neuron = make(stat=stat, seed=seed).train(training)
        mask = mask_of([4, 1], 6)
        x = data(2, 6, 5, seed=seed).masked_fill(~mask[..., None], junk).requires_grad_()
        y = neuron(x, mask)
        y[mask].square().sum().backward()
        state = [neuron.firing.count_sum, neuron.firing.numel, *neuron.buffers()]
        spread = neuron.threshold_spread
        results.append([y[mask], x.grad[mask], neuron.a.grad, *state])
        results[-1] += [] if spread is None else [spread]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("stat", ["token", "utt", "max", "fixed"])
def test_alone_as_in_a_batch(stat, dtype):
    neuron = make(dim=64, stat=stat, dtype=dtype)
    mask = mask_of([9, 4, 7], 9)
    x = data(3, 9, 64, dtype=dtype)
    batch = neuron(x, mask)
    for b, length in enumerate([9, 4, 7]):
        alone = neuron(x[b : b + 1, :length])[0]
        tolerance = 1e-5 if dtype == torch.float else 1e-12
        assert torch.allclose(batch[b, :length], alone, rtol=tolerance, atol=0)
        if stat == "token":
            assert torch.equal(batch[b, :length], alone)


def test_one_level_is_binary_times_the_threshold():
    neuron = make(T=1)
    x = data(2, 3, 5)
    threshold = neuron.alpha * x.abs().mean(-1, keepdim=True)
    y = neuron(x)
    assert torch.allclose(y, threshold * (x >= threshold / 2))


@pytest.mark.parametrize("stat", IMLS_STATS)
@pytest.mark.parametrize("detach", [True, False])
def test_silence_gives_silence_and_finite_gradients(stat, detach):
    neuron = IMLS(4, stat=stat, detach_stat=detach)
    x = torch.zeros(1, 3, 4, requires_grad=True)
    y = neuron(x)
    y.sum().backward()
    assert (y == 0).all() and x.grad.isfinite().all() and neuron.a.grad.isfinite().all()


def test_negative_input_does_not_spike():
    assert (make()(-data(2, 3, 5).abs()) == 0).all()


def test_ties_round_up_or_to_even():
    x = torch.tensor([[[0.5, 1.5, 2.5, 3.5]]])
    counts = {r: IMLS(4, 6, 1.0, "fixed", rounding=r)(x) for r in ("half_up", "even")}
    assert counts["half_up"].flatten().tolist() == pytest.approx([1, 2, 3, 4])
    assert counts["even"].flatten().tolist() == pytest.approx([0, 2, 2, 4])


@pytest.mark.parametrize(
    ("T", "stat", "alpha"), [(6, "token", 0.5), (2, "token", 1.0), (6, "max", 1)]
)
def test_default_threshold_factor(T, stat, alpha):
    assert torch.allclose(IMLS(3, T, stat=stat).alpha, torch.full((3,), float(alpha)))


@pytest.mark.parametrize(
    ("T", "alpha", "count", "zeros", "saturated", "error"),
    [
        (1, 1.0, 0.345, 0.655, 0.345, 0.262),
        (2, 1.0, 0.461, 0.655, 0.116, 0.083),
        (4, 0.5, 0.935, 0.580, 0.081, 0.047),
        (6, 0.5, 0.985, 0.580, 0.014, 0.0165),
        (8, 0.5, 0.991, 0.580, 0.0014, 0.0135),
    ],
)
def test_operating_point_on_gaussian_input(T, alpha, count, zeros, saturated, error):
    x = data(1, 200, 2000, dtype=torch.float)
    neuron = IMLS(2000, T, alpha)
    y = neuron(x)
    counts = (y / (neuron.alpha * x.abs().mean(-1, keepdim=True))).round()
    relu = x.clamp(min=0)
    assert neuron.firing.mean_count.item() == pytest.approx(count, abs=4e-3)
    assert (counts == 0).float().mean().item() == pytest.approx(zeros, abs=4e-3)
    assert (counts == T).float().mean().item() == pytest.approx(saturated, abs=2e-3)
    measured = (y - relu).square().mean() / relu.square().mean()
    assert measured.item() == pytest.approx(error, rel=0.03)


def test_running_level_follows_training_and_freezes():
    neuron = IMLS(2, stat="ema").double()
    x = torch.tensor([[[1.0, -4.0], [3.0, 0.0], [99.0, 99.0]]], dtype=torch.double)
    mask = torch.tensor([[True, True, False]])
    neuron(x, mask)
    assert neuron.running_level.tolist() == [2.0, 2.0]
    neuron(2 * x, mask)
    assert neuron.running_level.tolist() == pytest.approx([2.2, 2.2])
    neuron.eval()
    neuron(5 * x, mask)
    assert neuron.running_level.tolist() == pytest.approx([2.2, 2.2])


def test_checkpointing_repeats_the_first_pass():
    plain, again = make(stat="ema"), make(stat="ema")
    x = data(2, 6, 5)
    for _ in range(2):
        plain(x).square().sum().backward()
        checkpoint(again, x.requires_grad_()).square().sum().backward()
    assert torch.equal(plain.running_level, again.running_level) and again.updates == 2
    assert torch.equal(plain.a.grad, again.a.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_as_fp32_does(dtype):
    neuron = make(dim=32, dtype=torch.float)
    x = data(2, 5, 32).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = neuron(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert torch.equal(y.detach(), neuron(x.detach().float()).to(dtype))


def test_double_stays_double():
    neuron = make()
    y = neuron(data(1, 2, 5))
    assert y.dtype == torch.double == neuron(data(1, 2, 5).requires_grad_()).dtype


@settings(deadline=None, max_examples=30)
@given(seed=seeds, T=st.integers(1, 8))
def test_other_levels_at_inference(seed, T):
    x = 3 * data(2, 3, 5, seed=seed)
    neuron = make(T=6, seed=seed).eval()
    neuron.spike_mode = "binary"
    trained = neuron(x)
    neuron.set_levels(T, "keep")
    kept = neuron(x)
    assert torch.equal(kept.channel, trained.channel)
    if T <= 6:
        assert torch.equal(kept.counts, trained.counts.clamp(max=T))
    neuron.set_levels(T, "rescale")
    coarse = neuron(x)
    assert torch.allclose(coarse.channel * T, trained.channel * 6)
    assert neuron.firing.levels == T
    neuron.set_levels(6)
    assert torch.equal(neuron(x).counts, trained.counts)


def test_warm_start_does_not_round():
    neuron = make()
    neuron.warm = True
    x = 3 * data(2, 3, 5)
    threshold = neuron.alpha * x.abs().mean(-1, keepdim=True)
    assert torch.allclose(neuron(x), torch.minimum(x.clamp(min=0), 6 * threshold))


def test_the_next_layer_recomputes_the_output(monkeypatch):
    """It keeps the recipe in place of the activation; the gradients are the same bit for bit."""
    recomputed = []
    recompute = IMLSRecompute.recompute
    monkeypatch.setattr(
        IMLSRecompute, "recompute", lambda self: recomputed.append(1) or recompute(self)
    )
    results = []
    for lean in (True, False):
        torch.manual_seed(0)
        neuron, linear = make(dim=16, dtype=torch.float), SpikeLinear(16, 7)
        x = data(2, 5, 16, dtype=torch.float).requires_grad_()
        y = neuron(x)
        if not lean:
            del y.recipe
        linear(y).square().sum().backward()
        assert len(recomputed) == 1
        results.append([x.grad, neuron.a.grad, linear.weight.grad])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bad_arguments():
    with pytest.raises(ValueError, match="did you mean 'token'"):
        IMLS(3, stat="tokne")
    with pytest.raises(ValueError, match="rounding"):
        IMLS(3, rounding="up")
    for conf in ({"T": 0}, {"alpha_init": 0.0}):
        with pytest.raises(ValueError, match=r"T:|alpha_init:"):
            IMLS(3, **conf)


def test_membranes_cost_a_decision_in_every_slot():
    """T = 4, 10 neurons: 4 comparisons and subtractions each and the charge, by hand."""
    neuron = IMLS(5, T=4, stat="fixed").eval()
    once = neuron.update_cost(10, 2)
    neuron.set_spike_mode("fire")
    fired = neuron.update_cost(10, 2)
    assert (once.updates, fired.updates) == (10, 40)
    assert (once.additions, fired.additions) == (20, 90)
    assert fired.multiplies == once.multiplies == 10
    assert (fired.values_read - once.values_read, fired.values_written) == (40, 40)
