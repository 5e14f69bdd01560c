"""The selective scan: every backend against the loop over frames, forward and backward."""

import multiprocessing
import sys
import threading
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.nn.ops import backends, selective_scan_cpu
from espnet_spike.nn.ops import selective_scan as module
from espnet_spike.nn.ops.selective_scan import reverse_valid, selective_scan, selective_scan_ref

NAMES = ("u", "delta", "A", "B", "C", "D", "state")


def make_inputs(B, D, N, L, dtype=torch.float64, seed=0):
    """Random inputs in the shapes of ``selective_scan_ref``, all leaves of autograd."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    x = {
        "u": randn(B, D, L),
        "delta": (randn(B, D, L) - 2).exp(),
        "A": -(randn(D, N).exp()) * N**0.5,
        "B": randn(B, N, L),
        "C": randn(B, N, L),
        "D": randn(D),
        "state": randn(B, D, N),
    }
    return {name: value.requires_grad_() for name, value in x.items()}


def outputs_and_grads(x, lengths, backend, seed=1):
    """Return y, the last state and the gradient of a random functional of both."""
    y, state = selective_scan(
        x["u"], x["delta"], x["A"], x["B"], x["C"], x["D"],
        lengths=lengths, initial_state=x["state"], return_last_state=True, backend=backend,
    )  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(o.shape, generator=g, dtype=torch.float64) for o in (y, state)]
    loss = sum((w.to(o.dtype) * o).sum() for w, o in zip(weights, (y, state), strict=True))
    grads = torch.autograd.grad(loss, [x[name] for name in NAMES], materialize_grads=True)
    return dict(zip(("y", "last_state", *NAMES), (y, state, *grads), strict=True))


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


def test_gradient_of_the_compiled_scan():
    x = make_inputs(2, 3, 2, 5)

    def f(u, delta, A, B, C, D, state):
        return selective_scan(
            u, delta, A, B, C, D, delta_bias=D, delta_softplus=True,
            lengths=torch.tensor([5, 3]), initial_state=state, return_last_state=True,
            backend="numba",
        )  # fmt: skip

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


def test_bit_equal_for_any_number_of_threads():
    x = make_inputs(4, 200, 16, 70, torch.float32)
    lengths = torch.tensor([70, 64, 3, 0])
    assert x["u"].numel() * 16 > backends.SMALL
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(outputs_and_grads(x, lengths, "numba"))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(result[name], value), name


def test_an_utterance_does_not_depend_on_its_batch():
    x = make_inputs(3, 150, 4, 50, torch.float32)
    lengths = torch.tensor([50, 20, 35])
    batch = outputs_and_grads(x, lengths, "numba")
    with torch.no_grad():
        x["u"][0, 0, 0] = torch.nan  # one broken utterance stays the only one
    broken = outputs_and_grads(x, lengths, "numba")
    assert broken["y"][0].isnan().any()
    assert torch.equal(broken["y"][1:], batch["y"][1:])
    part = {k: (v if k in "AD" else v[1:2, ..., : v.shape[-1] if k == "state" else 20])
            for k, v in x.items()}  # fmt: skip
    alone = selective_scan(*(part[n] for n in "u delta A B C D".split()),
                           initial_state=part["state"], backend="numba")  # fmt: skip
    assert torch.equal(alone, batch["y"][1:2, :, :20])


def test_exponential_over_its_whole_range():
    # y after one step from state 1 with u = 0 is exp(delta A)
    exponents = torch.cat([torch.linspace(-110, 87, 4001), torch.tensor([0.0, -0.0, -1e30, 200])])
    ones = torch.ones(len(exponents), 1)
    y = selective_scan(
        torch.zeros(1, len(exponents), 1), ones[None], exponents[:, None],
        torch.ones(1, 1, 1), torch.ones(1, 1, 1), initial_state=ones[None], backend="numba",
    ).flatten()  # fmt: skip
    expected = exponents.double().exp()
    normal = (exponents > -87) & (exponents < 88)
    relative = (y.double() / expected - 1)[normal].abs().max()
    assert relative < 3e-7
    assert (y[exponents <= -87].abs() < 2e-38).all()
    assert y[exponents == 0].eq(1).all()
    assert y[-1].isinf()


def test_two_callers_at_once():
    x = make_inputs(4, 200, 16, 70, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = []
    try:
        expected = outputs_and_grads(x, None, "numba")
        callers = [
            threading.Thread(target=lambda: found.append(outputs_and_grads(x, None, "numba")))
            for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert len(found) == 3
    assert all(
        torch.equal(f["A"], expected["A"]) and torch.equal(f["y"], expected["y"]) for f in found
    )


def _scan_in_threads(arrays):
    # of torch only what needs no threads of its own: those do not survive a fork
    backends.SMALL = 0
    torch.set_num_threads(2)
    x = {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}
    y = selective_scan(*(x[n] for n in "u delta A B C D".split()), backend="numba")
    y.backward(torch.ones(y.shape, dtype=y.dtype))
    return y.detach().numpy(), x["A"].grad.numpy()


def _scan_in_a_child(queue, arrays):
    queue.put(_scan_in_threads(arrays))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_child_process(method, monkeypatch):
    monkeypatch.setattr(backends, "SMALL", 0)
    arrays = {k: v.detach().numpy() for k, v in make_inputs(2, 40, 4, 20, torch.float32).items()}
    before = torch.get_num_threads()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    try:
        expected = _scan_in_threads(arrays)  # the parent has used its pool before the fork
        child = context.Process(target=_scan_in_a_child, args=(queue, arrays))
        child.start()
    finally:
        torch.set_num_threads(before)
    try:
        found = queue.get(timeout=60)
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert all((f == e).all() for f, e in zip(found, expected, strict=True))


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


def test_no_state_is_kept_without_a_gradient(monkeypatch):
    seen = []
    run = selective_scan_cpu._run
    monkeypatch.setattr(selective_scan_cpu, "_run", lambda *a: (seen.append(a[1][-1]), run(*a)))
    x = make_inputs(1, 4, 2, 100)
    with torch.no_grad():
        selective_scan(*(x[n] for n in "u delta A B C".split()), backend="numba")
    selective_scan(*(x[n] for n in "u delta A B C".split()), backend="numba")
    assert [states.shape[1] for states in seen] == [2, 5]


def test_backends_that_cannot(monkeypatch):
    x = make_inputs(1, 2, 2, 3)
    arguments = [x[n] for n in "u delta A B C".split()]
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        selective_scan(*arguments, backend="numab")
    with pytest.raises(ValueError, match="takes no lengths"):
        selective_scan(*arguments, lengths=torch.tensor([2]), backend="mamba")
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(UserError, match="mamba-ssm"):
        selective_scan(*arguments, backend="mamba")
    monkeypatch.setattr(backends, "available", lambda: False)
    with pytest.raises(UserError, match="scan_backend: torch"):
        selective_scan(*arguments)
    meta = [a.to("meta") for a in arguments]
    with pytest.raises(ValueError, match="runs on a CPU"):
        selective_scan(*meta, backend="numba")


def test_arguments_handed_to_mamba_ssm(monkeypatch):
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
