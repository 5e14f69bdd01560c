"""Outputs that are lost or cut come back by the same command; see ``recipe.py`` for all stages."""

import mmap
import os
import random
import re
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.robustness import recipe

# the stages that do not need ESPnet
LIGHT = ("--use_ngram", "true", "--stop_stage", "lm", "--nj", "1")


@pytest.mark.usefixtures("one_thread")
def test_what_is_deleted_or_cut_is_made_again(tmp_path, seed=1):
    run = recipe.Run(tmp_path / "a clone", LIGHT)
    status, said, changes = run()
    assert status == 0, said
    status, said, again = run()
    assert (status, again) == (0, 0), said  # nothing is made twice
    outputs = run.outputs()
    assert len(outputs) == len(run.steps) == 6
    rng = random.Random(seed)
    cases = [(step, rng.choice(files)) for step, files in outputs.items()]
    assert not list(recipe.damaged(run, cases, rng))
    wanted = run.contents()
    for share in (0.3, 0.6, 0.9):
        assert not recipe.killed(run, tmp_path / str(share), wanted, int(share * changes))


def test_a_kill_is_not_lost_among_threads(tmp_path):
    """What one thread of a process asks for must not keep another from being killed."""
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            sys.setswitchinterval(1e-6)
            sys.addaudithook(recipe._Killer(tmp_path, 400, mmap.mmap(-1, 8)))
            others = [threading.Thread(target=_read_for_ever, daemon=True) for _ in range(3)]
            for other in others:
                other.start()
            for number in range(500):
                (tmp_path / f"{number}").write_text("")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 400


def _read_for_ever():
    while True:
        os.listdir("/")


def test_a_run_that_is_not_killed_is_told(tmp_path, monkeypatch):
    like = SimpleNamespace(anew=lambda root: lambda moment: (0, "at its end", 7))
    with pytest.raises(recipe.NotKilled, match="change 9 never came: status 0\nat its end"):
        recipe.killed(like, tmp_path, {}, 9)


def test_every_stage_of_run_sh_is_in_the_long_form():
    """But the one of perturbed speed, an option, and the one that needs tools of hardware."""
    script = (recipe.ROOT / "run.sh").read_text()
    named = {name for name in re.findall(r"^stage_(\w+)\(\)", script, flags=re.MULTILINE)}
    options = " ".join(recipe.OPTIONS)
    assert "event_speech_mamba" in options and "--use_lm true" in options
    assert named == {
        *("data", "perturb", "fbank", "filter", "token", "lm", "stats", "train", "sparsify"),
        *("decode", "score", "count", "simulate", "report", "pack"),
    }


def test_damage(tmp_path: Path):
    rng = random.Random(1)
    path = tmp_path / "x"
    done = set()
    for _ in range(10):
        path.write_bytes(b"0123456789")
        done.add(recipe.damage(path, rng))
        assert not path.exists() or len(path.read_bytes()) < 9
    assert done == {"deleted", "cut"}
