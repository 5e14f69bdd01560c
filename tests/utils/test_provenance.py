import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.utils import provenance
from tests.conftest import ROOT


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("./run.sh --corpus_dir /data/x --stage 3", "./run.sh --corpus_dir <corpus_dir> --stage 3"),
        ("./run.sh --corpus-dir=/data/x", "./run.sh --corpus-dir=<corpus_dir>"),
        ("./run.sh --corpus_dir '/my data'", "./run.sh --corpus_dir <corpus_dir>"),
        ("x --asr_args '--max_epoch 3'", "x --asr_args '--max_epoch 3'"),
        ("x --lm_exp ''", "x --lm_exp ''"),
        ("x /etc/secret/y.yaml", "x <path>/y.yaml"),
        ("x /corpus/wavs", "x <corpus_dir>/wavs"),
        ("x --asr_args '--init /a/b.pth --lr 1'", "x --asr_args '--init <path>/b.pth --lr 1'"),
        ('x "it\'s"', "x 'it'\"'\"'s'"),
        ("x --=a --b= --c=d", "x --=a --b= --c=d"),
    ],
)
def test_commands_without_the_paths_of_this_machine(command, shown):
    assert provenance.portable(command, Path("/corpus")) == shown


def test_paths_below_the_recipe_and_the_checkout_become_relative(recipe):
    option = shlex.quote(f"--config={recipe}/conf/a.yaml")
    assert provenance.portable(f"x {option}") == "x --config=conf/a.yaml"
    inside = shlex.quote(f"{ROOT}/conf/a.yaml")
    assert provenance.portable(f"x {inside}") == "x conf/a.yaml"
    assert provenance.portable_path(Path("conf/a.yaml")) == "conf/a.yaml"
    assert provenance.portable_path(Path("conf/../b.yaml")) == "b.yaml"


words = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))


@given(words)
def test_no_word_of_a_command_is_lost(words):
    shown = provenance.portable(shlex.join(words))
    # our own angle brackets are not for the shell, but hold no spaces either
    assert len(shlex.split(shown)) == len(words)


def test_git_hash_tells_a_changed_checkout(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    assert provenance.git_hash(tmp_path) == "not a git checkout"
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    clean = provenance.git_hash(tmp_path)
    assert len(clean) == 12
    (tmp_path / "a").write_text("2")
    assert provenance.git_hash(tmp_path) == f"{clean}-dirty"
