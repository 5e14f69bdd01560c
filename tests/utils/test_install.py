"""Commands that install what is missing."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

from espnet_spike.utils import install
from espnet_spike.utils.install import how_to_install, requirements


@pytest.fixture
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture
def no_checkout(monkeypatch):
    monkeypatch.setattr(install, "checkout", lambda: None)


def test_requirements_are_those_of_pyproject(project):
    assert requirements() == project["dependencies"]
    for extra, wanted in project["optional-dependencies"].items():
        assert requirements(extra) == wanted
    with pytest.raises(ValueError, match="no extra 'onxn'"):
        requirements("onxn")


def test_outside_a_checkout_they_are_those_of_the_installed_package(no_checkout, monkeypatch):
    lines = ["espnet==202611", "torch<2.15,>=2.11", 'nir<2,>=1.0.8; extra == "nir"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert requirements() == ["espnet==202611", "torch<2.15,>=2.11"]
    assert requirements("nir") == ["nir<2,>=1.0.8"]


def test_the_environment_of_the_checkout_is_completed_from_the_locked_list(root, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    command = shlex.split(how_to_install("onnx"))
    assert command == ["bash", str(root / "local/env.sh"), "--group", "test"]
    usage = subprocess.run([*command[:2], "--help"], capture_output=True, text=True)
    assert "--group" in usage.stdout
    # which has not every extra
    assert "sounddevice>=0.5,<1" in shlex.split(how_to_install("microphone"))


@pytest.mark.parametrize(
    ("pip", "uv", "words"),
    [
        (True, True, [sys.executable, "-m", "pip", "install"]),
        (False, True, ["uv", "pip", "install", "--python", sys.executable]),
        (False, False, [sys.executable, "-m", "ensurepip", "&&", sys.executable, "-m", "pip"]),
    ],
)
def test_elsewhere_the_installer_that_is_there_gets_the_packages(
    pip, uv, words, tmp_path, monkeypatch, project
):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pip or None)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/uv" if uv else None)
    command = shlex.split(how_to_install("cluster"))
    assert command[: len(words)] == words
    assert command[-3:] == project["optional-dependencies"]["cluster"]


def test_the_readme_names_no_command_that_fails_where_there_is_no_pip(root):
    # the package is on no index under its name, and the .venv of a checkout has no pip
    for path in [root / "README.md", *root.glob("egs/*/README.md")]:
        assert not re.search(r"pip\s+install\s+'?espnet_spike", path.read_text()), path
