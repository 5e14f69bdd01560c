"""The driver's options, without running a stage."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STAGES = (
    "data perturb fbank filter token lm stats train sparsify decode score count simulate report "
    "pack"
).split()


@pytest.fixture
def run_sh(root, tmp_path):
    """Call run.sh from another folder."""

    def call(*options, script=root / "run.sh"):
        return subprocess.run(
            ["bash", str(script), *options], cwd=tmp_path, capture_output=True, text=True
        )

    return call


def test_stages_have_stable_numbers_and_names(run_sh):
    result = run_sh("--list_stages")
    assert result.returncode == 0
    listed = re.findall(r"^ +(\d+) +(\w+)", result.stdout, flags=re.MULTILINE)
    assert listed == [(str(number), name) for number, name in enumerate(STAGES, start=1)]


def test_help_lists_every_option_with_its_default(run_sh, root):
    help_text = run_sh("--help").stdout
    block = (root / "run.sh").read_text().split("### options")[1].split("### end of options")[0]
    names = re.findall(r"^(\w+)=", block, flags=re.MULTILINE)
    assert len(names) > 40
    for name in names:
        assert f"--{name} " in help_text
    assert "[conf/train_iml_spikeformer.yaml]" in help_text


@pytest.mark.parametrize("recipe", ["mini_an4", "fsdd", "librispeech"])
def test_a_recipe_called_from_the_root_or_by_its_own_script_is_the_same(run_sh, root, recipe):
    options = ("--list_stages",)
    own = run_sh(*options, script=root / "egs" / recipe / "run.sh")
    assert run_sh("--recipe", recipe, *options).stdout == own.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stge", "3"], "did you mean 'stage'"),
        (["--asr-confg=x"], "did you mean 'asr_config'"),
        (["--token_type", "bqe"], "did you mean 'bpe'"),
        (["--nbpe", "many"], "--nbpe takes a number"),
        (["--use_lm", "maybe"], "--use_lm"),
        (["--nbpe"], "--nbpe needs a value"),
        (["3"], "unexpected argument '3'"),
        (["--stage", "fban"], "did you mean 'fbank'"),
        (["--stop-stage", "16"], "no such stage"),
        (["--recipe", "fsd"], "no recipe 'fsd'"),
        (["--corpus_dir", "nowhere"], "nowhere: no such folder"),
        (["--asr_config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--ngpu", "64"], "--ngpu 64"),
        (["--test_sets", ""], "--test_sets is empty"),
        (["--num_nodes", "2"], "give --dist_launcher torchrun or slurm"),
        (["--num_nodes", "2", "--dist_launcher", "torchrun"], "needs --master_addr"),
        (["--dist_launcher", "slurm"], "say --ngpu N"),
        (["--dist_launcher", "torchrn"], "did you mean 'torchrun'"),
        (["--dist_launcher", "torchrun", "--node_rank", "1"], "they count from 0"),
    ],
)
def test_a_wrong_option_stops_before_any_work_and_says_what_is_known(run_sh, options, said):
    result = run_sh(*options)
    assert result.returncode != 0
    assert said in result.stderr
    assert "stage" not in result.stdout


@pytest.fixture
def checkout(root, tmp_path):
    """A checkout with a recipe that has options of its own."""
    copy = tmp_path / "check out"
    shutil.copytree(root / "local", copy / "local")
    shutil.copytree(root / "conf", copy / "conf")
    shutil.copy2(root / "run.sh", copy)
    recipe = copy / "egs/mine"
    (recipe / "local").mkdir(parents=True)
    (recipe / "local/data.sh").touch()
    script = (root / "egs/librispeech/run.sh").read_text()
    block = """### options
size=big                   # how much {big|small}
loud=false                 # shout
### end of options
"""
    script = re.sub(r"### options.*### end of options\n", block, script, flags=re.DOTALL)
    end = """recipe_options "$here/run.sh" "$@"
exec bash "$root/run.sh" --recipe_dir "$here" --train_set "train_$size" -- "$@"
"""
    (recipe / "run.sh").write_text(script[: script.index("recipe_options ")] + end)
    return copy


def test_a_recipe_may_have_options_of_its_own(run_sh, checkout):
    """They stand among all others, wherever it is called from, and reach its local/data.sh."""
    options = ("--env", sys.prefix, "--dry_run", "--stop_stage", "data")
    root, recipe = checkout / "run.sh", checkout / "egs/mine/run.sh"
    for result in (
        run_sh("--recipe", "mine", "--size", "small", "--loud", *options, script=root),
        run_sh(*options, "--loud=true", "--size=small", script=recipe),
    ):
        assert result.returncode == 0, result.stderr
        assert "bash local/data.sh --size small --loud true" in result.stdout
        assert "data/train_small" in result.stdout
    assert "local/data.sh --size big --loud false" in run_sh(*options, script=recipe).stdout


def test_a_recipes_own_options_are_checked_and_in_its_help(run_sh, checkout):
    root, recipe = checkout / "run.sh", checkout / "egs/mine/run.sh"
    for name, script in ((("--recipe", "mine"), root), ((), recipe)):
        assert "did you mean 'size'" in run_sh(*name, "--sise", "big", script=script).stderr
        assert "--size takes big small" in run_sh(*name, "--size", "huge", script=script).stderr
        help_text = run_sh(*name, "--help", script=script).stdout
        assert re.search(r"Of the recipe egs/mine/run.sh\n +--size +how much", help_text)
        assert "--nbpe" in help_text
    assert "unknown option --size" in run_sh("--size", "big", script=root).stderr
    recipe.write_text(recipe.read_text().replace("loud=false", "nbpe=7"))
    assert "--nbpe is an option of every recipe" in run_sh(script=recipe).stderr


def test_training_is_started_on_several_machines(run_sh, checkout):
    """A machine but the first only joins in training; Slurm starts them by itself."""

    def shown(*options):
        call = ("--recipe", "mine", "--env", sys.prefix, "--dry_run", "--stage", "stats")
        result = run_sh(*call, "--stop_stage", "train", *options, script=checkout / "run.sh")
        assert result.returncode == 0, result.stderr
        stats, train = result.stdout.split("stage 7 stats: ")[1].split("stage 8 train: ")
        return stats, " ".join(train.split())

    python = shlex.quote(sys.executable)  # as the driver shows it, also in a folder with a space
    torchrun = ("--dist_launcher", "torchrun", "--ngpu", "0", "--num_nodes", "2")
    for rank in "01":
        stats, train = shown(*torchrun, "--master_addr", "first", "--node_rank", rank)
        assert ("would run" in stats) == (rank == "0")
        assert (
            "torchrun --no-python --nproc-per-node 1 --nnodes 2 --node-rank "
            f"{rank} --master-addr first --master-port 29500 {python} -m" in train
        )
        assert "--ngpu 0 --multiprocessing_distributed false --dist_backend gloo" in train
    slurm = ("--dist_launcher", "slurm", "--ngpu", "4", "--num_nodes", "2")
    stats, train = shown(*slurm, "--slurm_args", "--partition gpu")
    assert "srun" not in stats
    assert (
        "srun --nodes 2 --ntasks-per-node 1 --kill-on-bad-exit=1 --gpus-per-node 4 --partition gpu "
        f"{python} -m" in train
    )
    assert "--ngpu 4 --dist_launcher slurm --multiprocessing_distributed true" in train


def test_shell_scripts_are_clean(root):
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    scripts = [
        root / "run.sh",
        root / ".ci/run",
        *root.glob("local/*.sh"),
        *root.glob("egs/**/*.sh"),
    ]
    result = subprocess.run(
        [shellcheck, "-x", *map(str, scripts)], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_an_environment_of_ones_own_is_checked(root, tmp_path):
    fake = tmp_path / "my env" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    # an interpreter without site-packages has nothing installed
    fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    fake.chmod(0o755)
    command = ["bash", str(root / "local/env.sh"), "--env", str(tmp_path / "my env")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "espnet==202611 (not installed)" in result.stderr
    command[-1] = str(tmp_path)
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and "no interpreter" in result.stderr


def test_a_default_config_is_the_recipes_and_a_given_one_is_looked_up_from_here(run_sh, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train_iml_spikeformer.yaml").write_text("encoder: from_here\n")
    stop = (
        "--test_sets",
        "test",
        "--lm_config",
        "none.yaml",
        "--use_lm",
    )  # stops after the look-up
    assert "\nasr_config: conf/train_iml_spikeformer.yaml\n" in "\n" + run_sh(*stop).stdout
    given = run_sh("--asr_config", "conf/train_iml_spikeformer.yaml", *stop)
    assert f"asr_config: {tmp_path}/conf/train_iml_spikeformer.yaml" in given.stdout


def test_the_rows_of_speech_mamba_are_calls_of_run_sh(run_sh, root):
    script = root / "egs/fsdd/speech_mamba.sh"
    result = run_sh("--seeds", "1 2", "--rows", "relu naive", "--list_stages", script=script)
    assert result.returncode == 0
    assert result.stdout == 4 * run_sh("--list_stages").stdout
    assert "no row 'rely'" in run_sh("--rows", "rely", "--list_stages", script=script).stderr
