import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_spike.utils.files import write_json
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


def unwritable(monkeypatch):
    """Refuse to open files for writing, as for a user without the right; root has it always."""
    plain = Path.open

    def opened(self, mode="r", *args, **kwargs):
        if mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return plain(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


def test_who_cannot_write_waits_for_a_writer_of_another_user(tmp_path, monkeypatch):
    writer, flag = hold("write", tmp_path)
    wait_for(flag)
    unwritable(monkeypatch)
    with locked([], [tmp_path / "a.lock"], "stage y") as held:
        assert len(held) == 1 and not flag.exists()
    with pytest.raises(PermissionError), locked([tmp_path / "a.lock"], [], "stage y"):
        pass
    assert writer.wait(10) == 0


def test_a_reader_without_a_lock_sees_old_or_new_but_no_half(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, [0] * 1000)
    code = """
import sys
from pathlib import Path
from espnet_spike.utils.files import write_json
for number in range(1, 400):
    write_json(Path(sys.argv[1]), [number] * 1000)
"""
    unwritable(monkeypatch)
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        seen = set()
        with locked([], [tmp_path / ".done/x.lock"], "stage y") as held:
            assert held == []
            while writer.poll() is None:
                with open(path) as file:
                    numbers = set(json.load(file))
                assert len(numbers) == 1
                seen |= numbers
    assert writer.returncode == 0 and len(seen) > 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EIO])
def test_what_is_no_matter_of_permission_is_told(tmp_path, monkeypatch, number):
    """Where others can write and this process cannot for now, reading needs its lock."""

    def fails(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(OSError), locked([], [tmp_path / "x.lock"], "stage y"):
        pass
