"""The LIF recurrence against the numbers of published simulators."""

import math

import pytest
import torch

from espnet_spike.nn.ops.lif import LIFDynamics, lif_step, run_frames, run_steps
from espnet_spike.nn.ops.surrogate import spike
from tests.helpers.kernels import FORMS, form


def potentials(reset, x=1.5, steps=2, **conf):
    """Return the potentials before firing and the spikes for a constant input."""
    v, seen, spikes = torch.zeros(1), [], []

    def fire(above):
        seen.append(round(above.item() + 1, 5))
        return spike(above)

    for _ in range(steps):
        s, v = lif_step(v, torch.tensor([x]), fire, reset=reset, **conf)
        spikes.append(s.item())
    return list(zip(seen, spikes, strict=True))


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        ("hard", [(0.75, 0), (1.125, 1), (0.75, 0), (1.125, 1)]),
        ("soft", [(0.75, 0), (1.125, 1), (0.8125, 0), (1.15625, 1)]),
    ],
)
def test_spikingjelly_numbers(reset, expected):
    assert potentials(reset, steps=4) == expected


def test_snntorch_beta_without_input_decay():
    """beta = 1 - 1/tau = 0.9 and I = 0.6; snnTorch resets a step later, by the threshold."""
    trace = potentials("soft", x=0.6, steps=4, tau=10.0, decay_input=False)
    # snnTorch decays before it subtracts the threshold: its 0.626 is 0.9 * 1.14 + 0.6 - 1
    assert trace[:2] == [(0.6, 0), (1.14, 1)]
    assert trace[2][0] == pytest.approx(0.9 * (1.14 - 1) + 0.6)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"tau": 0.5}, "tau: 0.5"),
        ({"reset": "sft"}, "did you mean 'soft'"),
        ({"surrogate": "atn"}, "did you mean 'atan'"),
    ],
)
def test_dynamics_that_cannot_be(conf, message):
    with pytest.raises(ValueError, match=message):
        LIFDynamics(**conf)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("reset", "decay_input", "x", "spikes", "last"),
    [
        # 0.25 + 1.5 / 2 = 1 fires; 0.25 + 0.5 / 2; 0.5 + (1.25 - 0.25) / 2 = 1 fires
        ("hard", True, [1.5, 0.5, 1.25], [1, 0, 1], 0.25),
        # 1 fires and leaves 0; (0.5 + 0.25) / 2; 0.375 + (1.25 - 0.125) / 2
        ("soft", True, [1.5, 0.5, 1.25], [1, 0, 0], 0.9375),
        # 0.25 + 0.75 = 1 fires; 0.25 + 0.5; 0.75 - 0.25 + 0.5 = 1 fires
        ("hard", False, [0.75, 0.5, 0.5], [1, 0, 1], 0.25),
    ],
)
def test_from_rest_ties_fire(name, reset, decay_input, x, spikes, last):
    """tau = 2, a threshold of 1, rest at 0.25: every spike is a tie, by hand."""
    dynamics = LIFDynamics(2.0, 1.0, 0.25, reset, decay_input)
    steps = torch.tensor(x)
    with form(name):
        got, counts, _ = run_steps(steps[:, None, None].expand(3, 2, 5), 3, dynamics)
        assert got[:, 0, 0].tolist() == spikes and counts[:, 1].tolist() == [5 * s for s in spikes]
        start = torch.full((1, 4), 0.25)
        frames = steps[None, :, None].expand(1, 3, 4)
        got, v, counts = run_frames(frames, start, torch.tensor([3]), dynamics)
        assert got[0, :, 0].tolist() == spikes and v[0].tolist() == [last] * 4
        # one frame is valid: no spike after it, and the potential stays
        got, v, counts = run_frames(frames, start, torch.tensor([1]), dynamics)
        assert got[0, :, 0].tolist() == [spikes[0], 0, 0]
        assert counts[0].tolist() == [4 * spikes[0], 0, 0]
        assert v[0, 0] == (0.25 if reset == "hard" else 0.0)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_tie_resets_the_gradient_too(name, reset):
    """The first step fires on a tie: a hard reset lets nothing through it, a soft one 1/2 * 1/2.

    The slope of the surrogate atan in the second step, 0.5 (or 0.625) under the threshold:
    1 / (1 + (pi u)^2).
    """
    dynamics = LIFDynamics(2.0, 1.0, 0.25, reset, surrogate_alpha=2.0)
    x = torch.tensor([1.5, 0.5])[:, None, None].requires_grad_()
    with form(name):
        spikes, *_ = run_steps(x, 2, dynamics)
        spikes[1].sum().backward()
    assert x.grad is not None
    under = 0.5 if reset == "hard" else 0.625
    slope = 1 / (1 + (math.pi * under) ** 2)
    first = 0.0 if reset == "hard" else 0.25 * slope
    assert x.grad.flatten().tolist() == pytest.approx([first, 0.5 * slope], rel=1e-5)
