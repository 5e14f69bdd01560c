"""Every reference from one module of a package to another, read from the source alone.

A reference is an import at the top, in a function or for types alone; relative or absolute; by
``import_module`` and its kin; an attribute of a package (``espnet_spike.counting.counter``); or a
string that names a module, in a registry or put together from pieces. Docstrings, comments and
texts that only mention a module ("install espnet_spike.export", "import espnet_spike.task") are
none: a string is a reference when the whole of it is a dotted name. Nothing is imported here, and
each file is parsed once.
"""

import ast
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

HOLE = "\0"  # stands in a string for what only a run can tell
DOTTED = re.compile(r"[\w.\0]+(?::[\w.\0]*)?")
PLACEHOLDER = re.compile(r"%[-+ #0-9.]*[a-zA-Z]")
IMPORTERS = {"import_module", "find_spec", "resolve_name", "run_module", "locate"}
RUNNERS = {"exec", "eval", "compile"}
METHODS = {
    "format", "join", "partition", "removeprefix", "removesuffix", "replace", "rpartition",
    "rsplit", "split",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Reference:
    """``source`` refers to ``target``; both are names within the package, "" is its root."""

    source: str
    line: int
    shown: str
    target: str
    lazy: bool = field(default=False, compare=False)
    """In a function, or for types alone: importing ``source`` does not run it."""
    kind: str = field(default="import", compare=False)
    """``import``, ``string``; ``command``: a word after "-m"; ``dynamic``: the name, which begins
    with ``target``, is known at run time only; else why no name can be given: ``door``, ``dead``,
    ``code``, ``builtin``, ``whole``."""


class Sources:
    """The modules of the package in folder ``root``, read once.

    ``files``: name -> file; ``packages``: names of all folders with modules; ``documented``: names
    of the modules that have a docstring; ``defined``: name -> what its top level binds;
    ``references``: all, in order.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root.name
        self.files: dict[str, Path] = {}
        self.packages = {""}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            self.packages |= {".".join(parts[:end]) for end in range(1, len(parts))}
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.files.setdefault(name, path)  # Python, too, takes the folder
        self.parents = {""} | {name.rpartition(".")[0] for name in self.packages if "." in name}
        with _no_collector():
            trees = {
                name: ast.parse(path.read_text(encoding="utf-8"), str(path))
                for name, path in self.files.items()
            }
            self.documented = {name for name, tree in trees.items() if ast.get_docstring(tree)}
            self.defined = {name: _defined(tree) for name, tree in trees.items()}
            found = (_Reader(self, name, tree).read() for name, tree in trees.items())
            self.references = sorted(set(chain.from_iterable(found)))

    def __contains__(self, module: str) -> bool:
        return module in self.files or module in self.packages

    def longest(self, dotted: str) -> str:
        """Return the longest beginning of ``dotted`` that is a module; "" if none is."""
        while dotted and dotted not in self:
            dotted = dotted.rpartition(".")[0]
        return dotted


@contextmanager
def _no_collector() -> Iterator[None]:
    """Pause the garbage collector, which takes half of the time: a syntax tree has no circles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _defined(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


class _Reader:
    """Reads one file. A first pass collects, so that order in the file does not matter."""

    def __init__(self, sources: Sources, module: str, tree: ast.AST, line: int = 0) -> None:
        self.sources = sources
        self.module = module
        self.line = line  # of code that stands in a string
        is_package = module in sources.packages
        self.own_package = module if is_package else module.rpartition(".")[0]
        self.found: list[Reference] = []
        self.aliases: dict[str, set[str]] = {}  # local name -> modules of ours it may be
        self.assigned: dict[str, list[ast.expr]] = {}
        self.importers: set[str] = set()
        self.imports: list[tuple[ast.Import | ast.ImportFrom, bool]] = []
        self.chains: list[tuple[ast.Attribute, ast.expr, list[str], bool]] = []
        self.names: list[tuple[ast.Name, bool]] = []
        self.calls: list[tuple[ast.Call | ast.Subscript, bool]] = []
        self.strings: list[tuple[ast.expr, bool]] = []
        self.commands: set[int] = set()
        self.scripts: list[tuple[ast.expr, bool]] = []
        self.open: set[str] = set()  # names being evaluated
        self._collect(tree)

    # first pass

    def _collect(self, tree: ast.AST) -> None:
        """Sort the nodes by what they may be: parents before their children."""
        later: list[tuple[ast.AST, bool]] = [(tree, False)]
        while later:
            start, lazy = later.pop()
            stack = [start]
            while stack:
                node = stack.pop()
                kind = type(node)
                if kind is ast.Name:  # one node in three
                    self.names.append((node, lazy))
                    continue
                handler = HANDLERS.get(kind)
                children = handler(self, node, lazy) if handler else None
                if children is None:
                    for name in FIELDS[kind]:
                        value = getattr(node, name, None)
                        if type(value) is list:
                            stack += [item for item in value if item is not None]
                        elif value is not None:
                            stack.append(value)
                else:
                    later += children

    def _import(self, node: ast.Import | ast.ImportFrom, lazy: bool) -> list:
        self.imports.append((node, lazy))
        return []

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, lazy: bool
    ) -> list:
        body = node.body if isinstance(node.body, list) else [node.body]
        late = {id(child) for child in body}
        # decorators and defaults run with the file itself
        return [(c, lazy or id(c) in late) for c in ast.iter_child_nodes(node)]

    def _if(self, node: ast.If, lazy: bool) -> list | None:
        test = getattr(node.test, "attr", getattr(node.test, "id", None))
        if test != "TYPE_CHECKING":
            return None
        return [(child, True) for child in node.body] + [(child, lazy) for child in node.orelse]

    def _expression(self, node: ast.Expr, lazy: bool) -> list | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return [] if is_text else None  # a docstring, of a module or of an attribute

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.NamedExpr, lazy: bool) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:
                self.assigned.setdefault(target.id, []).append(node.value)

    def _attribute(self, node: ast.Attribute, lazy: bool) -> list:
        names, base = [], node
        while isinstance(base, ast.Attribute):
            names.append(base.attr)
            base = base.value
        self.chains.append((node, base, names[::-1], lazy))
        return [] if isinstance(base, ast.Name) else [(base, lazy)]

    def _call(self, node: ast.Call, lazy: bool) -> None:
        name = node.func.attr if type(node.func) is ast.Attribute else None
        if name in METHODS:
            self.strings.append((node, lazy))
        elif name in (None, "get", "pop") or name in IMPORTERS:
            self.calls.append((node, lazy))

    def _subscript(self, node: ast.Subscript, lazy: bool) -> None:
        self.calls.append((node, lazy))

    def _sequence(self, node: ast.List | ast.Tuple, lazy: bool) -> None:
        for word, following in zip(node.elts, node.elts[1:], strict=False):
            if isinstance(word, ast.Constant) and word.value == "-m":
                self.commands.add(id(following))
            elif isinstance(word, ast.Constant) and word.value == "-c":
                self.scripts.append((following, lazy))

    def _f_string(self, node: ast.JoinedStr, lazy: bool) -> list:
        self.strings.append((node, lazy))
        return [(part, lazy) for part in node.values if type(part) is not ast.Constant]

    def _sum(self, node: ast.BinOp, lazy: bool) -> list:
        self.strings.append((node, lazy))
        terms = [node.left, node.right]
        while isinstance(terms[0], ast.BinOp) and isinstance(terms[0].op, ast.Add):
            terms[:1] = [terms[0].left, terms[0].right]  # a part of a sum is no name yet
        return [(term, lazy) for term in terms]

    def _constant(self, node: ast.Constant, lazy: bool) -> None:
        text = node.value
        if type(text) is str and ("." in text or text == "__import__") and DOTTED.fullmatch(text):
            self.strings.append((node, lazy))

    # second pass

    def read(self) -> list[Reference]:
        for node, lazy in self.imports:
            if isinstance(node, ast.Import):
                self._read_import(node, lazy)
            else:
                self._read_import_from(node, lazy)
        for name, values in self.assigned.items():
            if any(isinstance(v, (ast.Name, ast.Attribute)) and self._imports(v) for v in values):
                self.importers.add(name)
        done: set[int] = set()
        for node, lazy in self.calls:
            done |= self._read_call(node, lazy)
        for node, base, names, lazy in self.chains:
            if type(base) is not ast.Name or base.id in self.aliases or "__import__" in names:
                self._read_chain(node, base, names, lazy)
        for node, lazy in self.names:
            if node.id in self.aliases or node.id == "__import__":
                self._read_name(node, lazy)
        for node, lazy in self.scripts:
            self._read_code(node, self._value(node), lazy)
        for node, lazy in self.strings:
            text = self._value(node) if id(node) not in done else None
            if isinstance(text, str) and self._read_text(node, text, lazy):
                done |= {id(part) for part in ast.walk(node)}
        return self.found

    def _add(self, node: ast.AST, shown: str, target: str, lazy: bool, kind: str) -> None:
        if target != self.module or kind not in ("import", "string"):
            line = self.line or node.lineno
            self.found.append(Reference(self.module, line, shown, target, lazy, kind))

    def _ours(self, dotted: str) -> str | None:
        """Return the name within the package, or None for a module of others."""
        root, _, rest = dotted.partition(".")
        return rest if root == self.sources.package else None

    def _read_import(self, node: ast.Import, lazy: bool) -> None:
        for alias in node.names:
            name = self._ours(alias.name)
            if name is None:
                continue
            self.aliases.setdefault(alias.asname or self.sources.package, set()).add(
                self.sources.longest(name) if alias.asname else ""
            )
            if name:  # what is taken from the bare root is seen by its attributes
                kind = "import" if name in self.sources else "dead"
                self._add(node, f"import {alias.name}", name, lazy, kind)

    def _read_import_from(self, node: ast.ImportFrom, lazy: bool) -> None:
        if node.module in ("importlib", "importlib.util", "pkgutil", "pydoc", "runpy", "sys"):
            names = [a for a in node.names if a.name in IMPORTERS or a.name == "modules"]
            self.importers |= {alias.asname or alias.name for alias in names}
        dots = "." * node.level
        shown = f"from {dots}{node.module or ''} import"
        base = self._relative(node.level, node.module) if dots else self._ours(node.module or "")
        if base is None:
            if dots:
                self._add(node, shown, "", lazy, "dead")
            return
        for alias in node.names:
            name = f"{base}.{alias.name}".lstrip(".")
            text = f"{shown} {alias.name}"
            if name in self.sources:
                self.aliases.setdefault(alias.asname or alias.name, set()).add(name)
                self._add(node, text, name, lazy, "import")
            elif base not in self.sources:
                self._add(node, text, base, lazy, "dead")
            elif base == "":
                if not self._in_root(alias.name):
                    self._add(node, text, "", lazy, "door")
            elif base in self.sources.packages and alias.name not in self.sources.defined.get(
                base, set()
            ):
                kind = "import" if alias.name == "*" else "dead"
                self._add(node, text, base if alias.name == "*" else name, lazy, kind)
            else:
                self._add(node, text, base, lazy, "import")

    def _in_root(self, name: str) -> bool:
        is_dunder = name.startswith("__") and name.endswith("__")
        return is_dunder and name in self.sources.defined.get("", set()) | {
            "__file__",
            "__name__",
            "__path__",
        }

    def _relative(self, level: int, name: str | None, package: str | None = None) -> str | None:
        parts = [part for part in (package or self.own_package).split(".") if part]
        if level - 1 > len(parts):
            return None
        kept = parts[: len(parts) - level + 1]
        return ".".join(kept + ([name] if name else []))

    def _imports(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Name):
            return function.id in self.importers
        return isinstance(function, ast.Attribute) and function.attr in IMPORTERS

    def _is_loaded(self, table: ast.expr) -> bool:
        """Return whether an expression is ``sys.modules``."""
        if isinstance(table, ast.Name):
            return table.id in self.importers
        is_attribute = isinstance(table, ast.Attribute) and table.attr == "modules"
        return is_attribute and isinstance(table.value, ast.Name) and table.value.id == "sys"

    def _wanted(self, node: ast.expr) -> ast.expr | None:
        """Return the name that a call of an importer, or a look into ``sys.modules``, is given."""
        if isinstance(node, ast.Subscript):
            return node.slice if self._is_loaded(node.value) else None
        if not isinstance(node, ast.Call):
            return None
        is_get = isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop")
        if self._imports(node.func) or (is_get and self._is_loaded(node.func.value)):
            given = {word.arg: word.value for word in node.keywords}
            names = (given[key] for key in ("name", "fullname", "mod_name") if key in given)
            return node.args[0] if node.args else next(names, None)
        return None

    def _read_call(self, node: ast.Call | ast.Subscript, lazy: bool) -> set[int]:
        """Read a call that may import; return the nodes that need no second look."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in RUNNERS and node.args:
                self._read_code(node, self._value(node.args[0]), lazy, must=True)
        wanted = self._wanted(node)
        if wanted is None:
            return set()
        text = self._value(wanted)
        if not isinstance(text, str):
            return set()
        if text.startswith("."):
            self._read_relative(node, text, lazy)
        elif not self._read_text(wanted, text, lazy, imports=True):
            return set()
        return {id(part) for part in ast.walk(wanted)}

    def _read_relative(self, node: ast.Call, text: str, lazy: bool) -> None:
        given = {word.arg: word.value for word in node.keywords}
        package = node.args[1] if len(node.args) > 1 else given.get("package")
        anchor = self._value(package) if package is not None else HOLE
        name = text.lstrip(".")
        shown = f"import_module({text!r})".replace("\\x00", "{}")
        if not isinstance(anchor, str) or HOLE in anchor + name:
            self._add(node, shown, "", lazy, "dynamic")
            return
        ours = self._ours(anchor)
        if ours is not None:
            full = self._relative(len(text) - len(name), name, ours) if ours else name
            known = full is not None and full in self.sources
            self._add(node, shown, full or "", lazy, "import" if known else "dead")

    def _read_text(self, node: ast.expr, text: str, lazy: bool, imports: bool = False) -> bool:
        """Read a string; return whether it refers to a module of ours."""
        if text == "__import__":
            self._add(node, repr(text), "", lazy, "builtin")
            return True
        if not DOTTED.fullmatch(text) or text.endswith("."):
            return False
        shown = repr(text.replace(HOLE, "{}"))
        dotted, colon, _ = text.partition(":")
        name = self._ours(dotted)
        if name is None:
            return self._read_short(node, dotted, shown, lazy, imports)
        if name == "":
            if imports:
                self._add(node, shown, "", lazy, "whole")
            return imports
        target = self.sources.longest(name.partition(HOLE)[0].rpartition(".")[0])
        is_file = target not in self.sources.packages
        if HOLE in name and not is_file:
            self._add(node, shown, target, lazy, "dynamic")
            return True
        target = target if HOLE in name else self.sources.longest(name)
        is_sure = bool(colon) or imports or id(node) in self.commands
        is_dead = target != name and (target in self.sources.packages or imports)
        if is_dead and is_sure:
            self._add(node, shown, name, lazy, "dead")
        elif target:
            is_command = id(node) in self.commands and target == name and not colon
            kind = "command" if is_command else "import" if imports else "string"
            self._add(node, shown, target, lazy, kind)
        return bool(target) or (is_dead and is_sure)

    def _read_short(
        self, node: ast.expr, dotted: str, shown: str, lazy: bool, imports: bool
    ) -> bool:
        """Read a name that lacks the package in front, or has it in a variable."""
        if imports and dotted.startswith(self.sources.package + HOLE):
            self._add(node, shown, "", lazy, "dynamic")
            return True
        name = dotted.lstrip(HOLE)
        has_head = name != dotted and name.startswith(".")
        name = name[1:] if has_head else name
        known, hole, _ = name.partition(HOLE)
        if hole:
            target = self.sources.longest(known.rpartition(".")[0])
            if imports and has_head and target:
                self._add(node, shown, target, lazy, "dynamic")
                return True
            return False
        is_module = name in self.sources and ("." in name and name in self.sources.files)
        if is_module or (imports and has_head and name in self.sources):
            self._add(node, shown, name, lazy, "import" if imports else "string")
            return True
        return False

    def _read_chain(
        self, node: ast.Attribute, base: ast.expr, names: list[str], lazy: bool
    ) -> None:
        if "__import__" in names:
            self._add(node, "__import__", "", lazy, "builtin")
        if isinstance(base, ast.Name):
            starts = self.aliases.get(base.id, set())
        else:
            wanted = self._wanted(base)
            text = self._value(wanted) if wanted is not None else None
            start = self._ours(text) if isinstance(text, str) else None
            starts = {start} if start is not None and start in self.sources else set()
        for start in starts:
            target = start
            for name in names:
                longer = f"{target}.{name}".lstrip(".")
                if longer not in self.sources:
                    break
                target = longer
            shown = ".".join([ast.unparse(base), *names])
            if target != start:
                self._add(node, shown, target, lazy, "import")
            elif start == "" and not self._in_root(names[0]):
                self._add(node, shown, "", lazy, "door")

    def _read_name(self, node: ast.Name, lazy: bool) -> None:
        if node.id == "__import__":
            self._add(node, "__import__", "", lazy, "builtin")
        for module in self.aliases.get(node.id, set()) & self.sources.parents:
            if isinstance(node.ctx, ast.Load):
                self._add(node, node.id, module, lazy, "whole")

    def _read_code(self, node: ast.AST, text: object, lazy: bool, must: bool = False) -> None:
        """Read Python that stands in a string: what ``exec`` or ``python -c`` is given."""
        code = text.replace(HOLE, "_").strip() if isinstance(text, str) and text != HOLE else None
        try:
            tree = ast.parse(code) if code is not None else None
        except SyntaxError:
            tree = None
        if tree is not None:
            line = self.line or node.lineno
            inner = _Reader(self.sources, self.module, tree, line).read()
            self.found += [
                Reference(self.module, line, f"code: {r.shown}", r.target, lazy, r.kind)
                for r in inner
            ]
        elif must:
            self._add(node, ast.unparse(node), "", lazy, "code")

    # strings

    def _value(self, node: ast.expr) -> object:
        """Return what an expression of strings comes to, with ``HOLE`` for what is unknown."""
        match node:
            case ast.Constant(value=str() | int() as value):
                return value
            case ast.JoinedStr(values=values):
                return "".join(self._text(value) for value in values)
            case ast.FormattedValue(value=value, format_spec=None):
                return self._text(value)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._text(left) + self._text(right)
            case ast.BinOp(left=left, op=ast.Mod(), right=right):
                return self._percent(self._value(left), self._value(right))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return [self._value(element) for element in elements]
            case ast.Name(id=name):
                return self._variable(name)
            case ast.Attribute(attr="name", value=ast.Name(id="__spec__")):
                return self._variable("__name__")
            case ast.Attribute(attr="parent", value=ast.Name(id="__spec__")):
                return self._variable("__package__")
            case ast.Attribute(attr="__name__" | "__package__", value=value):
                return self._module_name(value)
            case ast.Call(func=ast.Attribute(attr=method, value=value)) if method in METHODS:
                return self._method(node, method, self._value(value))
            case ast.Subscript(value=value, slice=index):
                return self._item(self._value(value), index)
        return HOLE

    def _text(self, node: ast.expr) -> str:
        value = self._value(node)
        return value if isinstance(value, str) else HOLE

    def _variable(self, name: str) -> object:
        package = self.sources.package
        if name == "__name__":
            return f"{package}.{self.module}".rstrip(".")
        if name == "__package__":
            return f"{package}.{self.own_package}".rstrip(".")
        if name in self.open:
            return HOLE
        self.open.add(name)
        values = [self._value(value) for value in self.assigned.get(name, [])]
        self.open.remove(name)
        ours = [v for v in values if isinstance(v, str) and self._ours(v) is not None]
        return ours[0] if ours else values[0] if len(values) == 1 else HOLE

    def _module_name(self, node: ast.expr) -> str:
        names = ast.unparse(node).split(".")
        for start in sorted(self.aliases.get(names[0], set())):
            return ".".join(part for part in [self.sources.package, start, *names[1:]] if part)
        return HOLE

    def _percent(self, text: object, given: object) -> str:
        if not isinstance(text, str):
            return HOLE
        parts = iter(given if isinstance(given, list) else [given])
        return PLACEHOLDER.sub(lambda _: str(next(parts, HOLE)), text)

    def _method(self, node: ast.Call, method: str, text: object) -> object:
        args = [self._value(arg) for arg in node.args]
        words = {word.arg: self._value(word.value) for word in node.keywords if word.arg}
        if not isinstance(text, str) or (HOLE in text and method not in ("join", "format")):
            return HOLE
        try:
            return getattr(text, method)(*args, **words)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            return HOLE

    def _item(self, value: object, index: ast.expr) -> object:
        try:
            place = ast.literal_eval(index)
            return value[place] if isinstance(value, (list, tuple)) else HOLE
        except (ValueError, TypeError, IndexError):
            return HOLE


HANDLERS = {
    ast.Import: _Reader._import,
    ast.ImportFrom: _Reader._import,
    ast.FunctionDef: _Reader._function,
    ast.AsyncFunctionDef: _Reader._function,
    ast.Lambda: _Reader._function,
    ast.If: _Reader._if,
    ast.Expr: _Reader._expression,
    ast.Assign: _Reader._assign,
    ast.AnnAssign: _Reader._assign,
    ast.NamedExpr: _Reader._assign,
    ast.Attribute: _Reader._attribute,
    ast.Call: _Reader._call,
    ast.Subscript: _Reader._subscript,
    ast.List: _Reader._sequence,
    ast.Tuple: _Reader._sequence,
    ast.Constant: _Reader._constant,
    ast.JoinedStr: _Reader._f_string,
    ast.BinOp: _Reader._sum,
}
PLAIN = {
    "arg", "asname", "attr", "conversion", "ctx", "id", "is_async", "kind", "kwd_attrs", "level",
    "name", "names", "op", "ops", "rest", "simple", "type_comment", "type_ignores",
}  # fmt: skip
FIELDS = {  # the fields that hold nodes
    kind: tuple(name for name in kind._fields if name not in PLAIN)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
FIELDS |= dict.fromkeys((ast.Constant, ast.MatchSingleton), ())
