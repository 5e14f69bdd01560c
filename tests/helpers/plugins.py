"""Packages of other people beside the installed ones, for as long as a test needs them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from espnet2.tasks.asr import decoder_choices, encoder_choices

from espnet_spike.nn.neurons import factory

FOLDER = Path(__file__).resolve().parents[1] / "plugins"


@contextmanager
def kept_choices() -> Iterator[None]:
    """Put back, at the end, which encoders, decoders and neurons there are."""
    all_classes = (encoder_choices.classes, decoder_choices.classes, factory.NEURONS)
    kept = [(classes, dict(classes)) for classes in all_classes]
    try:
        yield
    finally:
        for classes, before in kept:
            classes.clear()
            classes.update(before)


@contextmanager
def installed_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the distributions in ``tests/plugins`` be installed within the context."""
    monkeypatch.syspath_prepend(str(FOLDER))
    factory.register_plugins.cache_clear()
    try:
        with kept_choices():
            yield
    finally:
        factory.register_plugins.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == "outside_package"]:
            del sys.modules[name]
