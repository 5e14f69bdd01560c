"""Triton's interpreter: kernels run on a CPU, in a process that knows of it from its start.

A test decorated by ``interpreted`` runs in that process, one for all tests of a worker. There
tensors of the CPU count as those of a GPU, so that the functions of ``nn.ops`` take the kernels.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch

from espnet_spike.nn.ops import backends

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
FULL = os.environ.get("KERNEL_TESTS") == "full"


def grid(few: list, more: list) -> list:
    """Return the cases of the suite, and with ``KERNEL_TESTS=full`` all of them."""
    return few + more if FULL else few


@functools.cache
def _process() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.interpreter"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        text=True,
    )


def interpreted(test: Callable) -> Callable:
    """Let a test run in the interpreter's process; its arguments have to be plain values."""
    if INSIDE:
        return test

    @functools.wraps(test)
    def run(**arguments):
        if arguments.get("device") == "cuda":
            test(**arguments)
            return
        process = _process()
        call = {"module": test.__module__, "name": test.__name__, "arguments": arguments}
        process.stdin.write(json.dumps(call) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the interpreter's process has died"
        if trace := json.loads(answer):
            pytest.fail(trace, pytrace=False)

    # one process for all in the suite; the whole grid is divided among the workers
    return run if FULL else pytest.mark.xdist_group("interpreter")(run)


def on_each_device(test: Callable) -> Callable:
    """Run a test with ``device`` as "cpu", by the interpreter, and as "cuda" where there is one."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    devices = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, missing])]
    return pytest.mark.parametrize("device", devices)(interpreted(test))


@contextmanager
def kernels_on(wanted: bool):
    """Let operations on a CPU take the kernels, or not; with them, at least one has to be taken."""
    choice, found = backends.fused, []

    def fused(x, operation):
        kernels = choice(x, operation) if wanted else None
        found.append(kernels)
        return kernels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "fused", fused)
        if INSIDE:
            patch.setattr(backends, "on_gpu", lambda x: wanted)
            patch.setattr(backends, "fusing", lambda device: wanted)
        if not wanted:
            patch.setattr(backends, "compiled", lambda x, operation: None)
        yield
    assert not wanted or any(found), "no kernel was run"


def randn(*shape, seed=0, dtype=torch.float32, device="cpu"):
    """Random numbers, the same in every type and on every device."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).to(device)


# largest share of an output's largest value by which a kernel may be away from float64
TOLERANCE = {"float32": 2e-5, "bfloat16": 1.6e-2, "float16": 2e-3}


def compare(function: Callable, inputs: dict, dtype: str, device: str, singles=()):
    """Compare a function with kernels and in torch on float64: outputs and gradients.

    Args:
        function: takes ``inputs`` by name, returns tensors, those without gradient among them.
        inputs: tensors, of which floating ones get a gradient, and anything else.
        dtype: of the kernels' inputs, which the reference sees rounded alike.
        device: of the kernels.
        singles: names of inputs that are float32 at least.

    Returns:
        the largest deviation over the tolerance, by name.
    """
    kind = getattr(torch, dtype)

    def leaves(exact, where):
        made = {}
        for name, x in inputs.items():
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                x = x.to(torch.float32 if name in singles else kind)
                x = x.to(where, torch.float64 if exact else x.dtype).detach().clone()
                x.requires_grad_()
            elif isinstance(x, torch.Tensor):
                x = x.to(where)
            made[name] = x
        return made

    def run(made):
        outputs = function(**made)
        smooth = [y for y in outputs if y.requires_grad]
        # weights that half precision holds: both see the same gradients of outputs
        loss = sum(
            (y.double() * randn(*y.shape, seed=7 + n, dtype=kind).to(y.device).double()).sum()
            for n, y in enumerate(smooth)
        )
        names = [n for n, x in made.items() if isinstance(x, torch.Tensor) and x.requires_grad]
        grads = torch.autograd.grad(loss, [made[n] for n in names], materialize_grads=True)
        found = {f"output {n}": y.detach() for n, y in enumerate(outputs)}
        return found | {f"gradient of {n}": g for n, g in zip(names, grads, strict=True)}

    with kernels_on(True):
        kernels = run(leaves(False, device))
    with kernels_on(False):
        wanted = run(leaves(True, "cpu"))
    deviations = {}
    for name, want in wanted.items():
        got = kernels[name].double().cpu()
        assert got.shape == want.shape, name
        assert torch.equal(got.isnan(), want.isnan()), name
        largest = float(want.nan_to_num().abs().max()) if want.numel() else 0.0
        away = float((got - want).nan_to_num().abs().max()) if want.numel() else 0.0
        deviations[name] = away / (max(largest, 1e-3) * TOLERANCE[dtype])
    assert max(deviations.values()) <= 1, deviations
    return deviations


def _serve():
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tests print is no answer
    for line in sys.stdin:
        call, trace = json.loads(line), ""
        try:
            getattr(importlib.import_module(call["module"]), call["name"])(**call["arguments"])
        except BaseException:
            trace = traceback.format_exc()
        print(json.dumps(trace), file=out, flush=True)


if __name__ == "__main__":
    _serve()
