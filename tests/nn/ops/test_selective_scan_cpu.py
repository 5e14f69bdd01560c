import multiprocessing
import threading

import pytest
import torch

from espnet_spike.nn.ops import backends, selective_scan_cpu
from espnet_spike.nn.ops.selective_scan import selective_scan
from tests.helpers.scans import make_inputs, outputs_and_grads


def test_gradient_of_the_compiled_scan():
    x = make_inputs(2, 3, 2, 5)

    def f(u, delta, A, B, C, D, state):
        return selective_scan(
            u, delta, A, B, C, D, delta_bias=D, delta_softplus=True,
            lengths=torch.tensor([5, 3]), initial_state=state, return_last_state=True,
            backend="numba",
        )  # fmt: skip

    assert torch.autograd.gradcheck(f, tuple(x.values()))


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


def test_no_state_is_kept_without_a_gradient(monkeypatch):
    seen = []
    run = selective_scan_cpu._run
    monkeypatch.setattr(selective_scan_cpu, "_run", lambda *a: (seen.append(a[1][-1]), run(*a)))
    x = make_inputs(1, 4, 2, 100)
    with torch.no_grad():
        selective_scan(*(x[n] for n in "u delta A B C".split()), backend="numba")
    selective_scan(*(x[n] for n in "u delta A B C".split()), backend="numba")
    assert [states.shape[1] for states in seen] == [2, 5]
