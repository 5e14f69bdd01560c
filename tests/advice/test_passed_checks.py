"""Checks that have passed are remembered by all that they depend on."""

import subprocess
import sys

import pytest

import espnet_spike
from espnet_spike.advice import passed_checks
from espnet_spike.advice.passed_checks import PassedChecks, check_key


def test_what_passed_is_known_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(passed_checks, "REMEMBERED", 3)
    passed = PassedChecks(tmp_path / "made" / "cache.json")
    assert "a" not in passed
    for key in "abcd":
        passed.add(key)
        assert key in passed
    assert "a" not in passed  # the oldest
    assert "b" in PassedChecks(tmp_path / "made" / "cache.json")
    passed.path.write_text("[dam")
    assert "b" not in passed
    passed.add("e")
    assert "e" in passed


def test_without_a_file_nothing_is_remembered():
    passed = PassedChecks(None)
    passed.add("a")
    assert "a" not in passed


@pytest.mark.parametrize("change", ["content", "option", "version", "code"])
def test_the_key_changes_with_what_the_check_depends_on(change, tmp_path, monkeypatch):
    config = tmp_path / "asr.yaml"
    config.write_text("encoder: transformer\n")
    package = tmp_path / "espnet_spike" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(espnet_spike, "__file__", str(package))
    options = {"asr_config": config, "asr_args": "", "lm_config": None}
    before = check_key(options)
    assert check_key(dict(reversed(options.items()))) == before
    if change == "content":
        config.write_text("encoder: conformer\n")
    elif change == "option":
        options["asr_args"] = "--max_epoch 3"
    elif change == "version":
        monkeypatch.setattr(passed_checks, "version", lambda name: "9")
    else:
        (package.parent / "new.py").write_text("x = 1\n")
    assert check_key(options) != before


@pytest.mark.parametrize("content", ["{", "{}", "[1, 2]", "null", "\xff"])
def test_a_damaged_memory_is_made_anew(tmp_path, content):
    (tmp_path / "c.json").write_text(content, encoding="latin-1")
    passed = PassedChecks(tmp_path / "c.json")
    assert "a" not in passed
    passed.add("a")
    assert "a" in passed


def test_a_memory_that_cannot_be_written_forgets(tmp_path):
    (tmp_path / "file").touch()
    passed = PassedChecks(tmp_path / "file/c.json")
    passed.add("a")
    assert "a" not in passed


def test_the_memory_costs_no_imports():
    code = "import sys, espnet_spike.advice.passed_checks; "
    code += "print({'torch', 'espnet2', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
