"""A response says what its neuron does: replayed step by step, it gives the same spikes."""

import pytest
import torch

from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.neurons.response import LeakyResponse, OtherResponse, StaircaseResponse

DIM, FRAMES = 5, 40


def make(name, **conf):
    torch.manual_seed(0)
    return NeuronFactory(name, 3, conf)(DIM).double().eval()


def leaky(response, steps):
    v, spikes = torch.full_like(steps[0], response.v_reset), []
    for x in steps:
        h = v + (response.v_reset - v + response.gain * x) / response.tau
        spikes.append((h >= response.v_th).double())
        v = torch.where(spikes[-1] > 0, response.v_reset, h)
    return torch.stack(spikes)


def staircase(response, x, level):
    ratio = x / level[..., None]
    steps = []
    for t in range(1, response.levels + 1):
        height = (t - 0.5) * response.scale
        inclusive = response.rounding == "half_up" or t % 2 == 0
        steps.append(ratio >= height if inclusive else ratio > height)
    return torch.stack(steps).double().sum(0)


@pytest.mark.parametrize(
    ("name", "conf"),
    [
        *(("imls", {"stat": stat}) for stat in ("token", "utt", "max", "ema", "fixed")),
        ("imls", {"rounding": "even", "stat": "fixed", "alpha_init": 0.25}),
        ("ilif", {"v_th": 0.4, "divide": True}),
        ("ilif", {"rounding": "half_up"}),
    ],
)
def test_a_staircase(name, conf):
    neuron = make(name, **conf)
    x = (torch.randn(2, FRAMES, DIM) * 4).round().double() / 4  # on the edges of steps as well
    with torch.no_grad():
        y = neuron(x)
    counts, levels = neuron.spike_counts((x,), y)
    response = neuron.response()
    assert isinstance(response, StaircaseResponse) and response.levels == levels == 3
    level = neuron.frame_level(x)
    assert torch.equal(staircase(response, x, level), counts) and counts.unique().numel() == 4
    assert torch.allclose(response.unit * level[..., None] * counts, y)
    assert set(response.parameters) <= set(neuron.state_dict())
    assert bool((level != 1).any()) == neuron.follows_input


CONSTANTS = {"v_th": 0.3, "tau": 1.5, "v_reset": -0.2}


@pytest.mark.parametrize("decay_input", [True, False])
def test_a_leaky_neuron(decay_input):
    x = torch.randn(3 * 2, FRAMES, DIM).double()
    lif = make("lif", decay_input=decay_input, **CONSTANTS)
    response = lif.response()
    assert isinstance(response, LeakyResponse) and not lif.runs_over_frames
    expected = leaky(response, x.unflatten(0, (3, 2))).flatten(0, 1)
    assert torch.equal(lif(x), expected) and 0 < expected.mean() < 1
    frames = FrameLIF(DIM, decay_input=decay_input, **CONSTANTS)
    assert frames.runs_over_frames and frames.response() == response
    assert torch.equal(frames(x), leaky(response, x.transpose(0, 1)).transpose(0, 1))


@pytest.mark.parametrize(
    ("name", "conf", "why"),
    [
        ("lif", {"reset": "soft"}, "subtracts its threshold"),
        ("ilif", {"time_steps": 2}, "leaks between counts"),
        ("ternary", {}, "negative spikes"),
    ],
)
def test_other_neurons_say_why_they_have_neither(name, conf, why):
    response = make(name, **conf).response()
    assert isinstance(response, OtherResponse) and why in response.why


def test_a_neuron_that_does_not_round_yet_is_no_staircase():
    neuron = make("imls")
    neuron.warm = True
    response = neuron.response()
    assert isinstance(response, OtherResponse) and "warm" in response.why
