"""The driver's options, without running a stage."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STAGES = (
    "data perturb fbank filter token lm stats train sparsify decode score count simulate report "
    "pack"
).split()


@pytest.fixture
def run_sh(root, tmp_path):
    """Call run.sh from another folder."""

    def call(*options, script=root / "run.sh", cwd=tmp_path):
        return subprocess.run(
            ["bash", str(script), *options], cwd=cwd, capture_output=True, text=True
        )

    return call


def test_stages_have_stable_numbers_and_names(run_sh):
    result = run_sh("--list_stages")
    assert result.returncode == 0
    listed = re.findall(r"^ +(\d+) +(\w+)", result.stdout, flags=re.MULTILINE)
    assert listed == [(str(number), name) for number, name in enumerate(STAGES, start=1)]


def test_help_lists_every_option_with_its_default(run_sh, root):
    result = run_sh("--help")  # of a recipe without options of its own
    assert result.returncode == 0
    help_text = result.stdout
    assert " 15 pack " in help_text
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
        (["--nbpe", "many"], "--nbpe takes a whole number"),
        (["--use_lm", "maybe"], "--use_lm"),
        (["--nbpe"], "--nbpe needs a value"),
        (["3"], "unexpected argument '3'"),
        (["--stage", "fban"], "did you mean 'fbank'"),
        (["--stop-stage", "16"], "no such stage"),
        (["--recipe", "fsd"], "no recipe 'fsd'"),
        (["--corpus_dir", "nowhere"], "nowhere: no such folder"),
        (["--asr_config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--energy_model", "horowitz45"], "horowitz45: no such file in conf/energy"),
        (["--twin_exp", "exp/asr_nowhere"], "exp/asr_nowhere: no trained experiment"),
        (["--count_forms", "maybe"], "--count_forms"),
        (["--ngpu", "64"], "--ngpu 64"),
        (["--test_sets", ""], "--test_sets is empty"),
        (["--fs", "fast", "--dry_run"], "--fs fast"),
        (["--fs", "0"], "--fs 0"),
        (["--asr_tag", "../x"], "--asr_tag ../x"),
        (["--inference_tag", ".."], "--inference_tag .."),
        (["--lm_tag", "a/b"], "--lm_tag a/b"),
        (["--lm_tag", "mine"], "--lm_tag mine without --use_lm true"),
        (["--lm_config", "conf/lm.yaml"], "without --use_lm true"),
        (["--lm_train_text", "a.txt"], "without --use_lm true or --use_ngram true"),
        (["--ngram_order", "4"], "--ngram_order 4 without --use_ngram true"),
        (["--nbpe", "50", "--token_type", "char"], "--nbpe 50 without --token_type bpe"),
        (["--master_addr", "host"], "--master_addr host without --dist_launcher torchrun"),
        (["--slurm_args", "-p gpu"], "--slurm_args -p gpu without --dist_launcher slurm"),
        (["--inference_asr_model", "/exp/a.pth"], "by path within the experiment"),
        (["--inference_asr_model", "../asr_b/a.pth"], "by path within the experiment"),
        (["--inference_asr_model", "conversion"], "give model files (*.pth)"),
        (["--inference_asr_model", "a.pth b.pth a.pth"], "a.pth is given twice"),
        (["--test_sets", "test a/b"], "--test_sets a/b"),
        (["--speed_perturb_factors", "0.9 fast"], "--speed_perturb_factors 0.9 fast"),
        (["--ngram_order", "1"], "--ngram_order 1"),
        (
            ["--speed_perturb_factors", "0.9", "--feats_type", "extracted"],
            "leave one of the two out",
        ),
        (["--min_frames", "50", "--max_frames", "20"], "--min_frames 50 is above"),
        (["--simulate_utterances", "0"], "--simulate_utterances 0"),
        (["--nbpe", "0"], "--nbpe 0"),
        (["--inference_nj", "0"], "--inference_nj 0"),
        (["--naive_sparsity", "1.5"], "--naive_sparsity 1.5"),
        (["--allow_dropped", "-1"], "--allow_dropped takes a whole number"),
        (["--num_nodes", "08"], "--num_nodes takes a whole number"),
        (["--min_free_gb", "1.5"], "--min_free_gb takes a whole number"),
        (["--min_free_gb", "123456789012345678", "--dry_run"], "GB up to 1000000"),
        (["--ngpu", "08", "--dry_run"], "--ngpu takes a whole number or auto"),
        (["--seed", "4294967296", "--dry_run"], "--seed 4294967296"),
        (["--master_port", "65536", "--dry_run"], "--master_port 65536"),
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


@pytest.fixture(scope="session")
def passed_checks(tmp_path_factory):
    """Where all checkouts remember the configurations that passed: checking one takes seconds."""
    return tmp_path_factory.mktemp("passed checks")


@pytest.fixture
def checkout(root, tmp_path, passed_checks):
    """A checkout with a recipe that has options of its own."""
    copy = tmp_path / "check out"
    shutil.copytree(root / "local", copy / "local")
    shutil.copytree(root / "conf", copy / "conf")
    shutil.copy2(root / "run.sh", copy)
    recipe = copy / "egs/mine"
    (recipe / "local").mkdir(parents=True)
    (recipe / "exp").mkdir()
    (recipe / "exp/.cache").symlink_to(passed_checks)
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


def test_a_dry_run_makes_nothing(run_sh, checkout):
    recipe = checkout / "egs/mine"
    shutil.rmtree(recipe / "exp")
    before = {path for path in checkout.rglob("*")}
    options = ("--dry_run", "--skip_train", "--skip_eval", "--stop_stage", "data")
    result = run_sh("--env", sys.prefix, *options, script=recipe / "run.sh")
    assert result.returncode == 0 and "bash local/data.sh" in result.stdout
    assert {path for path in checkout.rglob("*")} == before


def test_a_message_and_its_hint_have_lines_of_their_own(root):
    script = f'. "{root}/local/driver.sh"; current_stage="13 simulate"; skip "$1"'
    lack = "error: the simulator needs zig\n  hint: install the extra sim"
    done = subprocess.run(["bash", "-c", script, "bash", lack], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "stage 13 simulate: skipped, the simulator needs zig",
        "  hint: install the extra sim",
    ]


def test_a_dry_run_of_rows_prints_the_plan_of_the_first_and_a_line_of_each(root, tmp_path):
    (tmp_path / "conf").mkdir()
    for model in ("iml_spikeformer", "speech_mamba"):
        (tmp_path / f"conf/train_{model}_augmented.yaml").touch()
    script = tmp_path / "run.sh"
    script.write_text('#!/bin/sh\necho "plan of $*"\necho "checked $2" >&2\n')
    script.chmod(0o755)
    rows = f'. "{root}/local/rows.sh"; row_options "iml dense" "$@"; augmented_rows "{tmp_path}" ""'

    def call(*options):
        words = ["bash", "-euo", "pipefail", "-c", rows, "bash", "--seeds", "1 2", *options]
        return subprocess.run(words, capture_output=True, text=True, check=True)

    for words in (["--dry_run"], ["--dry-run=true"], ["--dry_run", "true"]):
        done = call(*words)
        lines = done.stdout.splitlines()
        assert [line[: line.index(":")] for line in lines if line.startswith("row ")] == [
            "row iml, seed 1",
            "row dense, seed 1",
            "row iml, seed 2",
            "row dense, seed 2",
        ]
        assert len(lines) == 5 and lines[1].startswith("plan of --asr_config")
        assert len(done.stderr.splitlines()) == 2  # every row is checked once
    for words in ([], ["--dry_run=false"], ["true"]):
        assert len(call(*words).stdout.splitlines()) == 4


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
        return stats, " ".join(shlex.split(train))  # quotes depend on the folder

    python = sys.executable
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


@pytest.mark.parametrize(
    ("options", "lines", "expected"),
    [
        ([], (20, 12), 3),
        ([], (20, 2), 1),
        ([], (400, 40), 4),
        (["--ngpu", "2"], (20, 2), 2),  # as asked for
        (["--dist_launcher", "torchrun"], (20, 8), 2),
    ],
    ids=str,
)
def test_auto_takes_as_many_gpus_as_the_data_allow(
    run_sh, checkout, tmp_path, monkeypatch, options, lines, expected
):
    seen = tmp_path / "bin"
    seen.mkdir()
    (seen / "nvidia-smi").write_text("#!/bin/sh\nfor i in 0 1 2 3; do echo GPU $i: a; done\n")
    (seen / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{seen}:{os.environ['PATH']}")
    for name, count in zip(("train", "dev"), lines, strict=True):
        folder = checkout / "egs/mine/dump/fbank" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text("".join(f"u{i} a\n" for i in range(count)))
    call = ("--recipe", "mine", "--env", sys.prefix, "--dry_run", "--stage", "train")
    result = run_sh(*call, "--stop_stage", "train", *options, script=checkout / "run.sh")
    assert result.returncode == 0, result.stderr
    assert (f"{expected} of 4 GPUs" in result.stdout) == (expected < 4 and "--ngpu" not in options)
    if "torchrun" in options:
        assert f"--nproc-per-node {expected} " in result.stdout
    else:
        assert f"--ngpu {expected} " in " ".join(shlex.split(result.stdout))


def test_a_twin_that_is_named_has_to_be_there_before_the_training_alone(
    root, run_sh, checkout, tmp_path
):
    path = root / "egs/an4/conf/train_spiking_speech_mamba_from_dense_ilif_cepstra.yaml"
    config = yaml.safe_load(path.read_text())
    config["spike_meta"] = {"input_size": 80, "init_from": "exp/asr_none"}
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(config))
    call = ("--recipe", "mine", "--env", sys.prefix, "--dry_run", "--asr_config")
    for stages, refused in (("7 8", True), ("9 9", False), ("6 7", False), ("8 10", True)):
        first, last = stages.split()
        options = (*call, str(tmp_path / "named.yaml"), "--stage", first, "--stop_stage", last)
        result = run_sh(*options, script=checkout / "run.sh")
        assert ("init_from: no trained twin in exp/asr_none" in result.stderr) == refused
        assert (result.returncode == 0) != refused, result.stderr


def test_a_command_that_cannot_be_noted_down_stops_nothing(root, tmp_path):
    (tmp_path / "file").touch()
    script = """
set -euo pipefail
. "$1/local/driver.sh"
dry_run=false called_as="./run.sh --x"
note_command "$2/exp/asr_x"; note_command "$2/file/asr_x"; dry_run=true; note_command "$2/dry"
"""
    words = ["bash", "-c", script, "bash", str(root), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "exp/asr_x/commands.txt").read_text() == "./run.sh --x\n"
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("asked", "content"),
    [
        ("twin", "spike_meta:\n  init_from: twin\n"),
        ("twin", "spike_meta:\n  distill: twin  # and nothing else\n"),
        ("twin", "spike_meta:\n  init_from:\n    from:   'twin'\r\n"),
        ("twin", 'spike_meta: {"init_from": {"from": "twin"}, distill: {from: twin}}\n'),
        ("", "spike_meta:\n  init_from: exp/asr_twin\n  distill: twins  # from: twin\n"),
        ("", "spike_meta:\n  init_from: twin_of_mine\n  # sparsify: {}\n"),
        ("sparsify", "spike_meta:\n  sparsify:\n    order: network\n"),
        ("sparsify", "spike_meta: {sparsify: {order: network}}\n"),
        ("sparsify", "spike_meta:\n\n  'sparsify' : {order: network}\n"),
        ("", "model_conf:\n  desparsify: x\n"),
    ],
)
def test_what_a_config_asks_for_is_seen_in_every_style_of_yaml(root, tmp_path, asked, content):
    (tmp_path / "train.yaml").write_text(content)
    script = """. "$1/local/driver.sh"
! asks_for_twin "$2" || echo twin
! asks_to_sparsify "$2" || echo sparsify"""
    words = ["bash", "-c", script, "bash", str(root), str(tmp_path / "train.yaml")]
    assert subprocess.run(words, capture_output=True, text=True).stdout.strip() == asked


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


def test_python_settings_of_a_user_do_not_reach_our_environment(root, tmp_path):
    for name in ("theirs/espnet2", "mine/my_encoders"):
        (tmp_path / name).mkdir(parents=True)
    script = f"""
root='{root}'
. "$root/local/parse_options.sh"
isolate_python
echo "$PYTHONPATH|${{PYTHONHOME-unset}}|$PYTHONNOUSERSITE|$PYTHONSAFEPATH"
"""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    env = os.environ | {"PYTHONPATH": f"{theirs}:{mine}:{root}", "PYTHONHOME": "/nowhere"}
    words = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{mine}:{root}|unset|1|1"
    assert f"PYTHONPATH: {theirs} is left out, which has another espnet2" in done.stderr


def test_cdpath_leads_no_script_astray(root, tmp_path):
    (tmp_path / "egs/mini_an4").mkdir(parents=True)
    env = os.environ | {"CDPATH": f"{tmp_path}:{root}"}
    for script in ("run.sh", "egs/mini_an4/run.sh"):
        words = ["bash", script, "--list_stages"]
        done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, check=True)
        assert "15 pack" in done.stdout
    for path in [root / "run.sh", *root.glob("local/*.sh"), *root.glob("egs/**/*.sh")]:
        assert '$(cd "' not in path.read_text(), f"{path}: cd prints where CDPATH led it"


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


def test_a_linked_environment_is_built_unless_it_is_another_checkouts(root, tmp_path):
    mine, kept = tmp_path / "my clone", tmp_path / "roomy disk"
    shutil.copytree(root / "local", mine / "local")
    for name in ("requirements.lock", "requirements-test.lock"):
        shutil.copy(root / name, mine)
    (kept / "bin").mkdir(parents=True)
    (kept / "bin/python").symlink_to(sys.executable)
    (mine / ".venv").symlink_to(kept)
    uv = tmp_path / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/calls'\n")
    uv.chmod(0o755)
    env = os.environ | {"PATH": f"{uv.parent}:{os.environ['PATH']}"}

    def call():
        command = ["bash", str(mine / "local/env.sh"), "--python", sys.executable]
        return subprocess.run(command, capture_output=True, text=True, env=env)

    stamp = kept / "espnet_spike.stamp"
    stamp.write_text(f"key of another\n{tmp_path}/another clone\n")
    result = call()
    assert result.returncode == 1 and "environment of another checkout" in result.stderr
    assert f"--env {shlex.quote(str(kept))}".replace("'", "") in result.stderr.replace("\\", "")
    assert "another clone" in stamp.read_text() and not (tmp_path / "calls").exists()
    stamp.unlink()
    assert call().returncode == 0
    assert "pip sync" in (tmp_path / "calls").read_text()
    (tmp_path / "calls").unlink()
    assert call().returncode == 0 and not (tmp_path / "calls").exists()  # it is known as its own
    key, home = stamp.read_text().splitlines()
    assert home == str(mine)
    stamp.write_text(f"before the list changed, not {key}\n{home}\n")
    assert call().returncode == 0 and stamp.read_text().splitlines() == [key, home]


CONFIG_OPTIONS = {
    "asr_config": "conf/train_iml_spikeformer.yaml",
    "inference_config": "conf/decode_asr.yaml",
    "fbank_config": "conf/fbank.yaml",
    "lm_config": "conf/lm.yaml",
    "cluster": "conf/cluster/slurm.yaml",
    "hardware": "conf/hardware/small.yaml",
    "energy_model": "conf/energy/horowitz45_fp32.yaml",
}


def found(result):
    """Return what the driver says of the files of options."""
    lines = dict(re.findall(r"^(\w+): (\S.*)$", result.stdout, flags=re.MULTILINE))
    return {name: lines.get(name) for name in CONFIG_OPTIONS}


@pytest.mark.parametrize("option", CONFIG_OPTIONS)
def test_which_file_an_option_names(run_sh, checkout, tmp_path, option):
    name = CONFIG_OPTIONS[option]
    recipe, here = checkout / "egs/mine", tmp_path

    def use(word, cwd):
        given = (f"--{option}", word) if word else ()
        # the missing file stops the driver after all look-ups
        stop = ("--use_lm", "--cluster", "conf/cluster/slurm.yaml", *given, "--env", "nowhere")
        result = run_sh("--recipe", "mine", *stop, script=checkout / "run.sh", cwd=cwd)
        assert result.returncode == 1
        return found(result)[option] or result.stderr

    assert use(name, checkout) == f"../../{name}"
    (recipe / name).parent.mkdir(parents=True, exist_ok=True)
    (recipe / name).touch()
    if option in ("hardware", "energy_model"):  # results are named by the file
        assert f"{name} has the same name" in use(name, checkout)
        assert f"../../{name}" == use(f"./{name}", checkout)
        return
    assert use(name, checkout) == name
    if option != "cluster":
        assert use(None, checkout) == name
    assert use(f"./{name}", checkout) == f"../../{name}"
    assert use(str(checkout / name), here) == f"../../{name}"
    assert use(name, here) == name
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    (here / name).touch()
    assert use(name, here) == str(here / name)
    assert use(name, recipe) == name
    if option != "cluster":
        assert use(None, here) == name
    assert "no such file" in use("./conf/none.yaml", checkout)


def test_two_files_of_one_name_have_folders_of_their_own(run_sh, checkout, tmp_path):
    """Of all options that change what is trained or decoded; the recipe's keep their names."""
    options = ("--recipe", "mine", "--env", sys.prefix, "--dry_run", "--use_lm", "--stage", "3")

    def folders(*more):
        call = (*options, "--stop_stage", "decode", *more)
        result = run_sh(*call, script=checkout / "run.sh", cwd=checkout)
        assert result.returncode == 0, result.stderr
        shown = {
            "features": r"bin\.filter_utts .* (\S+)",
            "lm": r"bin\.lm_train .*--output_dir (\S+)",
            "asr": r"bin\.asr_train .*--output_dir (\S+)",
            "decode": r"bin\.decode .*--out (\S+)",
        }
        return [re.search(line, result.stdout).group(1) for line in shown.values()]

    usual = [
        "dump/fbank/dev",
        "exp/lm_lm_bpe_unigram30",
        "exp/asr_iml_spikeformer_fbank_bpe_unigram30",
        "exp/asr_iml_spikeformer_fbank_bpe_unigram30/decode_asr_lm_lm_bpe_unigram30",
    ]
    assert folders("--asr_config", CONFIG_OPTIONS["asr_config"]) == usual
    given = []
    for option in ("fbank_config", "lm_config", "asr_config", "inference_config"):
        copy = tmp_path / "other" / CONFIG_OPTIONS[option]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout / CONFIG_OPTIONS[option], copy)
        given += [f"--{option}", str(copy)]
    lm, asr = "lm_lm-@_bpe_unigram30", "exp/asr_iml_spikeformer-@_fbank-@_bpe_unigram30"
    apart = ["dump/fbank-@/dev", f"exp/{lm}", asr, f"{asr}/decode_asr-@_{lm}"]
    assert [re.sub("-[0-9a-f]{6}", "-@", folder) for folder in folders(*given)] == apart
    sherpa = folders("--fbank_config", "conf/fbank_sherpa.yaml")
    assert sherpa == [folder.replace("fbank", "fbank_sherpa") for folder in usual]
    script = checkout / "egs/mine/run.sh"  # a recipe that has made it its own
    text = script.read_text()
    assert " -- " in text
    script.write_text(text.replace(" -- ", " --fbank_config conf/fbank_sherpa.yaml -- "))
    assert folders() == usual


def test_a_checkpoint_that_is_not_there_is_told_before_any_is_decoded(run_sh, checkout):
    exp = checkout / "egs/mine/exp/asr_here"
    exp.mkdir(parents=True)
    (exp / "conversion").mkdir()
    for name in ("v.acc.best.pth", "2epoch.pth", "conversion/init.pth"):
        (exp / name).write_bytes(b"")
    options = ("--recipe", "mine", "--env", sys.prefix, "--stage", "decode", "--asr_tag", "here")
    options += ("--inference_asr_model", "v.acc.best.pth 9epoch.pth")
    result = run_sh(*options, script=checkout / "run.sh", cwd=checkout)
    assert result.returncode == 1
    assert "error: --inference_asr_model: exp/asr_here has no 9epoch.pth" in result.stderr
    assert "hint: there are: 2epoch.pth, conversion/init.pth, v.acc.best.pth" in result.stderr
    assert "bin.decode" not in result.stdout + result.stderr


def test_every_checkpoint_is_decoded_scored_and_reported_apart(run_sh, checkout):
    options = ("--recipe", "mine", "--env", sys.prefix, "--dry_run", "--stage", "decode")
    options += ("--inference_args", "--beam_size 3")

    def call(*more):
        result = run_sh(*options, *more, script=checkout / "run.sh", cwd=checkout)
        assert result.returncode == 0, result.stderr
        return result.stdout

    asr = "exp/asr_iml_spikeformer_fbank_bpe_unigram30"
    models = ("v.acc.best.pth", "9epoch.pth", "conversion/init.pth")
    ends = ("v.acc.best", "9epoch", "conversion_init")
    folders = [f"{asr}/decode_asr_beam_size3_asr_model_{end}" for end in ends]
    shown = call("--inference_asr_model", " ".join(models))
    found = re.findall(r"bin\.decode .*--inference_asr_model (\S+) .*--out (\S+)", shown)
    assert found == [*zip(models, folders, strict=True)]
    assert re.findall(r"bin\.score .*--out (\S+)", shown) == folders
    assert re.findall(r"bin\.count .*--out (\S+)", shown) == folders
    assert re.findall(r"html_report .*--inference_tag (\S+)", shown) == [folders[0].split("/")[-1]]
    (packed,) = re.findall(r"bin\.pack .*--inference_args (.*) --token_list", shown)
    assert "--inference_asr_model v.acc.best.pth" in packed.replace("\\", "")
    usual = call()
    assert "--inference_asr_model" not in usual
    for command in ("decode", "score", "count"):
        pattern = rf"bin\.{command} .*--out (\S+)"
        assert re.findall(pattern, usual) == [f"{asr}/decode_asr_beam_size3"]


def test_new_weights_under_the_same_name_are_decoded_and_counted_again(root, tmp_path):
    for name in ("v.acc.ave.pth", "v.acc.best.pth", "9epoch.pth", "checkpoint.pth"):
        (tmp_path / name).touch()
    body = """
      fail() { exit 1; }
      final_exp=$1 final_tag=x expdir=$1 final_marker=train inference_config=c
      tests=(t) eval_dirs=(d)
      lm_inputs=(i) ngram_inputs=(i) cost_models=(m) inference_tag=decode inference_args=""
      lm_options=(o) ngram_options=(o) cluster_options=(o) named_eval_dirs=(d)
      inference_nj=1 gpu_inference=false energy_model=m py=py twin_exp="" count_forms=false
      eval "$(sed -n '/^decoding_of()/,/^}/p; /^each_checkpoint()/,/^}/p' "$2/local/driver.sh")"
      eval "$(sed -n '/^decode_by_one()/,/^}/p; /^count_of_one()/,/^}/p' "$2/run.sh")"
      step() { printf '%s\n' "$@"; }
      checkpoints=("$3")
      each_checkpoint "$4"
    """
    for checkpoint, read in (("", {"v.acc.ave.pth", "v.acc.best.pth"}), ("9epoch.pth",) * 2):
        for stage in ("decode_by_one", "count_of_one"):
            words = ["bash", "-euo", "pipefail", "-c", body, "x", str(tmp_path), str(root)]
            shown = subprocess.run(
                [*words, checkpoint, stage], capture_output=True, text=True, check=True
            ).stdout.split()
            inputs = {word for word in shown if word.startswith("--input=") and ".pth" in word}
            wanted = {read} if isinstance(read, str) else read
            assert inputs == {f"--input={tmp_path}/{name}" for name in wanted}


def test_options_that_make_too_long_a_name_are_refused_before_the_work(run_sh, checkout):
    options = ("--recipe", "mine", "--env", sys.prefix, "--dry_run")
    long = " ".join(f"--encoder_conf linear_units={n}" for n in range(10, 25))
    result = run_sh(*options, "--asr_args", long, script=checkout / "run.sh", cwd=checkout)
    assert result.returncode == 1 and "stage" not in result.stdout
    assert re.search(r"a name of 4\d\d bytes", result.stderr) and "--asr_tag" in result.stderr
    result = run_sh(*options, "--inference_tag", 80 * "語", script=checkout / "run.sh")
    assert result.returncode == 1 and re.search(r"a name of 2\d\d bytes", result.stderr)


def test_the_rows_of_speech_mamba_are_calls_of_run_sh(run_sh, root):
    script = root / "egs/fsdd/speech_mamba.sh"
    rows = ("--rows", "relu naive_mhsa_mamba")
    result = run_sh("--seeds", "1 2", *rows, "--list_stages", script=script)
    assert result.returncode == 0
    assert result.stdout == 4 * run_sh("--list_stages").stdout
    assert "no row 'rely'" in run_sh("--rows", "rely", "--list_stages", script=script).stderr


def test_an_ablation_that_ran_nothing_reports_nothing(run_sh, root):
    script = root / "egs/fsdd/ablation.sh"
    listed = run_sh("--list_stages").stdout
    for words in (["--list_stages"], ["--list-stages"], ["--list_stages=true"]):
        result = run_sh("--seeds", "1", "--rows", "imls relu", *words, script=script)
        assert result.returncode == 0 and result.stdout == 2 * listed
    for empty in (["--seeds", ""], ["--rows", " "]):
        result = run_sh(*empty, "--list_stages", script=script)
        assert result.returncode == 1 and "names none" in result.stderr


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--dry_run", True),
        ("--seed 1 --list-stages --nj 2", True),
        ("--list_stages=true", True),
        ("--dry_run false", False),
        ("--dry_run --dry_run=false", False),
        ("--list_stages --dry_run false", True),
        ("--dry_run=false", False),
        ("--gpu_inference true", False),
        ("", False),
    ],
)
def test_flags_are_seen_in_all_their_forms(root, words, given):
    call = f'. "{root}/local/rows.sh"; flag_given "dry_run list_stages" {words}'
    assert (subprocess.run(["bash", "-euo", "pipefail", "-c", call]).returncode == 0) == given


@pytest.mark.parametrize(("recipe", "ending"), [("fsdd", ""), ("an4", "_cepstra")])
def test_augmented_rows_are_trained_alike(run_sh, root, recipe, ending):
    script = root / "egs" / recipe / "augmented.sh"
    result = run_sh("--seeds", "1", "--rows", "twin e", "--list_stages", script=script)
    assert result.returncode == 0 and result.stdout == 2 * run_sh("--list_stages").stdout
    rows = "from_twin from_dense from_dense_ilif"
    rows += " hybrid attention ctc" if recipe == "fsdd" else " iml"
    result = run_sh("--seeds", "1", "--rows", rows, "--list_stages", script=script)
    assert result.stdout == len(rows.split()) * run_sh("--list_stages").stdout
    refused = run_sh("--rows", "iml rely", "--list_stages", script=script)
    assert "no row 'rely'" in refused.stderr and not refused.stdout  # before the first row

    def but_for_the_encoder(path):
        conf = yaml.safe_load(path.read_text())
        options = conf.pop("encoder_conf")
        assert f"train_{conf.pop('encoder')}_augmented" in path.name
        conf["spike_meta"].pop("sparsify", None)
        rates = options["dropout_rate"], options["positional_dropout_rate"]
        return conf, rates, bool(options.get("interctc_layer_idx"))

    first, *others = map(
        but_for_the_encoder,
        (root / "egs" / recipe / "conf").glob(f"train_*_augmented{ending}.yaml"),
    )
    assert len(others) == 5  # the twin is a row of IML-Spikeformer's file
    assert all(other == first for other in others)


@pytest.mark.parametrize("recipe", ["librispeech", "speechocean762"])
def test_a_learning_curve_goes_on_where_it_ended(run_sh, root, tmp_path, recipe):
    log = tmp_path / "log"
    for name in (f"egs/{recipe}/curve.sh", "local/curve.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    script = f'#!/bin/sh\necho "$(basename "$(dirname "$0")") $*" >>"{log}"\n'
    trained = 'exp="$(dirname "$0")/exp/asr_$4"\n'  # --seed 3 --asr_tag TAG
    trained += 'mkdir -p "$exp" && touch "$exp/results.json"\n'
    python = tmp_path / "bin/python"  # new_recipe makes a recipe that can be called
    makes = """case $2 in *new_recipe) mkdir -p "$made" && cp "$theirs" "$made";; esac"""
    paths = f"""made="{tmp_path}/egs/$3"\ntheirs="{tmp_path}/egs/{recipe}/run.sh"\n"""
    runs = tmp_path / f"egs/{recipe}/run.sh"
    for path, text in ((runs, script + trained), (python, script + paths + makes)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    options = ("--minutes", "10 20", "--seed", "3", "--budget", "5", "--env", str(tmp_path))
    options += ("--corpus_dir", "somewhere", "--nj", "1")

    def called():
        log.unlink(missing_ok=True)
        result = run_sh(*options, script=tmp_path / f"egs/{recipe}/curve.sh")
        assert result.returncode == 0, result.stderr
        return log.read_text().splitlines()

    first, again = called(), called()
    assert [line.split()[0] for line in first] == [
        *(recipe, "bin", "bin", "bin", f"{recipe}_10min_iml_spikeformer"),
        *("bin", f"{recipe}_20min_iml_spikeformer", "bin"),
    ]  # every part is drawn before anything is trained
    assert "--stop_stage data" in first[0] and "--corpus_dir somewhere" in first[0]
    for number, minutes in ((1, 10), (2, 20)):
        part, (sized, trained) = first[number], first[2 * number + 1 : 2 * number + 3]
        assert f"_{minutes}min --minutes {minutes}" in part
        assert f"min_iml_spikeformer --train {tmp_path}/egs/{recipe}/data/train" in sized
        assert "--encoder iml_spikeformer" in sized and "--budget 5" in sized
        tag = f"iml_spikeformer_{minutes}min_seed3"
        assert f"--seed 3 --asr_tag {tag} --stop_stage report" in trained
        assert trained.endswith("--nj 1") and f"exp/asr_{tag}" in first[-1]
        assert "somewhere" not in part + sized + trained
    assert "bin.compare" in first[-1]
    assert again == [first[0], first[4], first[6], first[7]]  # nothing is made twice


def test_stage_count_compares_with_the_twin_and_counts_the_forms_that_are_asked_for(
    run_sh, tmp_path
):
    twin = tmp_path / "exp/asr_y"
    twin.mkdir(parents=True)
    (twin / "config.yaml").touch()
    options = ("--env", sys.prefix, "--dry_run", "--stage", "count", "--stop_stage", "count")
    options += ("--expdir", tmp_path / "exp")  # the checkout's own may be done
    # as seen from where it is called
    asked = run_sh(*options, "--twin_exp", "exp/asr_y", "--count_forms", "true", cwd=tmp_path)
    assert f"--twin_exp {twin} --forms true " in asked.stdout, asked.stderr
    plain = run_sh(*options, cwd=tmp_path)
    assert "bin.count" in plain.stdout and "--forms" not in plain.stdout + plain.stderr
