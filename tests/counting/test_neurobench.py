"""Our figures against NeuroBench's own metrics, where its definitions apply."""

import pytest
import torch
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
from neurobench.models import TorchModel
from torch import nn

from espnet_spike.counting.neurobench import execution_rate, static_metrics, workload_metrics
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.nn.neurons.base import Neuron
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.ternary import TernaryMomentum, ternary_digits
from tests.counting.test_counter import SMALL, count

# made, the input's shape; channels second
LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (1, 9, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 5, 3, stride=2), (1, 6, 9)),
    "padded conv1d": (lambda: nn.Conv1d(6, 5, 5, padding=2), (1, 6, 9)),
    "depthwise conv1d": (lambda: nn.Conv1d(6, 6, 3, groups=6), (1, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 1)), (1, 3, 7, 8)),
    "padded conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2), (1, 3, 7, 8)),
}


class Fed(nn.Module):
    """A layer behind a neuron, which has its channels last."""

    def __init__(self, neuron, layer):
        super().__init__()
        self.neuron, self.layer = neuron, layer

    def spikes(self, x):
        if isinstance(self.layer, nn.Linear):
            return self.neuron(x)
        return self.neuron(x.movedim(1, -1)).movedim(-1, 1)

    def forward(self, x):
        return self.layer(self.spikes(x))


def theirs(net, xs):
    """NeuroBench's synaptic operations of all inputs together; its mean is over their number."""
    model, metric = TorchModel(net), SynapticOperations()
    model.register_hooks()
    for x in xs:
        model.reset_hooks()
        with torch.no_grad():
            metric(model, model(x), (x, None))
    model.cleanup_hooks()
    return {name: float(value) * len(xs) for name, value in metric.compute().items()}


def ours(net, x):
    return workload_metrics(count(net, x).costs, 1)["synaptic_operations"]


@pytest.mark.parametrize("name", LAYERS)
def test_synaptic_operations(name):
    torch.manual_seed(8)
    make, shape = LAYERS[name]
    layer = make()
    channels = shape[-1] if isinstance(layer, nn.Linear) else shape[1]
    x = torch.randn(shape)
    real = nn.Sequential(nn.ReLU(), layer)
    expected, found = theirs(real, [x]), ours(real, x)
    assert found["Effective_MACs"] == expected["Effective_MACs"] > 0
    assert found["Effective_ACs"] == expected["Effective_ACs"] == 0
    # torch, and so we, count the positions of padding among all
    if "padded" in name:
        assert found["Dense"] > expected["Dense"]
    else:
        assert found["Dense"] == expected["Dense"]
    binary = Fed(FrameLIF(channels, v_th=0.2), layer)
    expected, found = theirs(binary, [x]), ours(binary, x)
    assert found["Effective_ACs"] == expected["Effective_ACs"] > 0
    assert found["Effective_MACs"] == expected["Effective_MACs"] == 0
    # counts are what NeuroBench counts for their spikes, step by step: in {0, 1} and {-1, 0, 1}
    imls = Fed(IMLS(channels, T=3, stat="fixed", alpha_init=0.4), layer)
    with torch.inference_mode():
        counts = (imls.spikes(x) / imls.neuron.alpha[0]).round()
    steps = [(counts >= t).float() for t in (1, 2, 3)]
    expected, found = theirs(nn.Sequential(layer), steps), ours(imls, x)
    assert found["Effective_ACs"] == expected["Effective_ACs"] > 0
    ternary = Fed(TernaryMomentum(channels, T=3, stat="fixed", alpha_init=0.3), layer)
    steps = list(ternary_digits(x / ternary.neuron.alpha[0].detach(), 3))
    assert any((step < 0).any() for step in steps)
    expected, found = theirs(nn.Sequential(layer), steps), ours(ternary, x)
    assert found["Effective_ACs"] == expected["Effective_ACs"] > 0
    assert found["Effective_MACs"] == 0


def test_activation_sparsity_and_membrane_updates():
    torch.manual_seed(1)
    net = nn.Sequential(nn.ReLU(), nn.Linear(6, 5), IMLS(5), nn.Linear(5, 4), FrameLIF(4, v_th=0.1))
    x = torch.randn(1, 9, 6)
    model = TorchModel(net)
    model.add_activation_module(Neuron)
    model.register_hooks()
    with torch.no_grad():
        model(x)
    expected = ActivationSparsity()(model, None, (x, None))
    model.cleanup_hooks()
    found = workload_metrics(count(net, x).costs, 1)
    assert found["activation_sparsity"] == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 1
    assert found["membrane_updates"] == 9 * (5 + 4)


def test_static_metrics():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = IMLSpikeformerEncoder(20, norm="bn", imls_stat="ema", **SMALL)
            self.lstm = nn.LSTM(8, 4, 2, bidirectional=True)
            self.cell = nn.GRUCell(4, 3)
            self.half = nn.Linear(4, 4).half()

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for p in net.parameters():
            p[torch.rand_like(p, dtype=torch.float32) < 0.3] = 0
    model, found = TorchModel(net), static_metrics(net)
    assert found["footprint"] == Footprint()(model)
    assert found["parameter_count"] == ParameterCount()(model)
    assert found["connection_sparsity"] == ConnectionSparsity()(model) > 0.2
    assert static_metrics(nn.ReLU())["connection_sparsity"] is None


def test_execution_rate():
    # frames of 10 ms, every fourth, six time steps each
    assert execution_rate(1000, 10.0, 4, 6) == 150.0
