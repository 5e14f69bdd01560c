"""Outputs that are lost or cut come back by the same command; see ``recipe.py`` for all stages."""

import mmap
import os
import random
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.robustness import recipe

# the stages that do not need ESPnet
LIGHT = ("--use_ngram", "true", "--stop_stage", "lm", "--nj", "1")


@pytest.mark.usefixtures("one_thread")
def test_what_is_deleted_or_cut_is_made_again(tmp_path, seed=1):
    run = recipe.Run(tmp_path / "a clone", LIGHT)
    changes = []
    for step in range(len(run.steps)):
        status, said, count = run(step=step)
        assert status == 0, said
        changes.append(count)
    status, said, again = run()
    assert (status, again) == (0, 0), said  # nothing is made twice
    outputs = run.outputs()
    assert len(outputs) == len(run.steps) == 6
    rng = random.Random(seed)
    cases = [(step, rng.choice(files)) for step, files in outputs.items()]
    assert not list(recipe.damaged(run, cases, rng))
    deaths = recipe.killed(run, tmp_path / "killed", changes, 9, rng)
    assert not deaths.wrong and len(deaths.kills) == 9
    assert {kill.split(",")[0] for kill in deaths.kills} == {f"step {n}" for n in range(1, 7)}


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


class _Deathless:
    """A recipe of two steps that comes to its end whatever happens."""

    def anew(self, root):
        return self

    def __call__(self, kill=-1, step=None):
        return 0, "at its end", 7

    def contents(self):
        return {"x": "1"}


def test_a_run_that_is_not_killed_is_told(tmp_path):
    deaths = recipe.killed(_Deathless(), tmp_path, [7, 7], 3, random.Random(1))
    assert deaths.wrong == ["0 of 3 were killed"]


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


def test_a_model_that_is_saved_anew_is_the_same(tmp_path: Path):
    path, state = tmp_path / "2epoch.pth", {"a": torch.arange(3.0), "b": torch.ones(2)}
    torch.save(state, path)
    first, content = recipe._content(path), path.read_bytes()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes() != content and recipe._content(path) == first
    for other in (state | {"a": torch.arange(3.0) + 1}, state | {"c": torch.ones(1)}):
        torch.save(other, path)
        assert recipe._content(path) != first
    path.write_bytes(content[:50])
    assert recipe._content(path) != first
