import sys
from importlib import metadata

import pytest

from espnet_spike.bin import check_environment
from espnet_spike.utils.install import requirements


def test_this_environment_has_everything():
    assert check_environment.missing() == []


def test_what_is_missing_is_said_with_its_version():
    torch = metadata.version("torch")
    lines = check_environment.missing(["torch>=99", "no-such-package==1", "numpy", "torch!=99"])
    assert lines == [f"torch>=99 (installed: {torch})", "no-such-package==1 (not installed)"]


@pytest.mark.parametrize(
    ("version", "clause", "met"),
    [
        ("2.11.0+cu130", ">=2.11", True),
        ("2.9.1", ">=2.11", False),
        ("2.15.0", "<2.15", False),
        ("2.11.4", "==2.11.*", True),
        ("2.12.0", "==2.11.*", False),
        ("202611", "==202611", True),
    ],
)
def test_version_clauses(version, clause, met):
    assert check_environment._satisfies(version, clause) is met


def test_clauses_agree_with_packaging():
    packaging = pytest.importorskip("packaging.specifiers")
    for requirement in requirements():
        name = requirement.split(">")[0].split("=")[0].split("<")[0]
        spec = packaging.SpecifierSet(requirement[len(name) :])
        version = metadata.version(name)
        assert check_environment.missing([requirement]) == ([] if version in spec else [version])


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    assert "3.12" in check_environment.missing([])[0]
