"""The layering rule, checked on the source alone.

A module knows its own package and the packages on lower floors: never its own floor's neighbours,
never up, whether by an import at the top, a late one, one for types, a relative one,
``import_module`` or a name in a string. There are no exceptions by name; what a reference is says
``tests/helpers/references.py``. The forms that are open:

* the package's own ``__init__`` is the public door: in its functions and in its table of strings
  it names any module. Code of the package itself takes nothing through that door but dunder names
  (``__version__``);
* ``__main__`` may start any ``espnet_spike.bin.NAME``;
* a lower package may start a command in a process of its own: a list or tuple that holds "-m" and,
  right behind it, the literal name of an existing command, "espnet_spike.bin.NAME".
"""

import tomllib
from collections import defaultdict, deque
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

from tests.helpers.references import Reference, Sources

ROOT = Path(__file__).resolve().parents[1] / "espnet_spike"
LAYERS = (  # from the ground up; packages on one floor do not know each other
    "errors",
    "ranges",
    "utils",
    "experiment",
    "nn.ops.triton",
    "data nn.ops",
    "corpora nn",
    "nn.neurons",
    "nn.layers",
    "encoders decoders",
    "tasks",
    "task",
    "training inference",
    "advice",
    "results",
    "counting simulator",
    "export simulator.integer",
    "bin",
    "__main__",
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS, 1) for name in names.split()}
MODULES = {"errors", "ranges", "experiment", "task", "__main__"}
PACKAGES = FLOOR.keys() - MODULES
MOST_FILES = 18
Arrows = dict[str, dict[str, Reference]]

WHY = {
    "dynamic": "only a run can tell which module this names: name modules in full",
    "dead": "there is no such module or name",
    "door": "the public door is for users: name the module that defines it",
    "whole": "the whole package is at hand here: name the module that is needed",
    "builtin": "__import__ is never needed: use an import statement or import_module",
    "code": "code put together at run time cannot be checked: call a function",
}


def _home(module: str) -> str:
    """Return the package of a module; one of the root's modules is its own."""
    return module if module in FLOOR else module.rpartition(".")[0]


class Check:
    """All violations of the rules in the package at ``root``; ``found``: rule -> messages."""

    RULES = ("floors", "names", "inits", "folders", "circles", "entry points")

    def __init__(self, root: Path) -> None:
        self.sources = Sources(root)
        self.found: dict[str, list[str]] = defaultdict(list)
        for reference in self.sources.references:
            self._reference(reference)
        self._folders()
        self._circles()
        self._pyproject(root.parent / "pyproject.toml")

    def _path(self, module: str) -> str:
        file = self.sources.files.get(module, self.sources.root / module.replace(".", "/"))
        return file.relative_to(self.sources.root.parent).as_posix()

    def _report(self, rule: str, where: str, text: str) -> None:
        self.found[rule].append(f"{where}: {text}")

    def _reference(self, found: Reference) -> None:
        where = f"{self._path(found.source)}:{found.line}"
        shown = f"`{found.shown}`"
        here, there = _home(found.source), _home(found.target)
        if found.kind in WHY:
            is_door = found.source == "" and found.lazy
            is_start = found.source == "__main__" and found.target == "bin"
            if found.kind != "dynamic" or not (is_door or is_start):
                self._report("names", where, f"{shown}: {WHY[found.kind]}")
        elif found.source == "":
            if found.kind == "import" and not found.lazy:
                text = "importing the package must load nothing: import it in __getattr__"
                self._report("inits", where, f"{shown}: {text}")
        elif found.source in self.sources.packages:
            text = "the __init__ of a package refers to no module of ours: name the module itself"
            self._report("inits", where, f"{shown}: {text}, where it is needed")
        elif there == "bin":
            if found.source != "__main__" and found.kind != "command":
                text = "nobody knows a command: move what is needed out of it, to"
                self._report("floors", where, f"{shown}: {text} {_names(_upto(here))}")
        elif here != there and not FLOOR.get(there, 0) < FLOOR.get(here, 99):
            self._report("floors", where, f"{shown}: {_advice(here, there)}")

    def _folders(self) -> None:
        files = defaultdict(list)
        for module, path in self.sources.files.items():
            if path.stem != "__init__":
                files[module.rpartition(".")[0]].append(module)
        for name in sorted(self.sources.packages - {""}):
            folder = self.sources.root / name.replace(".", "/")
            if folder.with_suffix(".py").is_file():
                where = folder.relative_to(self.sources.root.parent).as_posix()
                self._report("folders", where, "a file and a folder have this name: keep one")
        for module in sorted(set(files[""]) - MODULES):
            text = f"a module at the root that is none of {_names(MODULES)}: move it to a package"
            self._report("folders", self._path(module), text)
        for name in sorted(self.sources.packages - {""}):
            folder = self.sources.root / name.replace(".", "/")
            where = folder.relative_to(self.sources.root.parent).as_posix()
            if name not in PACKAGES:
                text = f"unknown package: use one of {_names(PACKAGES)}, or give it a floor"
                self._report("folders", where, text)
            elif not (folder / "__init__.py").is_file():
                self._report("folders", where, "lacks an __init__.py, with a docstring alone")
            elif name not in self.sources.documented:
                text = "needs a docstring: what lives here and what may not"
                self._report("folders", f"{where}/__init__.py:1", text)
            if len(files[name]) > MOST_FILES and name != "bin":
                text = f"{len(files[name])} modules, {MOST_FILES} at most: join or divide by theme"
                self._report("folders", where, text)
        for name in sorted(FLOOR.keys() - self.sources.packages - self.sources.files.keys()):
            self._report("folders", name, "has a floor in LAYERS, but does not exist")

    def _circles(self) -> None:
        """Report one shortest circle for each knot of files; what a process runs is not loaded."""
        arrows: Arrows = defaultdict(dict)
        back: Arrows = defaultdict(dict)
        for found in self.sources.references:
            if found.kind in ("import", "string") and found.source and found.target:
                arrows[found.source].setdefault(found.target, found)
                back[found.target][found.source] = found
        seen: set[str] = set()
        for start in sorted(arrows):
            if start not in seen and (circle := _circle(arrows, start)):
                seen |= _ways(arrows, start).keys() & _ways(back, start).keys()
                steps = [arrows[a][b] for a, b in zip(circle, [*circle[1:], start], strict=True)]
                text = "; ".join(
                    f"{self._path(s.source)}:{s.line} `{s.shown}` -> {s.target}" for s in steps
                )
                advice = "move what the files share to a third one below them"
                self._report("circles", self._path(start), f"a circle of imports: {text}: {advice}")

    def _pyproject(self, path: Path) -> None:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        project = data.get("project", {})
        tables = {
            "project.scripts": project.get("scripts", {}),
            "project.gui-scripts": project.get("gui-scripts", {}),
        }
        for group, table in project.get("entry-points", {}).items():
            tables[f"project.entry-points.{group}"] = table
        for table, entries in tables.items():
            for name, target in entries.items():
                module, _, attribute = target.partition("[")[0].strip().partition(":")
                self._entry(f"{path.name} [{table}] {name}", module.strip(), attribute.strip())
        for module in data.get("tool", {}).get("setuptools", {}).get("package-data", {}):
            self._entry(f"{path.name} [tool.setuptools.package-data]", module, "")

    def _entry(self, where: str, module: str, attribute: str) -> None:
        root, _, name = module.partition(".")
        if root != self.sources.package:
            return
        if name not in self.sources:
            self._report("entry points", where, f"there is no module {module}")
        elif attribute and attribute.split(".")[0] not in self.sources.defined.get(name, set()):
            self._report("entry points", where, f"{module} defines no {attribute}")


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names, key=lambda name: (FLOOR.get(name, 0), name)))


def _upto(package: str) -> set[str]:
    below = {name for name in FLOOR if FLOOR[name] < FLOOR.get(package, 99)}
    return below - {"task", "__main__", "bin"} | {package}


def _advice(here: str, there: str) -> str:
    top = {n for n in FLOOR if FLOOR[n] > max(FLOOR[here], FLOOR[there])} - {"task", "__main__"}
    top |= {there} if FLOOR[there] > FLOOR[here] else set()
    return (
        f"{here} (floor {FLOOR[here]}) may not know {there} (floor {FLOOR[there]}), only lower "
        f"floors: move what is needed down to {_names(_upto(here))}, "
        f"or what needs it up to {_names(top)}"
    )


def _ways(arrows: Arrows, start: str) -> dict[str, str]:
    """Return the modules that can be reached from ``start``, each with the one before it."""
    before: dict[str, str] = {}
    queue = deque([start])
    while queue:
        module = queue.popleft()
        for target in arrows.get(module, ()):
            if target not in before:
                before[target] = module
                queue.append(target)
    return before


def _circle(arrows: Arrows, start: str) -> list[str]:
    """Return a shortest way from ``start`` back to itself; empty if there is none."""
    before = _ways(arrows, start)
    way = [before[start]] if start in before else []
    while way and way[-1] != start:
        way.append(before[way[-1]])
    return way[::-1]


@cache
def _package() -> Check:
    return Check(ROOT)


@pytest.mark.xdist_group("layers")  # one worker, so one reading
@pytest.mark.parametrize("rule", Check.RULES)
def test_the_package_keeps_the_rule(rule):
    assert not _package().found[rule], "\n" + "\n".join(_package().found[rule])


# The rules themselves, on planted trees: a control that keeps them, and one violation of each kind.

CONTROL = {
    "__init__.py": '''
        """The public door."""
        from importlib import import_module
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            from espnet_spike.counting.ledger import Ledger
        __version__ = "1"
        _WHERE = {"Ledger": "counting.ledger", "load": "espnet_spike.tasks.loading"}

        def __getattr__(name):
            return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)

        errors = lambda: import_module("espnet_spike.errors")

        async def load(name):
            from . import errors
        ''',
    "__main__.py": """
        import importlib
        from espnet_spike import bin as commands
        from espnet_spike.utils.cli import run

        def main():
            print(commands.__path__)
            importlib.import_module(f"espnet_spike.bin.{name}").main()
        """,
    "errors.py": "import dataclasses\n",
    "ranges.py": "from espnet_spike.errors import UserError\n",
    "experiment.py": "from espnet_spike.errors import UserError\n",
    "task.py": "from espnet_spike.tasks.loading import load\n",
    "bin/decode.py": """
        from espnet_spike import __version__
        from espnet_spike.export.pack import pack
        prog = "espnet_spike.bin.decode"
        """,
    "bin/count.py": "import espnet_spike.counting.ledger as ledger\n",
    "corpora/fsdd.py": "from ..data import tokens\nimport sys\n",
    "data/tokens.py": '''
        """``espnet_spike.counting.ledger`` is only mentioned here."""
        import importlib
        import logging
        import espnet_spike

        logger = logging.getLogger(__name__)
        child = logging.getLogger(f"{__name__}.{child}")
        TEXT = "see espnet_spike.counting.ledger"
        """espnet_spike.counting.ledger"""
        INSTALL = "pip install 'espnet_spike[sim]'"
        AGENT = {"User-Agent": "espnet_spike", "file": f"{stem}.results", "version": "1.2.data"}
        HELP = f"python -m espnet_spike.bin.{name} says more; import espnet_spike.task first"
        print(espnet_spike.__version__, espnet_spike.__file__, f"espnet_spike {version}")
        dask = importlib.import_module(name)
        onnx = importlib.import_module("onnx.helper")
        linalg = importlib.import_module(".linalg", "numpy")
        url = f"https://{host}.data.example"
        cache = "{}".format("espnet_spike")
        usage = f"espnet_spike.bin.{name} says more"
        usage = "espnet_spike.bin." + name + " says more"
        lines = ["# Readme", "import espnet_spike.task", f"{stem}.counting.{kind}"]
        rest = 5 % rest
        rest = rest + ".data"
        ''',
    "nn/norms.py": "from .ops import imls\nfrom . import ops\n",
    "nn/ops/imls.py": "from importlib import resources\nfrom . import imls_numba\n",
    "nn/ops/imls_numba.py": "import numba\n",
    "nn/neurons/lif.py": "from .. import norms\nfrom ..ops.imls import forward\n",
    "nn/layers/conv.py": "from espnet_spike.nn.neurons import lif as neuron\nneuron.LIF()\n",
    "encoders/blocks.py": "from espnet_spike import nn\nprint(nn.layers.conv.Conv)\n",
    "tasks/loading.py": """
        from importlib import import_module
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from espnet_spike.encoders.blocks import Block

        GROUP = "espnet_spike.encoders"
        ENCODERS = {"blocks": "espnet_spike.encoders.blocks:Block", "lif": "nn.neurons.lif:LIF"}

        def load(name):
            import_module("espnet_spike.encoders.blocks")
            import_module("..encoders.blocks", package=__package__)
            module, _, attribute = ENCODERS[name].partition(":")
            return getattr(import_module(module), attribute)
        """,
    "tasks/model.py": "from .loading import load\nfrom espnet_spike.tasks import *\n",
    "training/asr.py": """
        import espnet_spike.task  # registers the encoders
        COMMAND = (sys.executable, "-m", "espnet_spike.bin.decode")
        command = [*launcher, "-m", "espnet_spike.bin.count", "--ngpu", "1"]
        compiler = [*cxx, "-c", str(source)]
        """,
    "inference/ctc.py": "from espnet_spike.task import load\n",
    "results/scoring.py": "from espnet_spike.inference.ctc import align\n",
    "counting/ledger.py": "from espnet_spike.results.scoring import score\n",
    "simulator/core.py": """
        from importlib.resources import files
        RTL = files("espnet_spike.simulator") / "rtl"
        FIRMWARE = files(__package__) / "csrc"
        CONF = files("espnet_spike") / "conf"
        """,
    "export/pack.py": "from espnet_spike.counting import ledger\nledger.Ledger()\n",
    "utils/cli.py": "from espnet_spike import __version__, errors\n",
}
PYPROJECT = """
[project.scripts]
espnet-spike = "espnet_spike.__main__:main"
other = "elsewhere:main"
[project.entry-points."espnet_spike.encoders"]
blocks = "espnet_spike.task:load [extra]"
[tool.setuptools.package-data]
"espnet_spike.simulator" = ["rtl/*"]
"""


def _plant(folder: Path, planted: dict[str, str], pyproject: str = PYPROJECT) -> Path:
    """Write the control tree with ``planted`` code at the end of its files; None removes a file."""
    root = folder / "espnet_spike"
    files = {f"{name.replace('.', '/')}/__init__.py": '"""What lives here."""' for name in PACKAGES}
    files |= {name: dedent(text).lstrip() for name, text in CONTROL.items()}
    for name, text in planted.items():
        files[name] = None if text is None else f"{files.get(name, '')}\n{dedent(text).strip()}\n"
    for name, text in files.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    (folder / "pyproject.toml").write_text(pyproject)
    return root


def test_the_control_tree_keeps_all_rules(tmp_path):
    assert Check(_plant(tmp_path, {})).found == {}


LOW = "nn/ops/more.py"
UP = {  # a low package reaches up by: code whose last line is the violation
    "import from": "from espnet_spike.counting.ledger import Ledger",
    "import from the package": "from espnet_spike.counting import ledger",
    "import of a package": "from espnet_spike import counting",
    "import": "import espnet_spike.counting.ledger",
    "import as": "import espnet_spike.counting.ledger as other",
    "star": "from espnet_spike.counting.ledger import *",
    "in a function": "def f():\n    from espnet_spike.counting.ledger import Ledger",
    "in an async method": "class A:\n    async def f(self):\n        from ... import counting",
    "in a lambda": "f = lambda: import_module('espnet_spike.counting.ledger')",
    "in a branch": "if x:\n    pass\nelse:\n    import espnet_spike.counting.ledger",
    "in a try": "try:\n    a = 1\nexcept ImportError:\n    import espnet_spike.counting.ledger",
    "in a match": "match x:\n    case 1:\n        from espnet_spike.counting import ledger",
    "for types": "if TYPE_CHECKING:\n    from espnet_spike.counting.ledger import Ledger",
    "for types, by attribute": "if typing.TYPE_CHECKING:\n    import espnet_spike.counting.ledger",
    "an annotation": "def f(x: 'espnet_spike.counting.ledger.Ledger'): pass",
    "relative": "from ...counting.ledger import Ledger",
    "relative, a package": "from ... import counting",
    "relative, a module": "from ...counting import ledger",
    "relative, its parent": "from .. import norms",
    "relative, a sibling": "from ..layers import conv",
    "import_module": "importlib.import_module('espnet_spike.counting.ledger')",
    "import_module as": (
        "from importlib import import_module as im\nim('espnet_spike.counting.ledger')"
    ),
    "import_module by a name": (
        "load = importlib.import_module\nload('...counting.ledger', __package__)"
    ),
    "import_module, relative": "importlib.import_module('...counting.ledger', __package__)",
    "import_module, relative to a text": (
        "from importlib import import_module as im\nim('.counting.ledger', package='espnet_spike')"
    ),
    "import_module, keyword": "importlib.import_module(name='espnet_spike.counting.ledger')",
    "import_module, a head at run time": "importlib.import_module(f'{head}.counting')",
    "find_spec, a head at run time": "importlib.util.find_spec(f'{head}.counting')",
    "resolve_name, a head at run time": "pkgutil.resolve_name(head + '.counting')",
    "run_module, a head at run time": "runpy.run_module('%s.counting' % head)",
    "locate, a head at run time": "pydoc.locate('{}.counting'.format(head))",
    "find_spec": "importlib.util.find_spec('espnet_spike.counting.ledger')",
    "resolve_name": "pkgutil.resolve_name('espnet_spike.counting.ledger:Ledger')",
    "run_module": "runpy.run_module('espnet_spike.counting.ledger')",
    "sys.modules": "x = sys.modules['espnet_spike.counting.ledger']",
    "resources": "x = importlib.resources.files('espnet_spike.simulator') / 'rtl'",
    "resources, a folder": "x = importlib.resources.files('espnet_spike.simulator.rtl')",
    "get_data": "x = pkgutil.get_data('espnet_spike.simulator', 'rtl/core.sv')",
    "a registry": "NAMES = {'ledger': 'espnet_spike.counting.ledger:Ledger'}",
    "a registry of short names": "NAMES = {'ledger': 'counting.ledger:Ledger'}",
    "a default": "def f(where='espnet_spike.counting.ledger'): pass",
    "a setting": "f(target='espnet_spike.counting')",
    "an f-string of constants": "P = 'espnet_spike'\nx = f'{P}.counting'",
    "a local constant": "def f():\n    p = 'espnet_spike'\n    return f'{p}.counting'",
    "an f-string, a head at run time": "x = f'{head()}.counting.ledger'",
    "an f-string of its own name": "x = f'{__name__.split(\".\")[0]}.counting'",
    "an f-string of its package": "x = f'{__package__.partition(\".\")[0]}.counting'",
    "an f-string, attribute open": "x = f'espnet_spike.counting.ledger:{name}'",
    "the package's name": "import espnet_spike\nx = f'{espnet_spike.__name__}.counting'",
    "a sum": "x = 'espnet_spike' + '.counting.ledger'",
    "a sum of three": "x = 'espnet_spike.' + 'counting' + '.ledger'",
    "a percent": "x = '%s.counting.%s' % ('espnet_spike', 'ledger')",
    "a format": "x = '{}.counting.{m}'.format('espnet_spike', m='ledger')",
    "a join": "x = '.'.join(['espnet_spike', 'counting', 'ledger'])",
    "a spec": "x = __spec__.parent.split('.')[0] + '.counting'",
    "a spec's name": "x = __spec__.name.split('.')[0] + '.counting'",
    "an annotated constant": "P: str = 'espnet_spike'\nx = P + '.counting'",
    "a constant on the way": "f(p := 'espnet_spike')\nx = p + '.counting'",
    "a removed suffix": "x = __package__.removesuffix('.nn.ops') + '.counting'",
    "a removed prefix": "x = 'x.espnet_spike.counting'.removeprefix('x.')",
    "a part from the right": "x = 'espnet_spike.errors'.rpartition('.')[0] + '.counting'",
    "a split from the right": "x = __package__.rsplit('.', 2)[0] + '.counting'",
    "a replaced part": "x = __package__.replace('nn.ops', 'counting')",
    "an attribute of the package": "import espnet_spike.errors\nespnet_spike.counting.ledger.f()",
    "an attribute of its package": "import espnet_spike as e\ndef f():\n    e.counting.ledger.f()",
    "exec": "exec('import espnet_spike.counting.ledger')",
    "eval": "x = eval('f(\"counting.ledger\")')",
    "compile": "x = compile('import espnet_spike.counting.ledger', 'x', 'exec')",
    "a script": "run([sys.executable, '-c', 'import espnet_spike.counting.ledger'])",
    "a module that is no command": "run([sys.executable, '-m', 'espnet_spike.counting.ledger'])",
    "the registering module": "import espnet_spike.task",
    "the main module": "from espnet_spike.__main__ import main",
}
CASES = [("floors", LOW, name, code) for name, code in UP.items()] + [
    # floors
    ("floors", "data/tokens.py", "neighbours 1", "from espnet_spike.nn.ops import imls"),
    ("floors", "training/asr.py", "neighbours 2", "from espnet_spike.inference.ctc import align"),
    ("floors", "inference/ctc.py", "neighbours 3", "from ..training import asr"),
    ("floors", "simulator/core.py", "neighbours 4", "X = 'espnet_spike.counting.ledger:Ledger'"),
    ("floors", "utils/cli.py", "utils know no experiment", "from espnet_spike import experiment"),
    ("floors", "errors.py", "the lowest", "from .data import tokens"),
    ("floors", "nn/more.py", "up inside nn", "from . import layers"),
    ("floors", "nn/more.py", "up inside nn, a file", "from .layers.conv import Conv"),
    (
        "floors",
        "nn/neurons/more.py",
        "up through nn",
        "from espnet_spike import nn\nnn.layers.conv.f()",
    ),
    ("floors", "tasks/model.py", "tasks know not task", "from espnet_spike.task import load"),
    ("floors", "export/sherpa.py", "a command", "from espnet_spike.bin.decode import main"),
    ("floors", "export/sherpa.py", "the commands", "from espnet_spike import bin"),
    ("floors", "bin/count.py", "a neighbour command", "from espnet_spike.bin import decode"),
    ("floors", "bin/count.py", "a neighbour command, late", "def f():\n    from . import decode"),
    ("floors", "export/sherpa.py", "a command by name", "C = 'espnet_spike.bin.decode'"),
    ("floors", "export/sherpa.py", "not behind -m", "C = ['-m', x, 'espnet_spike.bin.decode']"),
    ("floors", "export/sherpa.py", "no process", "f('-m', 'espnet_spike.bin.decode')"),
    (
        "floors",
        "export/sherpa.py",
        "a function of it",
        "C = ['-m', 'espnet_spike.bin.decode:main']",
    ),
    # names
    ("names", LOW, "an f-string", "x = f'espnet_spike.{name}'"),
    ("names", LOW, "an f-string, deeper", "x = f'espnet_spike.nn.ops.{name}'"),
    ("names", LOW, "an f-string with an attribute", "x = f'espnet_spike.nn.{name}:{attribute}'"),
    ("names", LOW, "a sum", "x = 'espnet_spike.' + name"),
    ("names", LOW, "a percent", "x = 'espnet_spike.%s' % name"),
    ("names", LOW, "a format", "x = 'espnet_spike.{}'.format(name)"),
    ("names", LOW, "a join", "x = '.'.join(('espnet_spike', name))"),
    ("names", LOW, "a constant and a name", "P = 'espnet_spike.nn.ops'\nx = P + '.' + name"),
    ("names", LOW, "its own package", "x = importlib.import_module(f'{__package__}.{name}')"),
    ("names", LOW, "a suffix", "x = importlib.import_module('espnet_spike' + name)"),
    ("names", LOW, "a middle", "x = importlib.import_module(f'{head}.counting.{name}')"),
    ("names", LOW, "a relative suffix", "x = importlib.import_module('.' + name, __package__)"),
    ("names", LOW, "an unknown base", "x = importlib.import_module('.ledger', package)"),
    ("names", "export/pack.py", "any command", "C = [x, '-m', f'espnet_spike.bin.{name}']"),
    ("names", "__main__.py", "more than commands", "x = f'espnet_spike.{name}'"),
    ("names", "__init__.py", "open at the top", "x = import_module(f'espnet_spike.{name}')"),
    ("names", LOW, "the public door", "from espnet_spike import Ledger"),
    ("names", LOW, "all of the public door", "from espnet_spike import *"),
    ("names", LOW, "the public door, relative", "from ... import Ledger"),
    ("names", LOW, "by attribute", "import espnet_spike\nx = espnet_spike.Ledger"),
    ("names", LOW, "by getattr", "import espnet_spike as e\nx = getattr(e, name)"),
    ("names", "tasks/model.py", "by vars", "from .. import nn\nx = vars(nn)[name]"),
    ("names", LOW, "the root's name", "x = importlib.import_module('espnet_spike')"),
    ("names", LOW, "modules of the root", "from sys import modules\nx = modules['espnet_spike']"),
    ("names", LOW, "sys.modules of the root", "x = sys.modules['espnet_spike']"),
    ("names", LOW, "sys.modules.get of the root", "x = sys.modules.get(__name__.split('.')[0])"),
    ("names", LOW, "__import__", "x = __import__('os')"),
    ("names", LOW, "__import__ by attribute", "x = builtins.__import__(name)"),
    ("names", LOW, "__import__ by text", "x = getattr(builtins, '__import__')"),
    ("names", LOW, "exec", "exec(code)"),
    ("names", LOW, "a module that is gone", "from espnet_spike.nn.ops.gone import x"),
    ("names", LOW, "a module that is gone, 2", "import espnet_spike.gone"),
    ("names", LOW, "a name that is gone", "from espnet_spike.nn.ops import gone"),
    ("names", LOW, "a relative name that is gone", "from . import gone"),
    ("names", LOW, "above the root", "from .... import ops"),
    ("names", LOW, "a registry's name that is gone", "X = 'espnet_spike.nn.ops.gone:Gone'"),
    ("names", LOW, "an old name", "X = 'espnet_spike.execution:Execution'"),
    ("names", LOW, "import_module of an old name", "importlib.import_module('espnet_spike.gone')"),
    ("names", LOW, "a command that is gone", "run(['-m', 'espnet_spike.bin.gone'])"),
    # inits
    ("inits", "tasks/__init__.py", "import", "from espnet_spike.tasks.loading import load"),
    ("inits", "tasks/__init__.py", "relative", "from .loading import load"),
    ("inits", "tasks/__init__.py", "of below", "from espnet_spike.errors import UserError"),
    ("inits", "nn/__init__.py", "late", "def f():\n    from . import norms"),
    ("inits", "nn/__init__.py", "for types", "if TYPE_CHECKING:\n    from . import norms"),
    ("inits", "tasks/__init__.py", "a table", "X = {'load': 'espnet_spike.tasks.loading:load'}"),
    ("inits", "tasks/__init__.py", "a short table", "X = {'load': 'tasks.loading'}"),
    ("inits", "__init__.py", "the door, at the top", "from espnet_spike.errors import UserError"),
    ("inits", "__init__.py", "the door, relative", "from .errors import UserError"),
    ("inits", "__init__.py", "the door, in a branch", "if x:\n    from . import errors"),
    ("inits", "__init__.py", "the door, in a class", "class A:\n    from . import errors"),
    (
        "inits",
        "__init__.py",
        "the door, a default",
        "def f(x=import_module('.errors', __name__)): pass",
    ),
    ("inits", "__init__.py", "the door, import_module", "import_module('espnet_spike.errors')"),
]


@pytest.mark.parametrize(
    ("rule", "file", "code"),
    [pytest.param(rule, file, code, id=f"{rule}: {name}") for rule, file, name, code in CASES],
)
def test_a_planted_reference_is_found_and_nothing_else(tmp_path, rule, file, code):
    root = _plant(tmp_path, {file: code})
    lines = len((root / file).read_text().splitlines())
    found = Check(root).found
    assert {key: len(messages) for key, messages in found.items()} == {rule: 1}, found
    assert found[rule][0].startswith(f"espnet_spike/{file}:{lines}: `")


TREES = {  # planted files, and how the one message begins
    "an unknown folder": ({"kitchen/sink.py": "x = 1"}, "folders", "espnet_spike/kitchen: unkn"),
    "an unknown folder inside": ({"tasks/more/sink.py": ""}, "folders", "espnet_spike/tasks/more:"),
    "an empty unknown folder": ({"kitchen/__init__.py": ""}, "folders", "espnet_spike/kitchen: un"),
    "an unknown file": ({"launch.py": "x = 1"}, "folders", "espnet_spike/launch.py: a module at"),
    "no __init__": ({"tasks/__init__.py": None}, "folders", "espnet_spike/tasks: lacks an __in"),
    "19 modules": (
        {f"tasks/more_{n}.py": "" for n in range(17)}, "folders",
        "espnet_spike/tasks: 19 modules, 18 at most",
    ),
    "a floor without a package": (
        {"corpora/fsdd.py": None, "corpora/__init__.py": None}, "folders", "corpora: has a floor",
    ),
    "a circle at the top": (
        {"tasks/loading.py": "from .model import Model"}, "circles",
        "espnet_spike/tasks/loading.py",
    ),
    "a late circle": (
        {"tasks/loading.py": "def f():\n    import espnet_spike.tasks.model"}, "circles",
        "espnet_spike/tasks/loading.py: a circle of imports: espnet_spike/tasks/loading.py:16 "
        "`import espnet_spike.tasks.model` -> tasks.model; espnet_spike/tasks/model.py:1 "
        "`from .loading import load` -> tasks.loading: move",
    ),
    "a circle for types": (
        {"tasks/loading.py": "if TYPE_CHECKING:\n    from . import model"}, "circles",
        "espnet_spike/tasks/loading.py",
    ),
    "a circle through a registry": (
        {"tasks/loading.py": "MODELS = {'asr': 'espnet_spike.tasks.model:Model'}"}, "circles",
        "espnet_spike/tasks/loading.py",
    ),
    "a circle of three": (
        {"data/a.py": "from . import b", "data/b.py": "from . import c",
         "data/c.py": "def f(): from .a import x"}, "circles",
        "espnet_spike/data/a.py: a circle of imports: espnet_spike/data/a.py:2 `from . import b` "
        "-> data.b; espnet_spike/data/b.py:2 `from . import c` -> data.c; espnet_spike/data/c.py:2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("planted", "rule", "start"), TREES.values(), ids=TREES)
def test_a_planted_fault_of_the_tree_is_found_and_nothing_else(tmp_path, planted, rule, start):
    found = Check(_plant(tmp_path, planted)).found
    assert {key: len(messages) for key, messages in found.items()} == {rule: 1}, found
    assert found[rule][0].startswith(start)


@pytest.mark.parametrize("file", ["errors/more.py", "tasks.py", "nn/ops.py"])
def test_a_file_and_a_folder_of_one_name_are_found(tmp_path, file):
    name = file.partition("/more")[0].removesuffix(".py")
    message = f"espnet_spike/{name}: a file and a folder have this name: keep one"
    assert message in Check(_plant(tmp_path, {file: "x = 1"})).found["folders"]


def test_two_knots_are_two_circles(tmp_path):
    planted = {"data/a.py": "from . import b", "data/b.py": "from . import a"}
    planted |= {"corpora/a.py": "from . import b", "corpora/b.py": "from . import a"}
    assert len(Check(_plant(tmp_path, planted)).found["circles"]) == 2


@pytest.mark.parametrize("text", ["", "x = 1\n", "'''  '''\n"], ids=["empty", "code", "blank"])
def test_a_package_without_a_docstring_is_found(tmp_path, text):
    root = _plant(tmp_path, {})
    (root / "tasks/__init__.py").write_text(text)
    assert Check(root).found == {
        "folders": [
            "espnet_spike/tasks/__init__.py:1: needs a docstring: what lives here and what may not"
        ]
    }


def test_18_modules_and_any_number_of_commands_are_fine(tmp_path):
    planted = {f"tasks/more_{n}.py": "" for n in range(16)}
    assert (
        Check(_plant(tmp_path, planted | {f"bin/more_{n}.py": "" for n in range(40)})).found == {}
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('[project.scripts]\nx = "espnet_spike.gone:main"', "there is no module espnet_spike.gone"),
        ('[project.scripts]\nx = "espnet_spike.__main__:gone"', "espnet_spike.__main__ defines no"),
        ('[project.gui-scripts]\nx = "espnet_spike.gone:main"', "there is no module"),
        ('[project.entry-points.any]\nx = "espnet_spike.gone"', "there is no module"),
        ('[tool.setuptools.package-data]\n"espnet_spike.gone" = ["*"]', "there is no module"),
    ],
)
def test_a_project_file_that_points_nowhere_is_found(tmp_path, line, text):
    (message,) = Check(_plant(tmp_path, {}, line)).found["entry points"]
    assert message.startswith("pyproject.toml [") and text in message


def test_a_message_says_where_the_code_could_go(tmp_path):
    root = _plant(tmp_path, {"training/asr.py": "from espnet_spike.inference.ctc import align"})
    (message,) = Check(root).found["floors"]
    assert message == (
        "espnet_spike/training/asr.py:6: `from espnet_spike.inference.ctc import align`: training "
        "(floor 13) may not know inference (floor 13), only lower floors: move what is needed down "
        "to errors, ranges, utils, experiment, nn.ops.triton, data, nn.ops, corpora, nn, "
        "nn.neurons, nn.layers, decoders, encoders, tasks, training, or what needs it up to "
        "advice, results, counting, simulator, export, simulator.integer, bin"
    )
