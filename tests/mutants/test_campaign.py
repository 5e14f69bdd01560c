"""The campaign on a package of one line; and that its list fits the files there are."""

import os
import sys

import pytest

from tests.conftest import ROOT
from tests.mutants import __main__ as command
from tests.mutants import campaign
from tests.mutants.campaign import BROKEN, KILLED, SURVIVED, Mutant, StaleMutant
from tests.mutants.catalogue import MUTANTS


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A package of one function, a test that calls it, and another that does not."""
    monkeypatch.setattr(campaign, "HEAVY", ())
    monkeypatch.setattr(campaign, "OURS", (*campaign.OURS, "tiny_package"))
    copy = tmp_path / "checkout"
    (copy / "tests").mkdir(parents=True)
    (copy / "tiny_package.py").write_text("def larger(a, b):\n    return a if a > b else b\n")
    (copy / "tests/test_strong.py").write_text(
        "from tiny_package import larger\n\n\ndef test_it():\n    assert larger(1, 2) == 2\n"
    )
    (copy / "tests/test_weak.py").write_text("def test_it():\n    assert True\n")
    return copy


def mutant(tests="tests/test_strong.py", old="a > b", new="a < b", reason=""):
    return Mutant("tiny_package.py", old, new, tests, reason)


def test_a_mutant_is_found_or_not_and_taken_out_again(tree):
    path = tree / "tiny_package.py"
    before, stamp = path.read_text(), path.stat().st_mtime_ns
    assert campaign.run_tests(tree, "tests/test_strong.py")[0] == SURVIVED  # without a mutant
    verdict, printed = campaign.run(tree, mutant())
    assert verdict == KILLED and "assert 1 == 2" in printed
    assert campaign.run(tree, mutant("tests/test_weak.py"))[0] == SURVIVED
    assert (path.read_text(), path.stat().st_mtime_ns) == (before, stamp)
    assert "tiny_package" not in sys.modules and os.getcwd() != str(tree)


def test_tests_that_cannot_run_find_nothing(tree):
    assert campaign.run(tree, mutant(new="a >"))[0] == BROKEN  # no Python any more
    assert campaign.run(tree, mutant("tests/test_strong.py -k nothing_of_this_name"))[0] == BROKEN


def test_a_line_that_is_gone_is_an_error(tree):
    campaign.check(tree, [mutant()])
    for wrong, message in (
        (mutant(old="a >= b"), "0 times"),
        (mutant(old="a"), "times, not once"),
        (mutant(new="a > b"), "changes nothing"),
        (mutant(new="a\nb"), "more than a line"),
        (mutant("tests/test_gone.py"), "does not exist"),
        (Mutant("gone.py", "a", "b", ""), "No such file"),
    ):
        with pytest.raises(StaleMutant, match=message):
            campaign.check(tree, [wrong])


def test_the_list_fits_the_package():
    campaign.check(ROOT, MUTANTS)
    assert len(MUTANTS) >= 60 and len(set(MUTANTS)) == len(MUTANTS)
    rooms = (
        *("nn/neurons/", "nn/ops/imls_numba", "nn/ops/lif_numba", "nn/ops/triton/", "csrc/"),
        *("counting/", "counting/energy", "results/scoring", "results/bootstrap"),
        *("export/spike_", "export/reparameterize", "training/calibration"),
    )
    for room in rooms:
        assert sum(room in found.file for found in MUTANTS) >= 2, room


def test_the_command_lists_and_refuses(capsys, monkeypatch):
    assert command.main(["--list", "--only", "results/bootstrap"]) == 0
    assert "results/bootstrap.py" in capsys.readouterr().out
    stale = Mutant("espnet_spike/errors.py", "no such line", "x", "tests/test_errors.py")
    monkeypatch.setattr("tests.mutants.catalogue.MUTANTS", (stale,))
    assert command.main([]) == 1
    assert "0 times" in capsys.readouterr().out
