"""Names and classes of plugins."""

from abc import ABC, abstractmethod
from importlib.metadata import EntryPoint

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils import plugins


class Base(ABC):
    @abstractmethod
    def work(self):
        """Do something."""


class Whole(Base):
    def work(self):
        return 1


class Other(Whole):
    pass


class Partial(Base):
    pass


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("Tool", Whole, "tool name 'Tool' is not lower case"),
        ("tool", str, "not a subclass of Base"),
        ("tool", Whole(), "not a subclass of Base"),
        ("tool", Partial, "Partial has no work"),
    ],
)
def test_classes_that_are_refused(name, cls, message):
    with pytest.raises(UserError, match=message):
        plugins.check_class("tool", name, cls, Base)


def test_a_name_belongs_to_one_class():
    plugins.check_class("tool", "tool", Whole, Base)
    for free in (None, Whole, plugins.place(Whole)):
        plugins.check_free("tool", "tool", Whole, free)
    for taken in (Other, plugins.place(Other)):
        with pytest.raises(UserError, match=r"'tool' is taken by .*\.Other"):
            plugins.check_free("tool", "tool", Whole, taken)


def entry(name, value):
    return EntryPoint(name, value, "tools")


def test_a_plugin_is_loaded_or_says_why_not(caplog):
    here = f"{__name__}:Whole"
    assert plugins.load(entry("tool", here), "tool", Base, {}) == (Whole, "")
    for point, taken, reason in (
        (entry("tool", "no_such_module:Tool"), {}, "ModuleNotFoundError"),
        (entry("tool", f"{__name__}:Partial"), {}, "Partial has no work"),
        (entry("tool", here), {"tool": Other}, "taken by"),
    ):
        cls, why = plugins.load(point, "tool", Base, taken)
        assert cls is None and reason in why
        assert f"tool plugin {plugins.origin(point)}: " in caplog.text
        error = plugins.unusable(point, "tool", why)
        assert plugins.distribution_of(point) in error.message and reason in error.message


def test_no_group_has_no_plugins():
    assert plugins.installed("a group that nobody has") == []
