"""The mark is the one that ESPnet looks for."""

import torch
from espnet2.optimizers.optim_groups import configure_optimizer

from espnet_spike.nn.weight_decay import without_weight_decay


class Network(torch.nn.Module):
    """Two matrices, one of them marked."""

    def __init__(self):
        super().__init__()
        self.decays = torch.nn.Linear(2, 2, bias=False)
        self.marked = torch.nn.Linear(2, 2, bias=False)
        parameter = self.marked.weight
        assert without_weight_decay(parameter) is parameter


def test_a_marked_parameter_is_left_out_by_espnet():
    network = Network()
    optimizer = configure_optimizer(network, torch.optim.AdamW, {"weight_decay": 0.5}, {})
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay[id(network.decays.weight)] == 0.5
    assert decay[id(network.marked.weight)] == 0.0
