"""The LIF recurrence against the numbers of published simulators."""

import pytest
import torch

from espnet_spike.nn.ops.lif import LIFDynamics, lif_step
from espnet_spike.nn.ops.surrogate import spike


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
