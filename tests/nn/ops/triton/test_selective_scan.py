"""The kernels of the selective scan against the loop over frames, in float64."""

import pytest
import torch

from espnet_spike.errors import UserError
from espnet_spike.nn.ops.selective_scan import reverse_valid, scan_both, selective_scan
from espnet_spike.nn.ops.triton import selective_scan as kernels
from tests.helpers.interpreter import compare, grid, interpreted, kernels_on, on_each_device, randn
from tests.helpers.scans import make_inputs

SIZES = kernels.CHUNK, kernels.SPLIT  # before tests make them small
# sizes B, D, N, L and valid frames; a chunk has 8 frames here, a split 4 channels
CASES = grid(
    [(3, 5, 2, 9, (9, 0, 5))],
    [
        (3, 6, 3, 19, (19, 0, 13)),
        (1, 1, 1, 1, (1,)),
        (2, 4, 2, 8, (8, 1)),
        (2, 9, 5, 7, (7, 4)),
        (2, 5, 17, 16, (9, 16)),
        (2, 3, 256, 9, (9, 8)),
        (1, 33, 2, 40, (39,)),
    ],
)


@pytest.fixture(autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        yield


def small(patch):
    for name, value in {"CHUNK": 8, "SPLIT": 4, "TILE": 16, "HALF_TILE": 16, "STATES": 16}.items():
        patch.setattr(kernels, name, value)


def scan(backend="auto"):
    def run(u, delta, A, B, C, D, state, lengths):
        found = selective_scan(
            *(u, delta, A, B, C, D), lengths=lengths, initial_state=state, return_last_state=True,
            backend=backend,
        )  # fmt: skip
        return found

    return run


def inputs_of(B, D, N, L, lengths):
    return {k: v.detach() for k, v in make_inputs(B, D, N, L).items()} | {
        "lengths": torch.tensor(lengths)
    }


@on_each_device
@pytest.mark.parametrize("dtype", grid(["float32"], ["bfloat16", "float16"]))
@pytest.mark.parametrize("case", CASES)
def test_values_states_and_gradients(case, dtype, device):
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            small(patch)
        compare(scan(), inputs_of(*case), dtype, device, singles=["A", "D", "state"])


@on_each_device
def test_from_zero_in_half_precision_and_time_major(device):
    inputs = inputs_of(2, 5, 2, 11, (11, 6))
    inputs = {k: v.mT.contiguous().mT if v.dim() == 3 else v for k, v in inputs.items()}
    del inputs["state"]

    def run(**made):
        return scan()(**made, state=None)

    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            small(patch)
        compare(run, inputs, "bfloat16", device, singles=["A", "D"])


@interpreted
def test_two_runs_are_equal_to_the_bit_and_padding_has_no_say():
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        results = []
        for filling in (0.0, float("nan")):
            x = inputs_of(2, 5, 2, 11, (11, 3))
            for name in ("u", "delta", "B", "C"):
                x[name][1, :, 3:] = filling
            x = {k: v.float().requires_grad_() if k != "lengths" else v for k, v in x.items()}
            with kernels_on(True):
                y, state = scan()(**x)
            leaves = [x[name] for name in ("u", "delta", "A", "B", "C", "D", "state")]
            grads = torch.autograd.grad(y.square().sum() + state.sum(), leaves)
            results.append((y, state, *grads))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@interpreted
def test_what_is_kept_for_the_backward_pass():
    B, D, N, L = 1, 8, 2, 40
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        x = {k: v.float() for k, v in inputs_of(B, D, N, L, (L,)).items() if k != "lengths"}
        lengths = torch.tensor([L])
        state = x.pop("state")[None]
        for keep, chunks in ((False, 0), (True, L // 8 - 1)):
            _, last, states = kernels.forward([kernels.Direction(**x)], lengths, state, keep)
            assert states.shape == (1, B, chunks, D, N) and last.shape == (1, B, D, N)


def in_two_launches(forwards, backwards, lengths, backend="auto"):
    y, turned = (
        selective_scan(*x, lengths=lengths, backend=backend) for x in (forwards, backwards)
    )
    return y, reverse_valid(turned.mT, lengths).mT


@interpreted
@pytest.mark.parametrize("lengths", grid([[9, 0, 5]], [[9, 1, 8], [1, 1, 1], [3, 9, 7], None]))
@pytest.mark.parametrize("dtype", grid(["float32"], ["bfloat16"]))
def test_both_directions_in_one_launch_are_two_to_the_bit(lengths, dtype):
    B, D, N, L = 3, 3, 2, 9
    directions = []
    for seed in (0, 1):
        x = make_inputs(B, D, N, L, seed=seed)
        names = ("u", "delta", "A", "B", "C", "D")
        x = {n: x[n].float() if n in "AD" else x[n].to(getattr(torch, dtype)) for n in names}
        if seed:  # stored time-major, the first direction's is not
            x["B"] = x["B"].mT.contiguous().mT
        directions.append([x[n].detach().requires_grad_() for n in names])
    lengths = None if lengths is None else torch.tensor(lengths)
    results, launches = [], []
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        forward = kernels.forward
        patch.setattr(
            kernels, "forward", lambda x, *rest: launches.append(len(x)) or forward(x, *rest)
        )
        for run in (scan_both, in_two_launches):
            with kernels_on(True):
                ys = run(*directions, lengths)
            loss = sum((y.float() * randn(*y.shape, seed=n)).sum() for n, y in enumerate(ys))
            results.append((*ys, *torch.autograd.grad(loss, [x for d in directions for x in d])))
    assert launches == [2, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(x.isfinite().all() for x in results[0]) and results[0][1].any()


def test_both_directions_on_a_cpu_are_two_scans():
    forwards, backwards = (
        [make_inputs(2, 3, 2, 5, seed=n)[name] for name in ("u", "delta", "A", "B", "C", "D")]
        for n in (0, 1)
    )
    lengths = torch.tensor([5, 2])
    found = scan_both(forwards, backwards, lengths, "torch")
    wanted = in_two_launches(forwards, backwards, lengths, "torch")
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("length", [400, 1500])
def test_memory_is_at_most_a_64th_of_all_states(length):
    """By the sizes of its allocations, those of the module as it is, not of the small one."""
    chunk, split = SIZES
    B, D, N = 32, 1024, 16
    chunks, splits = -(-length // chunk), -(-D // split)
    floats = B * D * N * (2 * chunks - 1) + 2 * splits * B * N * length
    assert floats <= B * D * N * length / 64


def test_a_cpu_is_refused():
    x = inputs_of(1, 2, 2, 3, (3,))
    with pytest.raises(UserError, match="triton runs on a CUDA GPU in half or single precision"):
        scan("triton")(**x)
