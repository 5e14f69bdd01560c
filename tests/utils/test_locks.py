import os
import subprocess
import sys
import time

from espnet_spike.utils.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from espnet_spike.utils.locks import locked
kind, path, flag = sys.argv[1:]
with locked([path] if kind == "write" else [], [path] if kind == "read" else [], "stage x"):
    Path(flag).touch()
    time.sleep(0.3)
    Path(flag).unlink()
"""


def hold(kind, tmp_path):
    """Start a process that holds a lock, and a file while it does."""
    flag = tmp_path / f"held.{os.urandom(3).hex()}"
    words = [sys.executable, "-c", HOLD, kind, str(tmp_path / "a.lock"), str(flag)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True), flag


def wait_for(flag):
    while not flag.exists():
        time.sleep(0.01)


def test_readers_share_and_a_writer_waits_for_them(tmp_path):
    reader, flag = hold("read", tmp_path)
    wait_for(flag)
    with locked([], [tmp_path / "a.lock"], "stage y"):
        assert flag.exists()
    with locked([tmp_path / "a.lock"], [], "stage y"):
        assert not flag.exists()
    assert reader.wait(10) == 0


def test_who_waits_says_for_whom(tmp_path, capsys):
    writer, flag = hold("write", tmp_path)
    wait_for(flag)
    with locked([], [tmp_path / "a.lock"], "stage y"):
        assert not flag.exists()
    assert f"stage y: waiting for process {writer.pid}" in capsys.readouterr().out
    assert writer.wait(10) == 0


def test_one_at_a_time_and_no_lock_is_left(tmp_path):
    code = """
import sys, time
from pathlib import Path
from espnet_spike.utils.locks import alone
for _ in range(20):
    with alone(Path(sys.argv[1]), "x"):
        Path(sys.argv[2]).mkdir()
        time.sleep(0.002)
        Path(sys.argv[2]).rmdir()
"""
    words = [sys.executable, "-c", code, str(tmp_path / "a.lock"), str(tmp_path / "inside")]
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_reading_needs_no_lock(tmp_path):
    (tmp_path / "file").touch()
    with locked([], [tmp_path / "file/a.lock"], "stage y") as held:
        assert held == []
