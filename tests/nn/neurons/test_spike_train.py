"""Thermometer code, and that what is made again is what was made."""

import pytest
import torch

from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import LIF
from espnet_spike.nn.neurons.spike_train import SpikeTrain, recomputing

TRAIN = SpikeTrain(
    counts=torch.tensor([[[0.0, 3.0], [1.0, 2.0]]]),
    frame=torch.tensor([[[1.0], [2.0]]]),
    channel=torch.tensor([0.5, 4.0]),
    levels=3,
)


def test_slots_are_a_thermometer_of_the_counts():
    slots = [TRAIN.slot(t) for t in (1, 2, 3)]
    assert [slot[0].tolist() for slot in slots] == [
        [[0, 1], [1, 1]],
        [[0, 1], [0, 1]],
        [[0, 1], [0, 0]],
    ]
    assert torch.equal(sum(slots), TRAIN.counts)
    assert TRAIN.value()[0].tolist() == [[0.0, 12.0], [1.0, 16.0]]
    assert TRAIN.shape == (1, 2, 2)


def test_a_mask_silences_frames_and_keeps_units():
    masked = TRAIN.masked(torch.tensor([[True, False]]))
    assert masked.counts[0].tolist() == [[0, 3], [0, 0]]
    assert masked.frame is TRAIN.frame and masked.levels == 3
    maps = SpikeTrain(torch.ones(1, 2, 5, 2), torch.ones(1), torch.ones(2), 1)
    assert maps.masked(torch.tensor([[False, True]])).counts.sum((0, 2, 3)).tolist() == [0, 10]


@pytest.mark.parametrize("neuron", [IMLS(6), LIF(6, 3)], ids=["imls", "lif"])
def test_a_recipe_makes_the_same_output_and_gradient_and_keeps_less(neuron):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, requires_grad=True)
    weight = torch.randn(6, 4)
    y = neuron(x)
    assert torch.equal(y.recipe.recompute().view(y.shape), y)

    def gradient(context):
        kept = []
        with (
            torch.autograd.graph.saved_tensors_hooks(
                lambda t: kept.append(t.data_ptr()) or t, lambda t: t
            ),
            context,
        ):
            w = weight.clone().requires_grad_()
            loss = (y @ w).square().sum()
        return kept, torch.autograd.grad(loss, w, retain_graph=True)[0]

    kept, expected = gradient(torch.enable_grad())
    assert y.data_ptr() in kept
    kept, got = gradient(recomputing(y))
    assert y.data_ptr() not in kept
    assert torch.equal(got, expected)


def test_what_has_no_recipe_is_kept():
    x, w = torch.randn(3, 4), torch.randn(4, 2, requires_grad=True)
    with recomputing(x):
        (x @ w).sum().backward()
    assert torch.equal(w.grad, x.sum(0)[:, None].expand(4, 2))
