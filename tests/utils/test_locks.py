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


def test_where_nothing_can_be_written_reading_needs_no_lock(tmp_path):
    (tmp_path / "file").touch()
    with locked([], [tmp_path / "file/a.lock"], "stage y") as held:
        assert held == []
