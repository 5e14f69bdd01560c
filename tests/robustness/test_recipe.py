"""Outputs that are lost or cut come back by the same command; see ``recipe.py`` for all stages."""

import random
import re
from pathlib import Path

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
