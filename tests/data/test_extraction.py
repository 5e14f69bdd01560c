"""Features in many processes: stretches of equal cost, failures, interruptions."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data import extraction
from espnet_spike.data.ark import ArkWriter
from espnet_spike.data.extraction import Task, run_tasks, split
from espnet_spike.errors import UserError


@given(
    st.dictionaries(st.text("abcd", min_size=1), st.floats(0, 100), max_size=30), st.integers(1, 9)
)
@settings(deadline=None)
def test_stretches_hold_every_utterance_in_order(costs, parts):
    stretches = split(costs, parts)
    assert [utt for stretch in stretches for utt in stretch] == sorted(costs)
    assert len(stretches) <= parts
    assert all(stretches)


def test_stretches_cost_about_the_same():
    costs = {f"{n:04d}": 1.0 + n % 7 for n in range(1000)}
    sums = [sum(costs[utt] for utt in stretch) for stretch in split(costs, 8)]
    assert len(sums) == 8
    assert max(sums) - min(sums) < 20


def task(target, make, count=6):
    costs = {f"u{n}": 1.0 for n in range(count)}
    return Task(target, costs, dict.fromkeys(costs, "ONE"), dict.fromkeys(costs, "s"), make)


def ones(utt):
    return np.ones((3, 2), np.float32), 0.1


def test_what_does_not_read_back_as_written_is_an_error(tmp_path, monkeypatch):
    """As when the disk loses what was written."""

    class Forgetful(ArkWriter):
        def __exit__(self, *details):
            super().__exit__(*details)
            with open(self._file.name, "r+b") as file:
                file.truncate(100)

    monkeypatch.setattr(extraction, "ArkWriter", Forgetful)
    with pytest.raises(UserError, match=r"u\d: .*damaged"):
        run_tasks([task(tmp_path / "f", ones)], 1)
    assert not (tmp_path / "f/feats.scp").exists()


def test_a_full_disk_is_an_error_that_says_so(tmp_path, monkeypatch):
    def full(self, key, matrix):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArkWriter, "write", full)
    for nj in (1, 2):  # in this process, and in workers
        with pytest.raises(UserError, match=r"f\S* cannot be written: No space left") as caught:
            run_tasks([task(tmp_path / "f", ones)], nj)
        assert "free disk space" in caught.value.hint
        assert not list((tmp_path / "f/data").iterdir())


def test_a_killed_process_is_an_error_and_not_a_hang(tmp_path):
    def die(utt):
        if utt == "u4":
            os.kill(os.getpid(), signal.SIGKILL)
        return ones(utt)

    with pytest.raises(UserError, match=r"was killed"):
        run_tasks([task(tmp_path / "f", die)], 2)
    assert not (tmp_path / "f/feats.scp").exists()


def test_a_bug_keeps_its_traceback(tmp_path):
    def broken(utt):
        return [][int(utt[1:])]

    with pytest.raises(IndexError) as caught:
        run_tasks([task(tmp_path / "f", broken)], 2)
    assert "in broken" in caught.value.__notes__[0]


def test_processes_end_with_their_parent(tmp_path):
    """A killed parent leaves no process behind, and the next run removes the half ark."""

    def slow(utt):
        (tmp_path / f"pid-{os.getpid()}").touch()
        time.sleep(0.05)
        return ones(utt)

    parent = multiprocessing.get_context("fork").Process(
        target=run_tasks, args=([task(tmp_path / "f", slow, count=10_000)], 2)
    )
    parent.start()
    while len(list(tmp_path.glob("pid-*"))) < 2:
        time.sleep(0.01)
    parent.kill()
    parent.join()
    workers = [int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")]
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    assert list((tmp_path / "f/data").glob(".feats.*"))
    run_tasks([task(tmp_path / "f", ones)], 2)
    assert not list((tmp_path / "f/data").glob(".feats.*"))


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_one_failure_stops_the_other_processes(tmp_path):
    def fail_or_work(utt):
        if utt == "u0":
            raise UserError("u0: cannot be used")
        time.sleep(0.2)
        return ones(utt)

    start = time.monotonic()
    with pytest.raises(UserError, match=r"u0: cannot be used"):
        run_tasks([task(tmp_path / "f", fail_or_work, count=200)], 2)
    assert time.monotonic() - start < 10
