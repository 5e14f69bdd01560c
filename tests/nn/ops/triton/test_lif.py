"""The LIF kernels against the loops in torch, in float64."""

import pytest
import torch

from espnet_spike.nn.ops.lif import LIFDynamics, run_frames, run_steps
from espnet_spike.nn.ops.surrogate import SURROGATES
from espnet_spike.nn.ops.triton import lif as kernels
from tests.helpers.interpreter import compare, grid, interpreted, kernels_on, on_each_device, randn

FULL = [(reset, d, detach) for reset in ("hard", "soft") for d in (1, 0) for detach in (1, 0)]
DYNAMICS = grid([("hard", 1, 1), ("soft", 0, 0)], FULL)
DTYPES = grid(["float32"], ["bfloat16", "float16"])
# frames, channels, valid frames
FRAMES = grid(
    [(9, 5, (9, 0, 8))],
    [(11, 5, (11, 0, 9)), (1, 1, (1, 0, 1)), (8, 70, (8, 1, 7)), (17, 64, (16, 17, 9))],
)


def dynamics(reset, decay_input, detach, surrogate="atan"):
    conf = {"decay_input": bool(decay_input), "detach_reset": bool(detach)}
    # no short sum of halves reaches this threshold: at a tie, rounding of fp32 and float64 would
    # decide whether a neuron fires, in torch as in the kernel
    return LIFDynamics(2.5, 0.80311, 0.1, reset, surrogate=surrogate, **conf)


@on_each_device
@pytest.mark.parametrize("learnt", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("conf", DYNAMICS)
@pytest.mark.parametrize("sizes", FRAMES)
def test_over_frames(sizes, conf, dtype, learnt, device):
    frames, channels, lengths = sizes

    def run(x, v, rate, lengths):
        return run_frames(x, v.to(x.dtype), lengths, dynamics(*conf), rate if learnt else None)

    inputs = {
        "x": 1.5 * randn(3, frames, channels) + 0.5,
        "v": randn(3, channels, seed=1) * 0.3,
        "rate": torch.tensor(0.4),
        "lengths": torch.tensor(lengths),
    }
    compare(run, inputs, dtype, device, singles=["rate"])


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("conf", DYNAMICS)
@pytest.mark.parametrize(
    "shape", grid([(2, 2, 5)], [(6, 3, 5), (4, 1, 1), (8, 2, 3, 7), (4, 2, 1200)])
)
def test_over_time_steps(shape, conf, dtype, device):
    def run(x):
        return run_steps(x, 2, dynamics(*conf))[:2]

    compare(run, {"x": 1.5 * randn(*shape) + 0.5}, dtype, device)


@on_each_device
@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates(name, device):
    def run(x):
        return run_steps(x, 2, dynamics("soft", 1, 0, name))[:2]

    compare(run, {"x": 1.5 * randn(2, 2, 8) + 0.5}, "float32", device)


@interpreted
def test_spikes_and_potentials_are_those_of_the_loop_to_the_bit():
    x, v = 2 * randn(2, 19, 33), torch.zeros(2, 33)
    lengths = torch.tensor([19, 4])
    found = []
    for wanted in (True, False):
        with kernels_on(wanted):
            found.append(run_frames(x, v, lengths, LIFDynamics(3.0)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@interpreted
def test_a_stream_in_pieces_is_the_whole():
    x, v = randn(1, 12, 6) + 1, torch.zeros(1, 6)
    neuron = kernels.Neuron(2.0, 1.0, 0.0, False, True)
    whole, last, _, h = kernels.run_frames(x, v, torch.tensor([12]), neuron, None, keep=False)
    assert h is None and whole.any()
    pieces = []
    for piece in x.split(5, 1):
        length = torch.tensor([piece.shape[1]])
        spikes, v, _, _ = kernels.run_frames(piece.contiguous(), v, length, neuron, None, False)
        pieces.append(spikes)
    assert torch.equal(torch.cat(pieces, 1), whole) and torch.equal(v, last)
