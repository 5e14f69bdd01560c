"""What layers tell a ledger: where one is open, once; compilers do not notice."""

import threading

import pytest
import torch
from torch import nn

from espnet_spike.counting.counter import Counter
from espnet_spike.nn.accounting import Counted, counted, open_ledger
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.mamba import SelectiveSSM
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.spike_train import SpikeTrain


def charge(ledger, out, x):
    ledger.cost("special thing").special += out.numel()


@counted(charge)
def twice(x):
    return x.exp() + x.exp()


class Twice(nn.Module):
    def forward(self, x):
        return twice(x) * 2.0


def test_a_rule_stands_for_what_happens_inside():
    x = torch.randn(2, 3)
    with torch.inference_mode(), Counter(Twice()) as counter:
        assert open_ledger() is counter.ledger
        y = counter.model(x)
    assert open_ledger() is None
    assert torch.equal(y, 4 * x.exp())
    assert {kind for _, kind in counter.costs} == {"special thing", "elementwise"}
    assert counter.costs["", "special thing"].special == 6
    assert counter.costs["", "elementwise"].special == 0  # no exponential
    assert counter.costs["", "elementwise"].multiplies == 6


def test_another_thread_has_no_ledger():
    seen = []
    with Counter(Twice()):
        thread = threading.Thread(target=lambda: seen.append(open_ledger()))
        thread.start()
        thread.join()
    assert seen == [None]


class Whole(Counted, nn.Module):
    """Counted as a whole, with parts that would be counted as well."""

    def __init__(self):
        super().__init__()
        self.neuron = IMLS(3)

    def forward(self, x):
        return twice(self.neuron(x))

    def count(self, ledger, inputs, output):
        ledger.cost("whole").updates += inputs[0].numel()


def test_parts_of_what_is_counted_as_a_whole_are_not_counted_again():
    model = nn.Sequential(Whole())
    with torch.inference_mode(), Counter(model) as counter:
        model(torch.randn(1, 4, 3))
    assert {key: cost.updates for key, cost in counter.costs.items()} == {("0", "whole"): 12}


def test_the_ledger_is_closed_after_an_error():
    class Fails(Whole):
        def count(self, ledger, inputs, output):
            raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match=r"^odd$"), Counter(Fails()) as counter:
        counter.model(torch.randn(1, 4, 3))
    assert open_ledger() is None


def test_who_is_counted_has_to_say_how():
    class Silent(Counted, nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(NotImplementedError, match="Silent"), Counter(Silent()) as counter:
        counter.model(torch.randn(1))


def spikes(counts):
    train = SpikeTrain(counts, counts.new_ones(1), counts.new_full((4,), 0.5), 3)
    return sum(train.slot(t) for t in (1, 2, 3)) + train.value()


def scan():
    ssm = SelectiveSSM(4, 3, 2, 2).eval().requires_grad_(False)
    return lambda x: ssm(x, torch.tensor([5]), None)


def decay():
    mask = DecayMask(1, 2, 2)
    return lambda x: mask.matrix(5) * x.sum()


@pytest.mark.parametrize("make", [lambda: spikes, scan, decay], ids=["spikes", "scan", "decay"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_compilers_and_tracers_see_through(make):
    function, x = make(), torch.randint(0, 4, (1, 5, 4)).float()
    expected = function(x)
    assert torch.allclose(torch.jit.trace(function, x)(x), expected, atol=1e-6)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), expected, atol=1e-6)
