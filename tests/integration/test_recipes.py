"""Recipes run as a user runs them, in a copy of the checkout whose path has a space.

One row a recipe: options, files that must exist, and what the results must hold.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.corpora import corpus_dir, small_librispeech, small_speechocean762

pytestmark = pytest.mark.xdist_group("recipes")


@dataclass(frozen=True)
class Recipe:
    """What to run and what to find afterwards."""

    name: str
    options: tuple[str, ...] = ()
    corpus: Callable[[Path], Path] | None = None  # lays the corpus out, or says where it is
    sets: tuple[str, ...] = ("test",)
    files: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def checkout(root, tmp_path_factory) -> Path:
    """A copy of the tracked and new files, in a folder with a space in its name."""
    copy = tmp_path_factory.mktemp("a clone") / "espnet spike"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() or (root / name).is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name, follow_symlinks=False)
    return copy


def run_recipe(checkout: Path, *options: str, cwd: Path | None = None, **popen) -> subprocess.Popen:
    """Start run.sh of the copy with this very environment."""
    return subprocess.Popen(
        ["bash", str(checkout / "run.sh"), "--env", str(Path(sys.prefix)), *options],
        cwd=cwd or checkout.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **popen,
    )


def finish(process: subprocess.Popen) -> str:
    """Return what a recipe printed; fail unless it exited with 0."""
    output = process.communicate(timeout=1200)[0]
    assert process.returncode == 0, output[-4000:]
    return output


# enough to see that every stage runs
SHORT = (
    *("--asr_args", "--max_epoch 1 --num_iters_per_epoch 2 --encoder_conf num_blocks=1"),
    *("--inference_args", "--beam_size 1 --maxlenratio 0.05", "--nj", "1"),
)
RECIPES = [
    Recipe(
        name="mini_an4",
        files=("data/train/text", "dump/fbank/train/feats.scp", "data/token_list/*/tokens.txt"),
    ),
    Recipe(
        name="fsdd",
        options=("--asr_args", "--max_epoch 1 --num_iters_per_epoch 3", "--nj", "1"),
        corpus=lambda target: corpus_dir("fsdd"),
        sets=("test_seen", "dev", "test"),
    ),
    Recipe(
        name="speechocean762",
        options=(*SHORT, "--valid_from_train", "0.2", "--test_sets", "test"),
        corpus=small_speechocean762,
    ),
    Recipe(
        name="librispeech",
        options=(
            *("--train_subset", "100", "--valid_from_train", "0.05", "--test_sets", "test_clean"),
            *("--asr_config", "conf/train_iml_spikeformer_small.yaml", "--nbpe", "60"),
            *("--inference_config", "conf/decode_ctc.yaml", *SHORT),
        ),
        corpus=small_librispeech,
        sets=("test_clean",),
        files=("data/train_100/text", "data/dev/text", "dump/fbank/train_100_sp/feats.scp"),
    ),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_leads_from_audio_to_a_table(checkout, recipe, tmp_path):
    corpus = recipe.corpus(tmp_path / "the corpus") if recipe.corpus else None
    given = ("--corpus_dir", str(corpus)) if corpus else ()
    options = ("--recipe", recipe.name, *given, *recipe.options)
    output = finish(run_recipe(checkout, *options))
    folder = checkout / "egs" / recipe.name
    assert f"results: {folder}/exp/RESULTS.md" in output
    made = ("RESULTS.md", "asr_*/report.html", "asr_*/pack.zip", "asr_*/config.yaml")
    for pattern in (*recipe.files, *(f"exp/{name}" for name in made)):
        assert list(folder.glob(pattern)), pattern

    (results,) = [json.loads(path.read_text()) for path in folder.glob("exp/asr_*/results.json")]
    assert results["parameters"] > 10_000
    for name in recipe.sets:
        scores = results["sets"][name]
        assert scores["wer"] >= 0 and len(scores["wer_ci"]) == 2 and scores["rtf"] > 0
        energy = scores["energy"]["horowitz45_fp32"]
        assert energy["compute"]["ratio"] > 0 and energy["source"] and not scores["uncovered"]
        assert 0 < scores["sparsity"]["firing_rate"] < 1
        hypotheses = next(folder.glob(f"exp/asr_*/*/{name}/text")).read_text().splitlines()
        assert len(hypotheses) == len((folder / f"data/{name}/text").read_text().splitlines())

    tables = (folder / "exp/RESULTS.md").read_text()
    assert "## Operations and energy" in tables
    assert "iml_spikeformer" in tables and str(checkout) not in tables
    if corpus:
        assert str(corpus) not in tables and "<corpus_dir>" in tables

    # the same command again finds everything done, whatever the folder it is given in
    again = finish(run_recipe(checkout, *options, "--inference_nj", "1", cwd=folder))
    assert " finished in " not in again
    assert again.count("done before") == output.count(" finished in ") >= 13


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def test_training_survives_ctrl_c_and_kill_9(checkout):
    folder = checkout / "egs/mini_an4"
    exp = folder / "exp/asr_interrupted"

    def options(epochs):
        return (
            "--asr_tag",
            "interrupted",
            "--stop_stage",
            "train",
            "--asr_args",
            f"--max_epoch {epochs}",
        )

    process = run_recipe(checkout, *options(50), start_new_session=True)
    wait_for(exp / "1epoch.pth", process)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output[-2000:]
    assert not (folder / "exp/.done/train_interrupted.json").exists()

    process = run_recipe(checkout, *options(50), start_new_session=True)
    wait_for(exp / "3epoch.pth", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)

    # more epochs may be asked for later, in the same folder; here it is fewer, to come to an end
    output = finish(run_recipe(checkout, *options(6)))
    assert "epoch 6/6" in output and "epoch 1/6" not in output
    assert (folder / "exp/.done/train_interrupted.json").exists()

    # anything else that changes is refused, with its name and a way out
    changed = run_recipe(checkout, *options(6)[:-1], "--max_epoch 6 --encoder_conf num_blocks=1")
    output = changed.communicate(timeout=300)[0]
    assert changed.returncode == 1
    assert "encoder_conf.num_blocks" in output and "--asr_tag" in output
