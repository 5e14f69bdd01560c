"""Both forms of an operation: compiled kernels, and torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from espnet_spike.nn.ops import backends

FORMS = ("compiled", "torch")


@contextmanager
def form(name: str) -> Iterator[None]:
    """Let operations run in one of ``FORMS``; in the first at least one has to find kernels."""
    choice, found = backends.compiled, []

    def compiled(x, operation):
        kernels = choice(x, operation) if name == "compiled" else None
        found.append(kernels)
        return kernels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "compiled", compiled)
        yield
    assert found, "no operation that has two forms was run"
    assert name == "torch" or any(found)
