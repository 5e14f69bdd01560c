"""The selective scan: every backend against the loop over frames, forward and backward."""

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops import selective_scan as module
from espnet_spike.nn.ops.selective_scan import reverse_valid, selective_scan, selective_scan_ref
from tests.helpers.largest_tensor import LargestTensor
from tests.helpers.scans import make_inputs, outputs_and_grads


@torch.no_grad()
def assert_same(got, want, tolerance):
    for name, value in want.items():
        error = float((got[name] - value).abs().max()) if value.numel() else 0.0
        scale = float(value.abs().max()) if value.numel() else 0.0
        assert error <= tolerance * max(scale, 1.0), f"{name} is off by {error}, scale {scale}"


GRID = [
    # B, D, N, L, lengths
    (1, 1, 1, 1, None),
    (2, 3, 4, 7, [7, 5]),
    (3, 130, 2, 33, [33, 1, 0]),
    (2, 16, 16, 64, [64, 32]),
    (2, 257, 3, 65, [65, 31]),
    (1, 40, 5, 100, None),
    (2, 4, 2, 0, None),
]


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("shape", GRID, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_equals_the_reference(backend, shape, dtype):
    *dims, lengths = shape
    lengths = None if lengths is None else torch.tensor(lengths)
    exact = outputs_and_grads(make_inputs(*dims), lengths, "ref")
    x = {k: v.detach().to(dtype).requires_grad_() for k, v in make_inputs(*dims).items()}
    got = outputs_and_grads(x, lengths, backend)
    assert all(value.dtype == dtype for value in got.values())
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    assert_same({k: v.double() for k, v in got.items()}, exact, tolerance)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("whole", [False, True], ids=["lengths", "whole"])
def test_operation_of_a_compiler_equals_the_scan(backend, whole):
    """Shapes, strides and gradients are what it says to the compiler."""
    x = make_inputs(2, 8, 3, 9)
    inputs = [x[name] for name in ("u", "delta", "A", "B", "C", "D")]
    state = None if whole else torch.zeros(2, 8, 3, dtype=inputs[0].dtype).requires_grad_()
    lengths = None if whole else torch.tensor([9, 4])
    rest = (lengths, state, backend, None)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._compiled_scan, (*inputs, *rest), test_utils=tests)
    leaves = [*inputs, *([] if state is None else [state])]
    y, last = module._compiled_scan(*inputs, *rest)
    wanted = selective_scan(
        *inputs, lengths=lengths, initial_state=state, return_last_state=True, backend=backend
    )
    results = []
    for pair in ((y.mT, last), wanted):
        loss = (pair[0].cos().sum() + pair[1].square().sum(),)
        results.append([*pair, *torch.autograd.grad(loss, leaves)])
    for found, want in zip(*results, strict=True):
        assert torch.equal(found, want)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 3), D=st.integers(1, 40), N=st.integers(1, 6), L=st.integers(0, 70),
    seed=st.integers(0, 1000), data=st.data(),
)  # fmt: skip
def test_equals_the_reference_anywhere(B, D, N, L, seed, data):
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, L), min_size=B, max_size=B)))
    x = make_inputs(B, D, N, L, seed=seed)
    exact = outputs_and_grads(x, lengths, "ref")
    assert_same(outputs_and_grads(x, lengths, "numba"), exact, 1e-11)


def test_gradient_of_the_reference():
    x = make_inputs(2, 2, 2, 4)
    lengths = torch.tensor([4, 2])

    def f(u, delta, A, B, C, D, state):
        return selective_scan_ref(u, delta, A, B, C, D, lengths, state)

    assert torch.autograd.gradcheck(f, tuple(x.values()))


@pytest.mark.parametrize("backend", ["ref", "numba", "torch"])
def test_is_the_recurrence(backend):
    # one channel, one state, by hand: h = e^-1 h + 1 * 2 * u
    half = torch.tensor(-1.0).exp().item()
    y = selective_scan(
        torch.tensor([[[1.0, 3.0]]]), torch.ones(1, 1, 2), -torch.ones(1, 1),
        torch.full((1, 1, 2), 2.0), torch.tensor([[[1.0, 10.0]]]), torch.tensor([0.5]),
        backend=backend,
    )  # fmt: skip
    expected = [2.0 + 0.5, 10 * (half * 2 + 6) + 1.5]
    torch.testing.assert_close(y.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_softplus_bias_and_no_skip(backend):
    x = make_inputs(2, 5, 3, 9)
    bias = torch.randn(5, dtype=torch.float64)
    soft = torch.nn.functional.softplus(x["delta"] + bias[:, None])
    arguments = (x["A"], x["B"], x["C"])
    y = selective_scan(
        x["u"], x["delta"], *arguments, delta_bias=bias, delta_softplus=True, backend=backend
    )
    torch.testing.assert_close(y, selective_scan(x["u"], soft, *arguments, backend="ref"))


@pytest.mark.parametrize("backend", ["ref", "numba", "torch"])
@pytest.mark.parametrize("cut", [0, 1, 20, 50])
def test_state_carries_a_stream_on(backend, cut):
    x = make_inputs(2, 6, 3, 50)
    time = {name: x[name] for name in ("u", "delta", "B", "C")}

    def scan(part, state):
        return selective_scan(
            part["u"], part["delta"], x["A"], part["B"], part["C"], x["D"],
            initial_state=state, return_last_state=True, backend=backend,
        )  # fmt: skip

    whole, last = scan(time, None)
    head, state = scan({k: v[..., :cut] for k, v in time.items()}, None)
    tail, state = scan({k: v[..., cut:] for k, v in time.items()}, state)
    torch.testing.assert_close(torch.cat([head, tail], -1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_padding_is_never_read(backend):
    x = make_inputs(2, 20, 3, 40)
    lengths = torch.tensor([40, 17])
    clean = outputs_and_grads(x, lengths, backend)
    with torch.no_grad():
        for name in ("u", "delta", "B", "C"):
            x[name][1, ..., 17:] = torch.nan
    dirty = outputs_and_grads(x, lengths, backend)
    for name, value in clean.items():
        assert torch.equal(dirty[name], value), name
    assert not dirty["y"][1, :, 17:].any()
    assert not dirty["u"][1, :, 17:].any()


def test_half_precision_is_computed_in_float32():
    x = {k: v.detach().bfloat16() for k, v in make_inputs(2, 8, 4, 40).items()}
    arguments = [x[n] for n in "u delta A B C D".split()]
    y = selective_scan(*arguments)
    assert y.dtype == torch.bfloat16
    exact = selective_scan(*(a.float() for a in arguments), backend="ref")
    assert (
        torch.equal(y, exact.bfloat16())
        or (y.float() - exact).abs().max() < 0.01 * exact.abs().max()
    )


def test_backends_that_cannot(monkeypatch):
    x = make_inputs(1, 2, 2, 3)
    arguments = [x[n] for n in "u delta A B C".split()]
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        selective_scan(*arguments, backend="numab")
    with pytest.raises(UserError, match="takes no initial state"):
        selective_scan(*arguments, initial_state=torch.zeros(1, 2, 2), backend="mamba")
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(UserError, match="mamba-ssm"):
        selective_scan(*arguments, backend="mamba")
    monkeypatch.setattr(backends, "available", lambda: False)
    with pytest.raises(UserError, match="scan_backend: torch"):
        selective_scan(*arguments)
    meta = [a.to("meta") for a in arguments]
    with pytest.raises(UserError, match="runs on a CPU"):
        selective_scan(*meta, backend="numba")
    with pytest.raises(UserError, match=r"triton runs on a CUDA GPU[^\n]*, not on cpu") as caught:
        selective_scan(*arguments, backend="triton")
    assert "scan_backend: auto, for a trained model into the encoder_conf" in caught.value.hint


@pytest.mark.parametrize("lengths", [None, [10, 6]])
def test_arguments_handed_to_mamba_ssm(monkeypatch, lengths):
    # the signature and meaning of mamba-ssm 2's selective_scan_fn, computed by the reference
    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                          return_last_state=False):  # fmt: skip
        assert z is None and delta_bias is None and not delta_softplus and return_last_state
        assert all(a.is_contiguous() for a in (u, delta, A, B, C))
        full = torch.full((len(u),), u.shape[2])
        return selective_scan_ref(u, delta, A, B, C, D, full, u.new_zeros(len(u), *A.shape))

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    x = make_inputs(2, 4, 3, 10)
    arguments = [x[n] for n in "u delta A B C D".split()]
    options = {"delta_bias": x["D"], "delta_softplus": True, "return_last_state": True}
    if lengths is not None:
        options["lengths"] = torch.tensor(lengths)
        arguments[0] = arguments[0].detach().clone()
        arguments[0][1, :, 6:] = float("nan")  # padding is never read
    got = selective_scan(*arguments, **options, backend="mamba")
    want = selective_scan(*arguments, **options, backend="ref")
    torch.testing.assert_close(got, want)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_reverse_valid(lengths, extra, seed):
    L = max(lengths) + extra
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), L, 3, generator=g, dtype=torch.float64, requires_grad=True)
    y = reverse_valid(x, torch.tensor(lengths))
    for row, n in enumerate(lengths):
        assert torch.equal(y[row, :n], x[row, :n].flip(0))
        assert torch.equal(y[row, n:], x[row, n:])
    assert torch.equal(reverse_valid(y, torch.tensor(lengths)), x)
    weight = torch.randn(x.shape, generator=g, dtype=x.dtype)
    (grad,) = torch.autograd.grad((y * weight).sum(), x)
    assert torch.equal(grad, reverse_valid(weight, torch.tensor(lengths)))


def test_scan_of_the_reversed_input():
    x = make_inputs(2, 4, 3, 12)
    lengths = torch.tensor([12, 7])
    backward = {n: reverse_valid(x[n].mT, lengths).mT for n in ("u", "delta", "B", "C")}
    y = selective_scan(*(backward.get(n, x[n]) for n in "u delta A B C D".split()), lengths=lengths)
    y = reverse_valid(y.mT, lengths).mT
    alone = [x[n][1:, :, :7].flip(2) if n in backward else x[n] for n in "u delta A B C D".split()]
    expected = selective_scan(*alone, backend="ref").flip(2)
    torch.testing.assert_close(y[1:, :, :7], expected)


def test_a_trace_is_no_constant_and_holds_for_other_lengths():
    def inputs(batch, length):
        x = make_inputs(batch, 3, 2, length, torch.float32)
        return [x[n].detach() for n in "u delta B C".split()], x["A"].detach()

    (u, *rest), A = inputs(1, 10)

    def scan(u, delta, B, C, lengths):
        return module.selective_scan(u, delta, A, B, C, lengths=lengths, return_last_state=True)

    traced = torch.jit.trace(scan, (u, *rest, torch.tensor([10])), check_trace=False)
    for batch, length in ((1, 10), (2, 31), (3, 1)):
        x, _ = inputs(batch, length)
        lengths = torch.tensor([length, min(length, 4), 0])[:batch]
        for got, expected in zip(traced(*x, lengths), scan(*x, lengths), strict=True):
            torch.testing.assert_close(got, expected)


def test_last_state_of_plain_torch_keeps_no_other_states_alive():
    x = make_inputs(1, 4, 8, 40)
    x["initial_state"] = x.pop("state")
    _, state = selective_scan(**x, return_last_state=True, backend="torch")
    assert state.untyped_storage().nbytes() == state.nbytes


@pytest.mark.parametrize("memory", [1e-6, 0.04, 1.0])
def test_the_memory_of_torch_is_bounded(memory):
    """Fewer frames at once: the tensors that a backward pass keeps fit, or there is one frame."""
    x = make_inputs(1, 4, 64, 70)
    plain = outputs_and_grads(x, None, "torch")
    frames = module.torch_chunk(x["u"], 64, memory)
    assert frames == {1e-6: 1, 0.04: 2, 1.0: 16}[memory]
    patched = module.torch_chunk
    with pytest.MonkeyPatch.context() as patch, LargestTensor() as seen:
        patch.setattr(module, "torch_chunk", lambda u, states, none: patched(u, states, memory))
        bounded = outputs_and_grads(x, None, "torch")
    assert_same(bounded, plain, 1e-11)
    # inputs are smaller than the states of 32 frames
    assert seen.elements <= max(64 * 70, frames * 4 * 64) < 32 * 4 * 64


def test_a_bound_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="scan_memory: 0 MiB is not positive"):
        module.torch_chunk(torch.ones(1, 1, 1), 1, 0)
