"""Neurons chosen by name."""

import pytest
import torch

from espnet_spike.nn.neurons.factory import NEURONS, NeuronFactory, NormedNeuron


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_has_one_calling_convention(name):
    make = NeuronFactory(name, 4)
    for shape in ((2, 5, 3), (2, 5, 7, 3)):
        x = torch.randn(make.time_steps * shape[0], *shape[1:], requires_grad=True)
        mask = torch.ones(len(x), 5, dtype=torch.bool)
        y = make(3)(x, mask)
        assert y.shape == x.shape and (y >= 0).all()
        y.sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NEURONS)
def test_inputs_in_fp32_make_the_spikes_of_fp32_under_autocast(name, dtype):
    x = torch.randn(4, 3, 300).mul_(2)
    per_channel = {"per_channel": True} if name in ("ilif", "lif") else {}
    neuron = NeuronFactory(name, 4, per_channel)(300).train()
    wanted = neuron(x)
    firing = getattr(neuron, "firing", None)
    with torch.autocast("cpu", dtype):
        assert torch.equal(neuron(x), wanted) and wanted.any()
    assert getattr(neuron, "firing", None) == firing


def test_the_twin_is_relu():
    x = torch.randn(2, 5, 3)
    assert torch.equal(NeuronFactory("relu", 6)(3)(x), x.clamp(min=0))


def test_time_steps():
    steps = {"imls": 1, "ilif": 1, "lif": 3, "ternary": 1, "relu": 1}
    assert steps == {name: NeuronFactory(name, 3).time_steps for name in steps}
    assert NeuronFactory("ilif", 3, {"time_steps": 2}).time_steps == 2


def test_conf_wins_and_overrides_win_over_conf():
    make = NeuronFactory("imls", 6, {"T": 4})
    assert make(3).T == 4
    assert make(3, T=1).T == 1


def test_neurons_that_need_norms_get_them_unasked():
    assert NEURONS["lif"].needs_norm and not NEURONS["imls"].needs_norm
    for name, cls in NEURONS.items():
        assert isinstance(NeuronFactory(name).unnormed(3), NormedNeuron) == cls.needs_norm
        assert isinstance(NeuronFactory(name, norm=True).unnormed(3), NormedNeuron)
        assert not isinstance(NeuronFactory(name, norm=False).unnormed(3), NormedNeuron)


def test_normed_neuron_normalises_first():
    neuron = NeuronFactory("relu", norm=True).unnormed(3)
    x = 5 + 100 * torch.randn(4, 50, 3)
    mask = torch.ones(4, 50, dtype=torch.bool)
    assert 0.3 < neuron(x, mask).mean() < 0.5  # E relu(N(0, 1)) = 0.4


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'imls'"):
        NeuronFactory("imsl")
    with pytest.raises(ValueError, match=r"neuron_conf: 'vth' .*did you mean 'v_th'"):
        NeuronFactory("lif", 4, {"vth": 1})
