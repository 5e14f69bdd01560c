"""LIF and I-LIF against the published dynamics."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.nn.layers.spike_layers import SpikeLinear
from espnet_spike.nn.neurons.lif import ILIF, LIF
from espnet_spike.nn.neurons.spike_train import LIFRecompute
from espnet_spike.nn.ops.surrogate import SURROGATES
from tests.helpers.kernels import FORMS, form


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_layer_runs_the_steps_in_its_batch(reset):
    neuron = LIF(3, T=4, reset=reset)
    x = torch.full((4, 2, 3), 1.5).repeat_interleave(2, 0)  # two utterances
    y = neuron(x).unflatten(0, (4, 2))
    assert [step.unique().item() for step in y] == [0, 1, 0, 1]
    assert neuron.firing.count_sum == 2 * 2 * 2 * 3
    assert neuron.firing.rate == 0.5


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.1, 5), reset=st.sampled_from(["hard", "soft"]))
def test_utterances_do_not_mix(seed, scale, reset):
    neuron = LIF(4, T=3, reset=reset, v_reset=0.1)
    make = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(3, 2, 5, 4, generator=make)
    both = neuron(x.flatten(0, 1)).unflatten(0, (3, 2))
    for b in range(2):
        assert torch.equal(neuron(x[:, b]), both[:, b])
    assert set(both.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_gradient_through_time(reset):
    """H1 = x1/2 = 1.2 fires, H2 = V1 + (x2 - V1)/2; the surrogate is a window of width 2."""
    for detach in (True, False):
        conf = {"surrogate": "rectangle", "surrogate_alpha": 2.0, "detach_reset": detach}
        x = torch.tensor([2.4, 1.0]).view(2, 1, 1).requires_grad_()
        y = LIF(1, T=2, reset=reset, **conf)(x)
        assert y.flatten().tolist() == [1, 0]
        y[1].sum().backward()
        surrogate = 0.5
        if reset == "hard":  # V1 = H1 (1 - S1), S1 = 1
            slope = 0.0 if detach else -1.2 * surrogate
        else:  # V1 = H1 - S1
            slope = 1.0 if detach else 1 - surrogate
        expected = [surrogate * 0.5 * slope * 0.5, surrogate * 0.5]
        assert x.grad.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("surrogate", "reset", "decay_input", "detach_reset"),
    list(itertools.product(SURROGATES, ["hard", "soft"], [True, False], [True, False])),
)
def test_compiled_equals_the_loop(surrogate, reset, decay_input, detach_reset):
    mask = torch.arange(5) < torch.tensor([5, 3])[:, None]
    for dtype, shape in ((torch.float32, (2, 5, 3, 7)), (torch.float64, (2, 5, 17))):
        neuron = LIF(
            shape[-1],
            T=3,
            tau=1.7,
            v_reset=-0.1,
            reset=reset,
            decay_input=decay_input,
            detach_reset=detach_reset,
            surrogate=surrogate,
            surrogate_alpha=1.5,
        )
        make = torch.Generator().manual_seed(len(shape))
        x = 2 * torch.randn(6, *shape[1:], generator=make, dtype=dtype)
        upstream = torch.randn(x.shape, generator=make, dtype=dtype)
        results = []
        for how in FORMS:
            with form(how):
                leaf = x.clone().requires_grad_()
                y = neuron(leaf, mask.repeat(3, 1))
                y.backward(upstream)
            firing = neuron.firing
            results.append((y, leaf.grad, firing.count_sum, firing.numel))
        (y, grad, *firing), (y_loop, grad_loop, *firing_loop) = results
        assert 0 < y.mean() < 1
        assert torch.equal(y, y_loop)
        assert grad.any()
        torch.testing.assert_close(grad, grad_loop)
        assert firing == firing_loop


def test_the_next_layer_recomputes_the_spikes(monkeypatch):
    """It keeps the potentials in place of the spikes; the gradients are the same bit for bit."""
    recomputed = []
    recompute = LIFRecompute.recompute
    monkeypatch.setattr(
        LIFRecompute, "recompute", lambda self: recomputed.append(1) or recompute(self)
    )
    results = []
    for lean in (True, False):
        torch.manual_seed(0)
        neuron, linear = LIF(6, T=2), SpikeLinear(6, 3)
        x = (2 * torch.randn(4, 5, 6)).requires_grad_()
        y = neuron(x)
        if not lean:
            del y.recipe
        linear(y).square().sum().backward()
        assert len(recomputed) == 1
        results.append([x.grad, linear.weight.grad])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bf16_spikes_as_fp32():
    x = (2 * torch.randn(8, 5, 4)).bfloat16()
    neuron = LIF(4, T=4)
    assert torch.equal(neuron(x).float(), neuron(x.float()))
    assert neuron(x).dtype == torch.bfloat16


def test_integer_lif_is_a_quantiser_with_one_step():
    neuron = ILIF(6, T=4)
    x = torch.tensor([[[-1.0, 0.4, 0.5, 1.5, 3.6, 9.0]]], requires_grad=True)
    y = neuron(x)
    assert y.flatten().tolist() == [0, 0, 0, 2, 4, 4]
    y.sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 1, 0]
    assert torch.equal(ILIF(6, T=4, divide=True)(x) * 4, y)


def test_integer_lif_carries_the_rest_over_time_steps():
    """H = beta V + X, V = H - C v_th."""
    neuron = ILIF(1, T=2, time_steps=3, beta=0.25)
    x = torch.tensor([3.0, 0.9, -0.4]).view(3, 1, 1)
    # H = 3 -> 2, V = 1; H = 1.15 -> 1, V = 0.15; H = -0.3625 -> 0
    assert neuron(x).flatten().tolist() == [2, 1, 0]
    assert neuron.firing.count_sum == 3 and neuron.firing.levels == 2


def test_integer_lif_binary_slots():
    neuron = ILIF(4, T=4, divide=True).eval()
    x = 3 * torch.randn(2, 3, 4)
    y = neuron(x)
    neuron.spike_mode = "binary"
    assert torch.equal(neuron(x).value(), y)


@pytest.mark.parametrize(
    ("cls", "conf", "match"),
    [
        (LIF, {"reset": "sotf"}, "did you mean 'soft'"),
        (LIF, {"surrogate": "relu"}, "surrogate"),
        (LIF, {"T": 0}, "T: 0 is out of range"),
        (LIF, {"v_th": 1.0, "v_reset": 1.0}, "v_reset: 1.0 is not below v_th, 1.0"),
        (LIF, {"tau": 0.5}, "tau: 0.5 is out of range"),
        (ILIF, {"time_steps": 0}, "time_steps: 0 is out of range"),
        (ILIF, {"rounding": "up"}, "rounding"),
    ],
)
def test_bad_arguments(cls, conf, match):
    with pytest.raises(ValueError, match=match):
        cls(3, **conf)


@pytest.mark.parametrize("cls", [LIF, ILIF])
def test_threshold_and_worth_of_each_channel(cls):
    """Channel c is the neuron of one threshold on x / exp(t_c), times exp(u_c)."""
    steps = {"T": 3} if cls is LIF else {"T": 3, "time_steps": 2}
    plain, own = cls(2, **steps), cls(2, **steps, per_channel=True)
    assert not plain.state_dict()
    thresholds, worth = torch.tensor([0.5, 2.0]), torch.tensor([3.0, 0.25])
    with torch.no_grad():
        own.t.copy_(thresholds.log())
        own.u.copy_(worth.log())
    assert torch.allclose(own.thresholds(), own.v_th * thresholds)
    assert all(p._no_weight_decay for p in (own.t, own.u))
    x = torch.randn(6, 5, 2)
    expected, y = plain(x / thresholds), own(x)
    assert torch.allclose(y, expected * worth)
    assert own.firing.rate == plain.firing.rate > 0
    counts, levels = own.spike_counts((x,), y)
    assert torch.equal(counts, plain.spike_counts((x,), expected)[0])
    own.eval().set_spike_mode("binary")
    train = own(x)
    assert torch.equal(train.counts, counts) and train.levels == levels
    assert torch.allclose(train.value(), y)
    # both learn
    own.train()(x).square().sum().backward()
    assert bool((own.t.grad != 0).any()) and bool((own.u.grad != 0).any())


def test_integer_counts_of_several_steps_by_hand():
    """beta 1/2, threshold 2: h = 5 gives 2.5, to even 2, and leaves 1; h = 1/2 + 2 gives 1."""
    x = torch.tensor([5.0, 2.0]).view(2, 1, 1)
    neuron = ILIF(1, T=4, time_steps=2, beta=0.5, v_th=2.0)
    assert (neuron(x) / neuron.worth()).flatten().tolist() == [2, 1]


def test_a_rate_in_half_precision_counts_more_spikes_than_it_holds():
    neuron = LIF(70_000, T=1, tau=1.0)
    neuron.keeps_rate = True
    neuron(torch.full((1, 2, 70_000), 2.0, dtype=torch.float16), torch.tensor([[True, False]]))
    assert neuron.mean_rate == 1 and neuron.mean_rate.dtype == torch.float32
