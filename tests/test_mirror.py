"""Tests mirror the package: ``tests/<package>/test_<module>.py`` for every module, and back.

A test file must name the module it mirrors in its code and hold a test. Commands are tested as
rows, compiled kernels by the tests of their reference, so these need no file of their own.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
NO_MIRROR = {  # folders whose tests mirror no module
    "benchmarks": "mirrors the folder of that name beside the package",
    "helpers": "code that tests share",
    "integration": "recipes and commands from end to end",
    "mutants": "mistakes that tests have to find",
    "plugins": "packages of other people",
    "robustness": "the campaign of faults and mutations",
}
OTHERS = {  # test files that mirror no module, and why
    "test_docs.py": "commands, options and links of the pages",
    "test_figures.py": "figures of the pages, held to the tables",
    "test_layers.py": "the layering rule of the whole package",
    "test_loaders.py": "who reads what comes from outside, in the whole package",
    "test_mirror.py": "this rule",
    "test_public_api.py": "the names that the package offers from its modules",
    "bin/test_commands.py": "all commands as rows",
    "bin/test_imports.py": "what each command imports",
}


def _needs_file(module: str) -> bool:
    """Return whether a module ("nn/ops/imls") needs a test file of its own."""
    is_aside = module in ("task", "__main__") or module.startswith("bin/")
    return not is_aside and not module.endswith(("__init__", "_numba"))


def _names_module(tree: ast.Module, package: str, module: str) -> bool:
    """Return whether code or a string names the module; docstrings and comments do not count."""
    dotted = f"{package}.{module.replace('/', '.')}".removesuffix(".__init__")
    parent, _, name = dotted.rpartition(".")
    whole = re.compile(rf"(?<![\w.]){re.escape(dotted)}(?!\w)")
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == dotted or node.module.startswith(f"{dotted}."):
                return True
            if node.module == parent and name in {alias.name for alias in node.names}:
                return True
        elif isinstance(node, ast.Import):
            if any(whole.match(alias.name) for alias in node.names):
                return True
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in texts and whole.search(node.value):
                return True
    return False


def _holds_a_test(tree: ast.Module) -> bool:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(n, functions) and n.name.startswith("test") for n in ast.walk(tree))


def check(root: Path, tests: Path, others: dict[str, str], no_mirror: dict[str, str]) -> list[str]:
    """Return what breaks the rule for the package in ``root`` and the tests in ``tests``."""
    wrong = []
    modules = {p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.py")}
    mirrors = {}
    for module in sorted(modules):
        folder, _, name = module.rpartition("/")
        # test_main.py is that of __main__, test_init.py that of __init__
        file = f"{folder}/test_{name.strip('_') if name.startswith('__') else name}.py".lstrip("/")
        mirrors[file] = module
        if _needs_file(module) and not (tests / file).is_file():
            wrong.append(f"{root.name}/{module}.py: has no tests in {tests.name}/{file}")
    for path in sorted(tests.rglob("test_*.py")):
        file = path.relative_to(tests).as_posix()
        where = f"{tests.name}/{file}"
        if file.split("/")[0] in no_mirror and "/" in file:
            continue
        if not (path.parent / "__init__.py").is_file():
            wrong.append(f"{where}: its folder lacks an __init__.py, so names may collide")
        if file in others:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        if file not in mirrors:
            wrong.append(
                f"{where}: there is no such module: name it after the module it tests, move it to "
                f"{tests.name}/integration, or give a reason in {tests.name}/test_mirror.py: OTHERS"
            )
        elif not _names_module(tree, root.name, mirrors[file]):
            wrong.append(f"{where}: does not use the module it mirrors, {mirrors[file]}.py")
        elif not _holds_a_test(tree):
            wrong.append(f"{where}: holds no test")
    for file in sorted(others):
        if not (tests / file).is_file():
            wrong.append(f"{tests.name}/{file}: listed in OTHERS, but does not exist")
        elif file in mirrors:
            wrong.append(f"{tests.name}/{file}: listed in OTHERS, but mirrors {mirrors[file]}.py")
    for folder in sorted(no_mirror):
        if (root / folder).is_dir():
            wrong.append(f"{tests.name}/{folder}: a package of this name exists: mirror it")
    return wrong


@cache
def _wrong() -> list[str]:
    return check(TESTS.parent / "espnet_spike", TESTS, OTHERS, NO_MIRROR)


def test_the_tests_mirror_the_package():
    assert not _wrong(), "\n" + "\n".join(_wrong())


# The rule itself, on planted trees: a control that keeps it, and one violation of each kind.

CONTROL = {
    "espnet_spike/__init__.py": "",
    "espnet_spike/__main__.py": "",
    "espnet_spike/task.py": "",
    "espnet_spike/errors.py": "",
    "espnet_spike/bin/__init__.py": "",
    "espnet_spike/bin/decode.py": "",
    "espnet_spike/bin/count.py": "",
    "espnet_spike/nn/__init__.py": "",
    "espnet_spike/nn/norms.py": "",
    "espnet_spike/nn/ops/__init__.py": "",
    "espnet_spike/nn/ops/imls.py": "",
    "espnet_spike/nn/ops/imls_numba.py": "",
    "tests/__init__.py": "",
    "tests/test_layers.py": "",
    "tests/test_main.py": "COMMAND = ['-m', 'espnet_spike.__main__']\ndef test_a(): pass\n",
    "tests/test_init.py": "import espnet_spike\ndef test_a(): pass\n",
    "tests/test_errors.py": "from espnet_spike import errors\ndef test_a(): pass\n",
    "tests/conftest.py": "",
    "tests/bin/__init__.py": "",
    "tests/bin/test_decode.py": "run('espnet_spike.bin.decode')\ndef test_a(): pass\n",
    "tests/nn/__init__.py": "",
    "tests/nn/calls.py": "",
    "tests/nn/test_norms.py": "import espnet_spike.nn.norms as n\nclass A:\n  def test_a(s): pass",
    "tests/nn/ops/__init__.py": "",
    "tests/nn/ops/test_imls.py": "from espnet_spike.nn.ops.imls import f\nasync def test_a(): 1\n",
    "tests/integration/test_recipes.py": "",
    "tests/helpers/test_features.py": "",
    "tests/plugins/outside/test_x.py": "",
}


def _check(folder: Path, planted: dict[str, str | None], others=("test_layers.py",)) -> list[str]:
    for name, text in (CONTROL | planted).items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    reasons = dict.fromkeys(others, "a reason")
    return check(folder / "espnet_spike", folder / "tests", reasons, NO_MIRROR)


def test_the_control_tree_keeps_the_rule(tmp_path):
    assert _check(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("planted", "start"),
    [
        ({"tests/nn/test_norms.py": None}, "espnet_spike/nn/norms.py: has no tests in tests/nn/te"),
        (
            {"espnet_spike/nn/ops/lif.py": ""},
            "espnet_spike/nn/ops/lif.py: has no tests in tests/nn",
        ),
        ({"espnet_spike/experiment.py": ""}, "espnet_spike/experiment.py: has no tests in tests/t"),
        ({"tests/nn/test_gone.py": ""}, "tests/nn/test_gone.py: there is no such module"),
        ({"tests/test_swap.py": ""}, "tests/test_swap.py: there is no such module"),
        ({"tests/bin/test_gone.py": ""}, "tests/bin/test_gone.py: there is no such module"),
        ({"tests/test_integration.py": ""}, "tests/test_integration.py: there is no such module"),
        (
            {"tests/nn/test_norms.py": '"""espnet_spike.nn.norms"""\ndef test_a(): pass'},
            "tests/nn/test_norms.py: does not use the module it mirrors, nn/norms.py",
        ),
        (
            {"tests/nn/test_norms.py": "from espnet_spike.nn import norms_b\ndef test_a(): pass"},
            "tests/nn/test_norms.py: does not use the module",
        ),
        (
            {"tests/nn/test_norms.py": "import espnet_spike.nn.ops.imls\ndef test_a(): pass"},
            "tests/nn/test_norms.py: does not use the module",
        ),
        (
            {"tests/nn/test_norms.py": "from espnet_spike.nn.norms import f\n# def test_a(): pass"},
            "tests/nn/test_norms.py: holds no test",
        ),
        ({"tests/nn/__init__.py": None}, "tests/nn/test_norms.py: its folder lacks an __init__.py"),
        ({"tests/test_layers.py": None}, "tests/test_layers.py: listed in OTHERS, but does not e"),
        (
            {"espnet_spike/integration/__init__.py": ""},
            "tests/integration: a package of this name exists: mirror it",
        ),
    ],
)
def test_a_planted_fault_is_found_and_nothing_else(tmp_path, planted, start):
    (message,) = _check(tmp_path, planted)
    assert message.startswith(start)


def test_a_listed_file_that_mirrors_a_module_is_found(tmp_path):
    (message,) = _check(tmp_path, {}, ("test_layers.py", "test_errors.py"))
    assert message == "tests/test_errors.py: listed in OTHERS, but mirrors errors.py"


def test_a_listed_file_may_mirror_nothing(tmp_path):
    assert _check(tmp_path, {"tests/nn/test_x.py": ""}, ("test_layers.py", "nn/test_x.py")) == []
