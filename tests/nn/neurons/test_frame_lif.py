"""LIF over frames: the compiled recurrence against the loop, padding, streams, losses."""

import itertools

import pytest
import torch
from torch import nn

from espnet_spike.nn.neurons import frame_lif
from espnet_spike.nn.neurons.base import firing_rates
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import (
    FrameLIF,
    FrameReLU,
    frame_neuron,
    named_frame_lifs,
    normed_neuron,
    rate_losses,
)
from espnet_spike.nn.neurons.lif import LIF
from espnet_spike.nn.stream_state import Carries
from tests.helpers.kernels import FORMS, form

LENGTHS = torch.tensor([9, 4, 0])
MASK = torch.arange(9) < LENGTHS[:, None]


def currents(dtype=torch.float64, shape=(3, 9, 5), seed=0):
    g = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype)


def run_both(neuron, x, lengths):
    """Outputs and gradients, compiled and by the loop."""
    results = []
    v = 0.3 * torch.ones(x.shape[0], *x.shape[2:], dtype=x.dtype)
    for how in FORMS:
        inputs = [x.clone().requires_grad_(), v.clone().requires_grad_()]
        with form(how):
            outputs = neuron._run(*inputs, lengths)  # spikes, potential, spikes of each frame
        loss = sum((y * currents(x.dtype, y.shape, n)).sum() for n, y in enumerate(outputs, 1))
        results.append((*outputs, *torch.autograd.grad(loss, inputs)))
    return results


@pytest.mark.parametrize(
    ("reset", "decay_input", "detach_reset"),
    list(itertools.product(["hard", "soft"], [True, False], [True, False])),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_compiled_equals_the_loop(reset, decay_input, detach_reset, dtype):
    neuron = FrameLIF(
        5, tau=1.7, v_reset=-0.1, reset=reset, decay_input=decay_input, detach_reset=detach_reset
    )
    compiled, loop = run_both(neuron, currents(dtype), LENGTHS)
    assert 0 < loop[0].mean() < 1
    for a, b in zip(compiled[:3], loop[:3], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(compiled[3:], loop[3:], strict=True):
        torch.testing.assert_close(a, b)
        assert a.any()


@pytest.mark.parametrize(
    ("reset", "decay_input", "detach_reset"),
    list(itertools.product(["hard", "soft"], [True, False], [True, False])),
)
def test_the_gradient_of_a_learnt_time_constant_is_that_of_the_loop(
    reset, decay_input, detach_reset
):
    options = {"tau": 1.7, "v_reset": -0.1, "reset": reset, "decay_input": decay_input}
    neuron = FrameLIF(5, learn_tau=True, detach_reset=detach_reset, **options).double()
    x, v = currents(), currents(shape=(3, 5), seed=7)
    results = []
    for how in FORMS:
        inputs = [x.clone().requires_grad_(), v.clone().requires_grad_(), neuron.w]
        with form(how):
            outputs = neuron._run(*inputs[:2], LENGTHS)
        loss = sum((y * currents(shape=y.shape, seed=n)).sum() for n, y in enumerate(outputs, 1))
        results.append((*outputs, *torch.autograd.grad(loss, inputs)))
    fixed = FrameLIF(5, detach_reset=detach_reset, **options)
    assert torch.equal(results[0][0], fixed.run(x, v, LENGTHS)[0])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
        assert a.any()


@pytest.mark.parametrize("decay_input", [True, False])
def test_the_gradient_of_a_learnt_time_constant_is_a_difference_of_losses(decay_input):
    # a threshold out of reach: no spikes, the last potential is smooth in w
    neuron = FrameLIF(2, tau=3.0, v_th=1e3, learn_tau=True, decay_input=decay_input).double()
    x, v = currents(shape=(3, 9, 2)), currents(shape=(3, 2), seed=3)
    losses = []
    (slope,) = torch.autograd.grad(neuron.run(x, v, LENGTHS)[1].square().sum(), [neuron.w])
    for step in (1e-6, -2e-6):
        neuron.w.data += step
        losses.append(neuron.run(x, v, LENGTHS)[1].square().sum().item())
    assert slope.item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


def test_a_learnt_time_constant_starts_as_said_moves_and_goes_into_a_model_file():
    neuron = FrameLIF(5, tau=2.5, learn_tau=True)
    assert neuron.tau == pytest.approx(2.5) and list(neuron.state_dict()) == ["w"]
    assert not list(FrameLIF(5, tau=2.5).parameters())
    optimizer = torch.optim.SGD(neuron.parameters(), lr=1.0)
    neuron(currents(torch.float32), MASK).sum().backward()
    optimizer.step()
    assert neuron.tau != pytest.approx(2.5) and neuron.tau > 1
    assert neuron.response().tau == neuron.tau
    other = FrameLIF(5, learn_tau=True)
    other.load_state_dict(neuron.state_dict())
    assert torch.equal(other(currents()), neuron(currents()))
    with pytest.raises(ValueError, match="starts above 1"):
        FrameLIF(5, tau=1.0, learn_tau=True)


def test_by_hand():
    # tau 2, constant 1.5: potentials .75, 1.125 (spike), again with a hard reset to 0
    x = torch.full((1, 4, 1), 1.5)
    assert FrameLIF(1)(x).flatten().tolist() == [0, 1, 0, 1]
    # soft reset to .125: .8125, 1.15625 (spike)
    neuron = FrameLIF(1, reset="soft")
    y, v = neuron.run(x, torch.zeros(1, 1))
    assert y.flatten().tolist() == [0, 1, 0, 1]
    assert v.item() == 0.15625


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("learn_tau", [True, False])
def test_membranes_that_fire_frame_by_frame_are_the_neuron(reset, decay_input, learn_tau):
    conf = {"tau": 3.0, "v_reset": -0.1, "learn_tau": learn_tau}
    neuron = FrameLIF(5, reset=reset, decay_input=decay_input, **conf).double().eval()
    x = currents().double()
    x[0, 0, 0] = 3.0 if decay_input else 1.0
    with torch.no_grad():
        expected, last = neuron.run(x, neuron.initial_state(x), MASK.sum(1))
        rates = neuron(x, MASK), neuron.firing.rate, neuron.mean_rate
        neuron.set_spike_mode("fire")
        got, v = neuron.run(x, neuron.initial_state(x), MASK.sum(1))
        assert torch.equal(neuron(x, MASK), rates[0])
    assert torch.equal(got, expected) and torch.allclose(v, last, atol=1e-12)
    assert (neuron.firing.rate, neuron.mean_rate) == rates[1:]
    assert 0.04 < rates[1] < 0.9


def test_a_membrane_at_its_threshold_fires():
    """From rest, x / tau is 1, the threshold, and then 1 + (1 - 1) / 2 after a hard reset."""
    neuron = FrameLIF(1, tau=2.0).eval()
    neuron.set_spike_mode("fire")
    x = torch.tensor([2.0, 1.9999, 2.0])[None, :, None]
    assert neuron(x).flatten().tolist() == [1, 0, 1]


def test_membranes_do_not_ask_the_kernel_that_they_are_compared_with(monkeypatch):
    neuron = FrameLIF(5).eval()
    x = currents(torch.float32)
    expected = neuron(x)
    monkeypatch.setattr(frame_lif, "run_frames", None)
    with pytest.raises(TypeError):
        neuron(x)
    neuron.set_spike_mode("fire")
    assert torch.equal(neuron(x), expected) and 0.04 < expected.mean() < 0.9


def test_convolution_maps_and_half_precision():
    neuron = FrameLIF(5)
    x = currents(torch.float32, (2, 6, 4, 5))
    y = neuron(x)
    for bin_ in range(4):
        assert torch.equal(y[:, :, bin_], neuron(x[:, :, bin_]))
    half = neuron(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.float(), neuron(x.bfloat16().float()))


@pytest.mark.parametrize("learn_tau", [True, False])
def test_padding_is_zero_whatever_memory_held(learn_tau, monkeypatch):
    uninitialised = torch.empty_like
    monkeypatch.setattr(
        torch, "empty_like", lambda *a, **k: uninitialised(*a, **k).fill_(float("nan"))
    )
    neuron = FrameLIF(5, learn_tau=learn_tau)
    x = currents(torch.float32).requires_grad_()
    y = neuron(x, MASK)
    y.sum().backward()
    assert not y[~MASK].any() and not x.grad[~MASK].any()
    assert y.isfinite().all() and x.grad.isfinite().all() and neuron.firing.rate > 0
    assert not learn_tau or neuron.w.grad.isfinite()


def test_padding_and_statistics():
    neuron = NormedNeuron(FrameLIF(5, tau=1.5))
    x = currents(torch.float32)
    y = neuron(x, MASK)
    assert not y[~MASK].any()
    firing = neuron.neuron.firing
    assert firing.count_sum == y.sum()
    assert firing.numel == MASK.sum() * 5
    torch.testing.assert_close(neuron.neuron.mean_rate.float(), firing.rate)
    norm = {k: v.clone() for k, v in neuron.norm.state_dict().items()}
    again = NormedNeuron(FrameLIF(5, tau=1.5))
    dirty = again(x.masked_fill(~MASK[..., None], 1e3), MASK)
    assert torch.equal(y, dirty)
    assert all(torch.equal(v, norm[k]) for k, v in again.norm.state_dict().items())
    assert list(firing_rates(neuron)) == ["neuron"]
    assert list(named_frame_lifs(neuron)) == ["neuron"]


def test_a_model_saved_when_neurons_behind_a_norm_were_called_lif_is_read():
    learnt = FrameLIF(5, tau=1.5, learn_tau=True)
    model = nn.Sequential(NormedNeuron(learnt), NormedNeuron(FrameLIF(5)))
    with torch.no_grad():
        model[0].neuron.w.fill_(0.7)
    saved = {name.replace(".neuron.", ".lif."): value for name, value in model.state_dict().items()}
    assert "0.lif.w" in saved
    again = nn.Sequential(NormedNeuron(FrameLIF(5, learn_tau=True)), NormedNeuron(FrameLIF(5)))
    again.load_state_dict(saved)
    assert again[0].neuron.w == 0.7 and "0.lif.w" in saved


def test_relus_in_the_place_of_the_neurons_are_as_silent_on_padding():
    x = currents()
    assert torch.equal(frame_neuron(5, {"neuron": "relu"})(x), x.clamp(min=0))
    y = normed_neuron(5, {"neuron": "relu", "tau": 1.5}).double()(x, MASK)
    assert (y >= 0).all() and y[MASK].any() and not y[~MASK].any()
    bins = FrameReLU(5)(torch.ones(*MASK.shape, 3, 5), MASK)
    assert torch.equal(bins, MASK[..., None, None].expand_as(bins).float())


def test_neurons_by_name():
    neuron = frame_neuron(5, {"tau": 1.5, "v_th": 0.3}, v_th=0.5)
    assert isinstance(neuron, FrameLIF) and (neuron.tau, neuron.v_th) == (1.5, 0.5)
    counts = frame_neuron(5, {"neuron": "ilif", "T": 3, "v_th": 0.5, "tau": 1.5})
    x = torch.tensor([[-1.0, 0.3, 0.8, 1.4, 9.0]]).expand(1, 2, 5)
    mask = torch.tensor([[True, False]])
    assert counts(x, mask).tolist() == [[[0, 1, 2, 3, 3], [0] * 5]]
    assert counts.mean_rate == 9 / 15 and counts.firing.levels == 3
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        normed_neuron(5, {"neuron": "rleu"})


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_stream_equals_the_whole(chunk):
    neuron = FrameLIF(5)
    x = currents()
    whole, last = neuron.run(x, neuron.initial_state(x))
    v, parts = neuron.initial_state(x), []
    for part in x.split(chunk, 1):
        y, v = neuron.run(part, v)
        parts.append(y)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(v, last)


def test_a_stream_goes_on_from_the_potential_that_it_left():
    # tau 2, constant 1.5: potentials .75, 1.125 (spike, reset to 0), again; a chunk ends below
    # the threshold, the next starts from there
    neuron, x = FrameLIF(1), torch.full((1, 3, 1), 1.5)
    stream = Carries(neuron)
    spikes = []
    for frame in x.split(1, 1):
        with stream.active():
            spikes.append(neuron(frame).item())
    assert spikes == [0, 1, 0]
    assert stream.rows()[0][0]["v"].item() == 0.75


def test_rate_losses():
    rates = [torch.tensor(r, dtype=torch.float64, requires_grad=True) for r in (0.02, 0.10, 0.60)]
    quiet, burst = rate_losses(rates)
    assert (quiet.item(), burst.item()) == (pytest.approx(0.01), pytest.approx(0.10))
    grads = torch.autograd.grad(quiet + burst, rates)
    torch.testing.assert_close(torch.stack(grads).tolist(), [-1 / 3, 0.0, 1 / 3])


def test_a_quiet_layer_is_taught_to_fire():
    torch.manual_seed(0)
    linear, neuron = torch.nn.Linear(8, 6), FrameLIF(6)
    x = torch.randn(4, 30, 8)
    optimizer = torch.optim.SGD(linear.parameters(), lr=3.0)
    rates = []
    for _ in range(100):
        neuron(linear(x))
        rates.append(float(neuron.mean_rate.detach()))
        quiet, burst = rate_losses([neuron.mean_rate], 0.1, 0.3)
        optimizer.zero_grad()
        (quiet + burst).backward()
        optimizer.step()
    assert rates[0] < 0.02
    assert rates[-1] >= 0.09


def test_impossible_options():
    with pytest.raises(ValueError, match="tau"):
        FrameLIF(1, tau=0.5)
    with pytest.raises(ValueError, match="did you mean 'soft'"):
        FrameLIF(1, reset="sof")
    with pytest.raises(ValueError, match="did you mean 'atan'"):
        FrameLIF(1, surrogate="atn")


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("decay_input", [True, False])
def test_a_trace_holds_for_other_lengths(reset, decay_input):
    neuron = FrameLIF(5, tau=2, v_reset=-0.1, reset=reset, decay_input=decay_input)
    with torch.no_grad():
        traced = torch.jit.trace(neuron, (currents(), MASK), check_trace=False)
        for shape in ((2, 17, 5), (1, 12, 5)):
            x = currents(shape=shape, seed=1)
            mask = torch.arange(shape[1]) < torch.tensor([shape[1], 2])[: shape[0], None]
            spikes = neuron(x, mask)
            assert 0 < spikes.mean() < 1
            assert torch.equal(traced(x, mask), spikes)


def test_threshold_and_worth_of_each_channel():
    plain, own = FrameLIF(2), FrameLIF(2, per_channel=True)
    with torch.no_grad():
        own.t.copy_(torch.tensor([0.5, 2.0]).log())
        own.u.copy_(torch.tensor([3.0, 0.25]).log())
    x = torch.randn(2, 20, 2)
    expected = plain(x / torch.tensor([0.5, 2.0]))
    assert torch.allclose(own(x), expected * torch.tensor([3.0, 0.25]))
    assert own.mean_rate == plain.mean_rate > 0
    with pytest.raises(ValueError, match="FrameLIF does not emit 0/1 spikes"):
        own.set_spike_mode("binary")
    plain.set_spike_mode("binary")


def test_neurons_begin_at_rest():
    """Rest at 0.25, tau 2: 0.25 + 1.5 / 2 reaches the threshold; from 0 it would be 0.875."""
    for neuron in (FrameLIF(1, v_reset=0.25), LIF(1, T=1, v_reset=0.25)):
        assert neuron(torch.full((1, 1, 1), 1.5)).tolist() == [[[1.0]]]
    assert FrameLIF(1, v_reset=0.25).initial_state(torch.zeros(2, 3, 4)).unique() == 0.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_threshold_of_a_channel_is_not_rounded_to_half_precision(dtype):
    neuron = FrameLIF(1, tau=1.0, per_channel=True)
    # a threshold a little above the input, which half precision takes for equal to it
    torch.nn.init.constant_(neuron.t, 1e-4)
    assert not neuron(torch.ones(1, 1, 1, dtype=dtype)).any()
    torch.nn.init.constant_(neuron.t, -1e-4)
    assert neuron(torch.ones(1, 1, 1, dtype=dtype)).all()
