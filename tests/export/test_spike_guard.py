"""The guard sees what meets weights, by hand-made layers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from espnet_spike.export.spike_guard import LOOKUPS, SpikeGuard, guarded, is_binary
from espnet_spike.nn.layers.fatrelu import FatPoints
from espnet_spike.nn.layers.mamba import SelectiveSSM
from espnet_spike.nn.neurons.imls import IMLS


class Net(nn.Module):
    """Features, a matrix that reads them, a neuron in binary mode, and ``layer`` on its slots."""

    def __init__(self, layer):
        super().__init__()
        self.analog = nn.Linear(4, 6, bias=False)
        self.neuron = IMLS(6, T=2)
        self.neuron.spike_mode = "binary"
        self.synapses = nn.Linear(6, 3, bias=False)
        self.layer = layer

    def forward(self, xs, lengths):
        return self.layer(self, self.neuron(self.analog(xs)))


def run(layer):
    torch.manual_seed(0)
    net = Net(layer).eval()
    return guarded(net, torch.randn(1, 5, 4), torch.tensor([5]))


def test_slots_pass_and_are_counted():
    out, guard = run(
        lambda net, train: sum(
            train.slot(t) @ (net.synapses.weight * train.channel).t() for t in (1, 2)
        )
    )
    assert out.shape == (1, 5, 3) and guard.violations == {}
    assert guard.analog == ("analog.weight",) and guard.products == {"synapses.weight": 2}


def test_values_are_named_with_the_weights_they_meet():
    _, guard = run(lambda net, train: net.synapses(train.value()))
    (what,) = guard.violations
    assert "synapses.weight reads" in what and "instead of 0 and 1" in what
    assert guard.analog == ("analog.weight",) and guard.products == {}


def test_a_second_layer_on_real_values_is_no_first_layer():
    _, guard = run(lambda net, train: net.synapses(train.slot(1)) + net.synapses(train.value()))
    assert guard.products == {"synapses.weight": 1}
    assert sum(guard.violations.values()) == 1


def test_weights_that_no_product_meets_are_named():
    _, guard = run(lambda net, train: train.slot(1))
    assert guard.violations == {"synapses.weight was seen in no product": 1}


def test_weights_multiplied_by_elements_are_named():
    _, guard = run(lambda net, train: (train.value()[..., None, :] * net.synapses.weight).sum(-1))
    assert any(what.startswith("mul of synapses.weight with") for what in guard.violations)


def test_units_may_scale_what_was_summed():
    _, guard = run(lambda net, train: train.frame * net.synapses(train.slot(1)))
    assert guard.violations == {}


@pytest.mark.parametrize("gate", ["frame", "channel"])
def test_a_unit_is_no_gate(gate):
    """A factor for each channel in each frame, or a channel's that follows the input."""

    class Gated(IMLS):
        def forward(self, x, mask=None):
            shown = x.abs() if gate == "frame" else x.abs().mean((0, 1))
            train: Any = super().forward(x, mask)
            return replace(train, **{gate: shown})

    net = Net(lambda net, train: net.synapses(train.slot(1))).eval()
    net.neuron = Gated(6, T=2)
    net.neuron.spike_mode = "binary"
    _, guard = guarded(net.eval(), torch.randn(1, 5, 4), torch.tensor([5]))
    assert guard.violations == {
        "the unit of neuron is more than a factor a frame and one a channel": 1
    }


@pytest.mark.parametrize(
    ("gate", "seen"),
    [
        (lambda y: y * y, "mul of two real-valued operands after synapses.weight"),
        (lambda y: y.addcmul(y, y), "addcmul of two real-valued operands after synapses.weight"),
        (lambda y: y * y.sigmoid(), "sigmoid of real values after synapses.weight"),
        (lambda y: 2 / (y * y.item()), "reciprocal of real values after synapses.weight"),
        (lambda y: torch.ones(1) / y, "div by real values after synapses.weight"),
        (lambda y: y * torch.tensor(y.tolist()), "tolist of real values after synapses.weight"),
        (lambda y: y.relu(), "relu of real values after synapses.weight"),
        (lambda y: y**2, "pow of real values after synapses.weight"),
        (lambda y: torch.where(y > 0, y, 2 * y), "gt of real values after synapses.weight"),
        (lambda y: nn.functional.glu(y[..., :2]), "glu of real values after synapses.weight"),
        (lambda y: (y.abs().log() + y).exp(), "exp of real values after synapses.weight"),
        (lambda y: y * held(y), "mul of two real-valued operands after synapses.weight"),
        (
            lambda y: y + torch.linspace(0, 1, 99).sigmoid()[(9 * y).floor_().long()],
            "floor_ of real values after synapses.weight",
        ),
        (lambda y: y + (9 * y).long(), "_to_copy of real values to torch.int64 after"),
        (lambda y: y + y.bool(), "_to_copy of real values to torch.bool after"),
        (lambda y: y + y.view(torch.int32), "view of real values to torch.int32 after"),
        (lambda y: y.clone().apply_(lambda a: a * a), "apply_ of real values after"),
        (lambda y: y + torch.ones(1, 5, 3).map_(y, lambda _, a: a * a), "map_ of real values"),
        (
            lambda y: y + torch.tensor(np.from_dlpack(y).copy()),
            "__dlpack__ of real values after synapses.weight",
        ),
        (
            lambda y: y * torch.from_numpy(np.full(3, 7)),
            "mul of two real-valued operands after synapses.weight",
        ),
        (
            lambda y: y + torch.from_numpy(np.ones(3, np.float32)),
            "lift_fresh of what no operation has made after synapses.weight",
        ),
    ],
)
def test_real_values_are_no_gates(gate, seen):
    def layer(net, train):
        drive = net.synapses(train.slot(1))
        return gate(drive[:, :1, 0] if "recip" in seen else drive)

    _, guard = run(layer)
    assert any(what.startswith(seen) for what in guard.violations)


def held(y):
    """Return values that a view has written into a tensor of constants, row by row."""
    found = torch.zeros(y.shape)
    for row, written in zip(found[0], y[0], strict=True):
        row.copy_(written)
    return found


@pytest.mark.parametrize(
    "look_up", [lambda t, i: t[i], lambda t, i: t.index_select(0, i.flatten())]
)
def test_counts_are_no_places_in_a_table(look_up):
    """So any function of a count would be an addition."""

    def layer(net, train):
        net.synapses(train.slot(1))
        return look_up(torch.linspace(0, 1, 3).sigmoid(), train.counts.long())

    _, guard = run(layer)
    (what,) = guard.violations
    assert what in {f"{name} by real values after synapses.weight" for name in LOOKUPS}


def test_a_unit_is_a_frames_where_frames_have_bins_too():
    class Gated(IMLS):
        def forward(self, x, mask=None):
            bins = x.unflatten(2, (2, 3))
            train: Any = super().forward(bins, mask)
            return replace(train, frame=bins.abs().mean(-1, keepdim=True))

    net = Net(lambda net, train: net.synapses(train.slot(1).flatten(2)))
    net.neuron = Gated(3, T=2)
    net.neuron.spike_mode = "binary"
    _, guard = guarded(net.eval(), torch.randn(1, 5, 4), torch.tensor([5]))
    assert guard.violations == {
        "the unit of neuron is more than a factor a frame and one a channel": 1
    }


def test_real_values_are_added_moved_and_weighed_by_spikes_and_constants():
    def layer(net, train):
        drive = net.synapses(train.slot(1)) * 0.5
        total = torch.cat([drive, drive.flip(1)], -1)[..., :6] - drive.mean()
        return total * train.slot(2) + (total * train.frame * train.channel).sum(1)

    assert run(layer)[1].violations == {}


def test_another_parameter_is_no_factor_of_real_values_unless_its_layer_says_so():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.full((3,), 2.0))

        def forward(self, x):
            return x * self.gain

    def layer(net, train):
        return net.extra(net.synapses(train.slot(1)))

    def of(module):
        torch.manual_seed(0)
        net = Net(layer)
        net.extra = module
        return guarded(net.eval(), torch.randn(1, 5, 4), torch.tensor([5]))[1]

    (what,) = of(Gain()).violations
    assert what.startswith("mul of extra.gain with")

    class Said(Gain):
        def real_valued(self):
            return ["gain"]

    said = of(Said())
    assert said.violations == {} and said.real == {"extra.gain"}


def test_the_module_of_a_scan_has_its_step_size_and_no_other_function():
    class Gated(SelectiveSSM):
        def forward(self, x):
            return nn.functional.softplus(x) + self.dt_proj.weight.sum() + x.sigmoid()

    net = Net(lambda net, train: net.extra(net.synapses(train.slot(1))))
    net.extra = Gated(2, 1, 2, 1, FatPoints())
    _, guard = guarded(net.eval(), torch.randn(1, 5, 4), torch.tensor([5]))
    functions = [what for what in guard.violations if "of real values after" in what]
    assert functions == ["sigmoid of real values after synapses.weight"]


def test_of_two_operands_from_the_input_one_is_binary():
    def layer(net, train):
        drive = net.synapses(train.slot(1))
        return drive, drive.mT @ train.slot(1), drive @ drive.mT

    _, guard = run(layer)
    assert guard.pairs == 2
    (what,) = guard.violations
    assert what == "bmm of two real-valued operands after synapses.weight"


def test_softmax_attention_is_no_product_of_spikes():
    def layer(net, train):
        drive = net.synapses(train.slot(1))
        return nn.functional.scaled_dot_product_attention(drive, drive, drive)

    _, guard = run(layer)
    assert guard.violations


def test_work_on_weights_alone_is_ahead_of_the_input():
    net = nn.Linear(3, 3)
    with SpikeGuard(net) as guard, torch.no_grad():
        _ = net.weight @ net.weight
    assert guard.violations == {} and guard.unseen() == ["weight"]


def test_what_is_binary():
    assert is_binary(torch.tensor([0.0, 1.0])) and is_binary(torch.zeros(0))
    for value in (0.5, -1.0, 2.0, 1 + 1e-6, float("nan")):
        assert not is_binary(torch.tensor([0.0, value], dtype=torch.double))
