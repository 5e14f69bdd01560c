"""FATReLU: its values, gradients, statistics, placement, and the sparsity loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from espnet_spike.nn.layers.fatrelu import (
    PRESETS,
    FatPoints,
    FATReLU,
    Pass,
    SparsityLoss,
    mean_sparsity,
    sparsities,
)
from tests.helpers.kernels import FORMS, form

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=50))
@settings(deadline=None)  # the first call compiles
def test_without_threshold_it_is_relu_bit_for_bit(values):
    x = torch.tensor(values).view(1, -1, 1)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, want = FATReLU(T=0.0)(a), F.relu(b)
    assert torch.equal(y, want)
    y.sum().backward()
    want.sum().backward()
    assert torch.equal(a.grad, b.grad)


@given(
    st.lists(FLOATS, min_size=1, max_size=40),
    st.floats(0, 10),
    st.floats(0, 10),
    st.booleans(),
)
@settings(deadline=None)
def test_sparsity_grows_with_the_threshold(values, T1, T2, two_sided):
    x = torch.tensor(values).view(1, -1, 1)
    low, high = sorted((T1, T2))
    shares = []
    for T in (low, high):
        layer = FATReLU(T=T, learn=False, two_sided=two_sided)
        y = layer(x)
        assert layer.sparsity.fraction == (y == 0).double().mean().float()
        assert ((y == x) | (y == 0)).all()
        shares.append(float(layer.sparsity.fraction))
    assert shares[0] <= shares[1]


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_statistics_leave_padding_out(seed, length):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 6, 3, generator=g)
    mask = torch.arange(6) < torch.tensor([6, length])[:, None]
    layer = FATReLU(T=0.3)
    y = layer(x, mask)
    assert layer.sparsity.fraction == (y[mask] == 0).double().mean().float()
    torch.testing.assert_close(layer.activation_mean, y[mask].mean())
    before = layer.sparsity
    x[1, length:] = 5.0
    layer(x, mask)
    assert (layer.sparsity.zeros, layer.sparsity.numel) == (before.zeros, before.numel)


def test_statistics_of_convolution_maps_and_empty_batches():
    layer = FATReLU(T=0.5)
    layer(torch.tensor([[[[0.1, 0.9], [0.7, 0.0]]]]), torch.tensor([[True]]))
    assert layer.sparsity.fraction == 0.5
    layer(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert layer.sparsity.fraction == 0
    assert layer.activation_mean == 0


def test_learnt_threshold():
    layer = FATReLU(T=0.25)
    torch.testing.assert_close(layer.T, torch.tensor(0.25))
    layer.set_T(0.75)
    torch.testing.assert_close(layer.T, torch.tensor(0.75))
    torch.testing.assert_close(layer.T_init, torch.tensor(0.75))
    assert [name for name, _ in layer.named_parameters()] == ["tau"]
    assert layer.tau._no_weight_decay
    with pytest.raises(ValueError, match="cannot be 0"):
        layer.set_T(0)
    with pytest.raises(ValueError, match="must not be negative"):
        FATReLU(T=-1)
    with pytest.raises(ValueError, match="did you mean 'rational'"):
        FATReLU(surrogate="rationale")
    assert not list(FATReLU(T=0.0).parameters())
    assert not list(FATReLU(T=0.5, learn=False).parameters())
    # a large step down leaves it positive
    with torch.no_grad():
        layer.tau -= 50
    assert 0 < layer.T < 1e-10


def test_learning_moves_the_threshold_to_where_the_loss_wants_it():
    # the target has zeros below 0.6: the threshold has to rise to them
    torch.manual_seed(0)
    x = torch.rand(1, 512, 4)
    target = torch.where(x >= 0.6, x, 0)
    layer = FATReLU(T=0.1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(layer(x), target).backward()
        optimizer.step()
    assert 0.45 < layer.T < 0.7


@pytest.mark.parametrize("surrogate", ["sigmoid", "rational"])
def test_scaled_surrogate_does_not_depend_on_the_unit(surrogate):
    x = torch.randn(1, 50, 2, dtype=torch.float64)
    grads, inputs = [], []
    for unit in (1.0, 1000.0):
        layer = FATReLU(T=0.5 * unit, scale_k=True, surrogate=surrogate).double()
        inputs.append((unit * x).requires_grad_())
        layer(inputs[-1]).sum().backward()
        grads.append(layer.tau.grad / torch.autograd.grad(layer.T, layer.tau)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-6, atol=1e-9)


def test_points_by_name():
    points = FatPoints("e", T=0.1)
    assert isinstance(points("F5"), FATReLU)
    assert isinstance(points("F9"), Pass)
    assert set(PRESETS["optimized"]) - set(PRESETS["e"]) == {"F9", "F10", "F11"}
    x = torch.randn(1, 3, 2)
    assert torch.equal(points("F9")(x), x)
    silu = torch.nn.SiLU()
    assert torch.equal(points("F9", silu)(x), silu(x))
    # one-sided takes the activation's place, two-sided comes after it
    assert torch.equal(FatPoints(["F6"])("F6", silu)(x), F.relu(x))
    assert torch.equal(FatPoints(["F6"], two_sided=["F6"])("F6", silu)(x), silu(x))
    assert points("F5").point == "F5"
    assert points("F5").surrogate == "sigmoid"
    assert FatPoints("e", surrogate="rational")("F5").surrogate == "rational"
    for arguments in (
        {"points": ["F12"]},
        {"points": "optimised"},
        {"two_sided": ["F19"]},
        {"surrogate": "sigmoids"},
    ):
        with pytest.raises(ValueError, match="did you mean"):
            FatPoints(**arguments)


def test_means_over_points():
    network = torch.nn.ModuleDict(
        {"a": FATReLU(T=1.0, macs=1), "b": FATReLU(T=1.0, macs=9), "c": Pass()}
    )
    assert sparsities(network) == {}
    assert mean_sparsity(network) is None
    network["a"](torch.zeros(1, 1, 4))
    network["b"](torch.full((1, 1, 4), 2.0))
    assert {k: float(v) for k, v in sparsities(network).items()} == {"a": 1.0, "b": 0.0}
    assert mean_sparsity(network) == 0.5
    torch.testing.assert_close(mean_sparsity(network, mac_weighted=True), torch.tensor(0.1))


def test_sparsity_loss():
    layers = [FATReLU(T=0.5), FATReLU(T=0.25), FATReLU(T=0.0)]
    x = torch.tensor([[[-1.0, 0.3, 0.9, 2.0]]])
    for layer in layers:
        layer(x)
    terms = SparsityLoss("paper", 1e-2, 1e-3)(layers)
    activation = 1e-2 * (2.9 / 4 + 3.2 / 4 + 3.2 / 4)
    torch.testing.assert_close(terms["sparsity_activation"], torch.tensor(activation))
    torch.testing.assert_close(terms["sparsity_threshold"], torch.tensor(1e-3 * (4 + 16)))
    # d/dT of (1/T)^2 is -2/T^3
    (slope,) = torch.autograd.grad(terms["sparsity_threshold"], layers[0].tau)
    dT = torch.autograd.grad(layers[0].T, layers[0].tau)[0]
    torch.testing.assert_close(slope / dT, torch.tensor(1e-3 * -2 / 0.5**3))
    relative = SparsityLoss("relative", 0.0, 1e-3)(layers)
    torch.testing.assert_close(relative, {"sparsity_threshold": torch.tensor(2e-3)})
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        SparsityLoss("papr")


def test_activation_loss_has_a_gradient():
    layer = FATReLU(T=0.5)
    x = torch.tensor([[[0.3, 0.9]]], requires_grad=True)
    layer(x)
    SparsityLoss()([layer])["sparsity_activation"].backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[0.0, 0.5e-4]]]))
    assert layer.tau.grad < 0  # raising the threshold makes the mean smaller


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(
    ("T", "surrogate"), [(0.0, "sigmoid"), (0.4, "sigmoid"), (0.4, "rational")]
)
def test_compiled_equals_torch(dtype, two_sided, T, surrogate):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 2, 37, generator=g, dtype=torch.float64).to(dtype)
    x[0, 0, 0, :3] = torch.tensor([0.0, T, -T])
    mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    weight = torch.randn(x.shape, generator=g, dtype=torch.float64).to(dtype)
    results = []
    for how in FORMS:
        layer = FATReLU(T=T, two_sided=two_sided, surrogate=surrogate).to(dtype)
        a = x.clone().requires_grad_()
        with form(how):
            y = layer(a, mask)
        loss = (y * weight).sum() + 3 * layer.activation_mean
        grads = torch.autograd.grad(loss, [a, *layer.parameters()])
        sparsity = layer.sparsity
        results.append((y, sparsity.zeros, sparsity.numel, layer.activation_mean, *grads))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert len(results[0]) == (6 if T else 5)


def test_compiled_result_does_not_depend_on_threads():
    x = torch.randn(40, 100, 200)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        layer, a = FATReLU(T=0.3), x.clone().requires_grad_()
        loss = layer(a).square().sum() + layer.activation_mean
        results.append(torch.autograd.grad(loss, [a, layer.tau]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_and_counted_in_fp32(dtype):
    x = torch.full((1, 2, 1001), 0.5, dtype=dtype)
    above, below = FATReLU(0.5001, learn=False), FATReLU(0.4999)
    assert not above(x).any() and above.sparsity.fraction == 1
    y = below(x)
    assert y.dtype == dtype and torch.equal(y, x)
    assert below.sparsity.zeros == 0 and below.activation_mean == 0.5
    (y.sum() + below.activation_mean).backward()
    assert below.tau.grad.dtype == torch.float32 and below.tau.grad != 0
