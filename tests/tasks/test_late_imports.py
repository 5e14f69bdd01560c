"""What ESPnet does late is what it would have done at once."""

import gc
import importlib
import inspect
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch
import typeguard

from espnet_spike.tasks import late_imports as module
from espnet_spike.tasks.late_imports import checked_on_call, late_imports, not_compiled

# prints what is defined in every module of ESPnet, and which of some other modules are loaded
INVENTORY = """
import importlib, inspect, json, re, sys
if sys.argv[1] == "late":
    from espnet_spike.tasks.espnet import asr_inference
else:
    import espnet2.bin.asr_inference
heavy = "torch._dynamo sympy numba scipy.stats espnet2.gan_tts.jets".split()
loaded = [name for name in heavy if name in sys.modules]
loaded += [n for n in ("scipy.signal", "hydra") if type(sys.modules[n]).__name__ == "module"]

def plain(text):
    return re.sub("0x[0-9a-f]+", "", str(text))

found = {}
def add(key, value, where):
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    if inspect.isfunction(function) and function.__module__ == where:
        facts = function.__name__, function.__qualname__, function.__doc__
        abstract = getattr(function, "__isabstractmethod__", False)
        kind = type(value).__name__
        found[key] = [*facts, abstract, kind, plain(inspect.signature(function))]

for where, module in list(sys.modules.items()):
    if where.split(".")[0] == "espnet2":
        for name, value in list(vars(module).items()):
            add(f"{where}.{name}", value, where)
            if inspect.isclass(value) and value.__module__ == where:
                found[f"{where}.{name}"] = sorted(getattr(value, "__abstractmethods__", ()))
                for key, member in vars(value).items():
                    add(f"{where}.{name}.{key}", member, where)
print(json.dumps([loaded, found]))
"""


def test_espnet_is_the_same():
    runs = [
        subprocess.Popen([sys.executable, "-c", INVENTORY, how], stdout=subprocess.PIPE, text=True)
        for how in ("late", "at once")
    ]
    outputs = [json.loads(run.communicate(timeout=300)[0]) for run in runs]
    (late, found), (at_once, expected) = outputs
    assert late == []
    assert len(at_once) == 7  # else there is nothing to put off any more
    assert len(found) > 1500
    assert found == {name: expected[name] for name in found}


def test_everything_is_as_it_was_afterwards():
    before = (torch.compiler.disable, typeguard.typechecked, sys.stderr, list(sys.meta_path))
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), late_imports():
        assert torch.compiler.disable is not_compiled and not gc.isenabled()
        raise ZeroDivisionError
    assert (torch.compiler.disable, typeguard.typechecked, sys.stderr, sys.meta_path) == before
    assert gc.isenabled()


def test_only_the_note_on_flash_attention_is_dropped(capsys):
    with late_imports():
        print("Failed to import Flash Attention, using ESPnet default", file=sys.stderr)
        print("disk full", file=sys.stderr)
    assert capsys.readouterr().err == "disk full\n"


def double(number: int) -> int:
    """Double it."""
    return 2 * number


class Doubler:
    @checked_on_call
    def method(self, number: int) -> int:
        return 2 * number

    @classmethod
    @checked_on_call
    def of_class(cls, number: int) -> int:
        return 2 * number

    @checked_on_call
    @staticmethod
    def static(number: int) -> int:
        return 2 * number


@pytest.mark.parametrize(
    "function",
    [checked_on_call(double), Doubler().method, Doubler.of_class, Doubler.static],
)
def test_arguments_are_checked_from_the_first_call_on(function):
    for _ in range(2):
        with pytest.raises(typeguard.TypeCheckError, match="is not an instance of int"):
            function("2")
        assert function(2) == 4


def test_a_checked_function_looks_like_the_checked_one():
    late, at_once = checked_on_call(double), typeguard.typechecked(double)
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(late, attribute) == getattr(at_once, attribute)
    assert checked_on_call(forward_ref_policy=None) is not checked_on_call  # options alone


def test_a_function_in_a_function_is_checked_too():
    factor = 2

    @checked_on_call
    def times(number: int) -> int:
        return factor * number

    with pytest.raises(typeguard.TypeCheckError, match="is not an instance of int"):
        times("2")
    assert times(2) == 4


def test_a_function_is_kept_from_a_compiler_that_comes_later():
    counts = []
    for mark in (torch.compiler.disable, not_compiled):
        torch._dynamo.reset()
        inner = mark(lambda x: torch.sum(x))

        def outer(x, inner=inner):
            return inner(x + 1) * 2

        explained = torch._dynamo.explain(outer)(torch.ones(3))
        counts.append((explained.graph_count, explained.graph_break_count))
        compiled = torch.compile(outer, backend="eager")
        assert compiled(torch.ones(3)) == 12
    assert counts[0] == counts[1]


def test_a_function_is_marked_by_a_call_with_options():
    @not_compiled(recursive=True, reason="it counts")
    def count(x):
        return len(x)

    assert count([1, 2]) == 2 and count.__name__ == "count"


def test_a_module_imported_for_a_function_is_loaded_when_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text("def answer(x, *, y=1):\n    return x * y\n")
    monkeypatch.syspath_prepend(tmp_path)
    with module._with_functions({"slow_module": "answer"}):
        from slow_module import answer
    assert "slow_module" not in sys.modules
    assert answer(6, y=7) == 42
    real = sys.modules["slow_module"]
    with module._with_functions({"slow_module": "answer"}):  # loaded by now, so left alone
        assert importlib.import_module("slow_module") is real
    monkeypatch.delitem(sys.modules, "slow_module")


@pytest.fixture
def late_package(tmp_path, monkeypatch):
    """A package that is imported late, and fails once it is made to."""
    (tmp_path / "late_pkg" / "part").mkdir(parents=True)
    source = "import pathlib, time\ntime.sleep(0.05)\n"
    source += "if pathlib.Path(__file__).with_name('bad').exists():\n"
    source += "    raise ImportError('bad')\nanswer = 42\n"
    (tmp_path / "late_pkg" / "__init__.py").write_text(source)
    (tmp_path / "late_pkg" / "part" / "__init__.py").write_text("from late_pkg import answer\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "MODULES", ("late_pkg",))
    with module._with_finder(module._LateModules):
        yield importlib.import_module("late_pkg"), tmp_path / "late_pkg" / "bad"
    for name in ("late_pkg", "late_pkg.part"):
        sys.modules.pop(name, None)


def loaded(package):
    return "answer" in vars(package)


def test_a_late_module_is_loaded_when_something_is_looked_up_in_it(late_package):
    package, _ = late_package
    again = importlib.import_module("late_pkg")
    assert again is package and package.__file__ and hasattr(package, "__spec__")
    inspect.getmodule(inspect.currentframe())  # looks at all modules
    assert not loaded(package)
    assert package.answer == 42
    assert type(package) is ModuleType and package.__spec__.loader is package.__loader__
    with pytest.raises(AttributeError, match="has no attribute 'question'"):
        _ = package.question


def test_a_late_package_is_loaded_before_its_parts(late_package):
    package, _ = late_package
    assert importlib.import_module("late_pkg.part").answer == 42
    assert loaded(package)


def test_a_late_module_that_cannot_be_loaded_says_so_each_time(late_package):
    package, bad = late_package
    bad.touch()
    for _ in range(2):
        with pytest.raises(ImportError, match="bad"):
            _ = package.answer
    bad.unlink()
    assert package.answer == 42


def test_threads_wait_for_a_late_module(late_package):
    package, _ = late_package
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda _: package.answer, range(4))] == [42] * 4
