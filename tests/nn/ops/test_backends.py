"""The one place that chooses between compiled kernels and torch."""

import ast
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

import espnet_spike
from espnet_spike.nn.ops import backends

NN = Path(espnet_spike.__file__).parent / "nn"
MODULES = sorted(
    ".".join(("espnet_spike", *path.relative_to(NN.parent).with_suffix("").parts))
    for path in NN.rglob("*.py")
    if path.name != "numba_jit.py" and not path.name.endswith("_numba.py")
)
OPERATIONS = typing.get_args(backends.Operation)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_where_they_can_run(operation):
    for dtype in (torch.float32, torch.float64):
        found = backends.compiled(torch.ones(2, dtype=dtype), operation)
        assert found.__name__ == f"espnet_spike.nn.ops.{operation}_numba"


def test_every_kernel_file_is_an_operation():
    assert {f"{name}_numba" for name in OPERATIONS} == {f.stem for f in NN.rglob("*_numba.py")}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_torch_where_they_cannot(operation, monkeypatch):
    x = torch.ones(2)
    assert backends.compiled(x.half(), operation) is None
    assert backends.compiled(x.bfloat16(), operation) is None
    assert backends.compiled(x.to("meta"), operation) is None
    found = []

    def traced(x):
        found.append(backends.compiled(x, operation))
        return 2 * x

    torch.jit.trace(traced, x, check_trace=False)
    assert found == [None]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert backends.compiled(x, operation) is None
    monkeypatch.undo()
    monkeypatch.setattr(backends, "available", lambda: False)
    assert backends.compiled(x, operation) is None


def test_no_module_of_networks_imports_numba():
    code = f"import sys, {', '.join(MODULES)}; sys.exit('numba' in sys.modules)"
    assert len(MODULES) > 30
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_are_imported_by_the_choice_alone():
    wrong = []
    for path in NN.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")}
            names |= {getattr(node, "module", None) or ""}
            last = {name.rpartition(".")[2] for name in names}
            kernels = {name for name in last if name.endswith("_numba")}
            compiler = any(name.split(".")[0] == "numba" for name in names)
            compiler |= "numba_jit" in last
            is_kernel = path.name == "numba_jit.py" or path.name.endswith("_numba.py")
            if (kernels and path.name != "backends.py") or (compiler and not is_kernel):
                wrong.append(f"{path.relative_to(NN)}, line {node.lineno}")
    assert not wrong


def test_triton_takes_nothing_on_a_cpu():
    assert backends.fused(torch.ones(2, 2, 2), "fatrelu") is None


@pytest.mark.parametrize("fault", ["no Triton", "old GPU"])
def test_a_gpu_without_triton_runs_in_torch_and_says_so_once(fault, monkeypatch, caplog):
    old = (7, 0) if fault == "old GPU" else (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: old)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    if fault == "no Triton":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(backends, "on_gpu", lambda x: True)
    backends.fusing.cache_clear()
    try:
        assert [backends.fused(torch.ones(2, 2, 2), "lif") for _ in range(2)] == [None, None]
    finally:
        backends.fusing.cache_clear()
    (line,) = caplog.messages
    assert "run in plain torch" in line
    assert ("Triton is not installed" if fault == "no Triton" else "Tesla V100") in line
