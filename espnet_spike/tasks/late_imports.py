"""Import ESPnet without the work that it does for functions nobody has called yet.

At the top of its files an ESPnet task

* imports a text-to-speech model, numba and ``scipy.stats``: attention plots know the aligner of
  JETS, too;
* imports the compiler of torch, and sympy for it: ``make_pad_mask`` is not to be compiled;
* imports ``scipy.signal`` and hydra, for room impulse responses and S4 decoders;
* compiles its own functions again, with typeguard's checks of their arguments in them.

All that takes longer than the rest. `late_imports` puts it off until it is needed. Nothing is left
out, and nothing stands in for what is ESPnet's: it is loaded, checked or marked at its first use.
"""

import contextlib
import functools
import gc
import importlib
import importlib.abc
import io
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

import typeguard
from typeguard import typechecked

# ESPnet imports these as modules, and looks into them in its functions only
MODULES = ("scipy.signal", "hydra")
# module -> a function that ESPnet imports from it by name, and calls in its functions only
FUNCTIONS = {"espnet2.main_funcs.calculate_all_attentions": "calculate_all_attentions"}
# ESPnet's own attention is what is wanted
NOTE = "Failed to import Flash Attention"


@contextlib.contextmanager
def late_imports() -> Iterator[None]:
    """Put off what ESPnet's files do at their import in this block without need; drop one note.

    What has been imported before stays as it is. The garbage collector waits as well: an import
    makes many objects, and keeps them all.
    """
    with _without_garbage_collection():
        import torch

        with (
            _with_attribute(torch.compiler, "disable", not_compiled),
            _with_attribute(typeguard, "typechecked", checked_on_call),
            _with_functions(FUNCTIONS),
            _with_finder(_LateModules),
            _without_note(),
        ):
            yield


def not_compiled(
    fn: Callable[..., Any] | None = None, recursive: bool = True, *, reason: str | None = None
) -> Callable[..., Any]:
    """Mark a function as ``torch.compiler.disable`` does, but only once there is a compiler.

    As long as nobody has imported the compiler, it cannot compile the function.
    """
    if fn is None:
        return functools.partial(not_compiled, recursive=recursive, reason=reason)
    marked = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal marked
        if marked is None and "torch._dynamo" in sys.modules:
            from torch import _dynamo

            marked = _dynamo.disable(fn, recursive, reason=reason)
        return (marked or fn)(*args, **kwargs)

    return call


def checked_on_call(target: Any = None, **options: Any) -> Any:
    """Check a function as ``typeguard.typechecked`` does, which works from its first call on.

    Classes, and functions within functions, are handed to typeguard as they are.
    """
    if isinstance(target, classmethod | staticmethod):
        return type(target)(checked_on_call(target.__func__, **options))
    plain = isinstance(target, FunctionType) and not hasattr(target, "__wrapped__")
    if not plain or "<locals>" in target.__qualname__:
        return typechecked(target, **options)
    checked = None

    @functools.wraps(target, updated=())  # nor does typeguard keep attributes of a function
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = typechecked(target, **options)
        return checked(*args, **kwargs)

    return call


class _LateModules(importlib.abc.MetaPathFinder):
    """Finds ``MODULES``, for a loader that waits until something is looked up in them."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in MODULES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LateLoader(spec.loader)
        return spec


class _LateLoader(importlib.abc.Loader):
    """Loads a module when something is looked up in it that an import does not give it.

    ``importlib.util.LazyLoader`` waits for any look: a second import already looks at
    ``__spec__``, and ``inspect`` at ``__file__`` of all modules.
    """

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).pop("__path__", None)  # who imports a module below it looks that up
        module.__class__ = _LateModule


class _LateModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        with _loading:  # another thread waits until all is there
            spec = self.__spec__
            if spec is not None and isinstance(late := spec.loader, _LateLoader):
                spec.loader = self.__loader__ = late.loader
                if spec.submodule_search_locations is not None:
                    self.__path__ = spec.submodule_search_locations
                try:
                    late.loader.exec_module(self)
                except BaseException:
                    spec.loader = late  # the next look tries again
                    raise
                self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]  # its base
        return ModuleType.__getattribute__(self, name)


_loading = threading.RLock()


@contextlib.contextmanager
def _with_finder(finder: Any) -> Iterator[None]:
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def _with_functions(functions: Mapping[str, str]) -> Iterator[None]:
    """Let modules be imported for one function each, which loads the module when it is called."""
    absent = {name: function for name, function in functions.items() if name not in sys.modules}
    sys.modules.update({name: _loaded_on_call(name, function) for name, function in absent.items()})
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _loaded_on_call(name: str, function: str) -> ModuleType:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(name), function)(*args, **kwargs)

    call.__name__ = call.__qualname__ = function
    module = ModuleType(name)
    setattr(module, function, call)
    return module


@contextlib.contextmanager
def _with_attribute(owner: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _without_note() -> Iterator[None]:
    notes = io.StringIO()
    try:
        with contextlib.redirect_stderr(notes):
            yield
    finally:
        for line in notes.getvalue().splitlines():
            if not line.startswith(NOTE):
                print(line, file=sys.stderr)
