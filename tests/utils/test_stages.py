import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils.stages import Work, hint_for, run_stage


def shell(script: str) -> list[str]:
    return ["bash", "-c", script]


@pytest.fixture
def stage(tmp_path):
    """Run a shell script as a stage in ``tmp_path``."""

    def run(script, **options):
        options.setdefault("outputs", [tmp_path / "out"])
        return run_stage("3 x", "x", shell(script), tmp_path / "exp", **options)

    return run


def test_a_finished_stage_is_skipped_until_something_changes(stage, tmp_path):
    source = tmp_path / "in"
    source.write_text("a")
    script = f"echo run >> '{tmp_path}/runs'; cp '{source}' '{tmp_path}/out'"
    runs = lambda: len((tmp_path / "runs").read_text().split())  # noqa: E731
    assert stage(script, inputs=[source])
    assert not stage(script, inputs=[source])
    source.write_text("b")
    assert stage(script, inputs=[source])
    (tmp_path / "out").unlink()
    assert stage(script, inputs=[source])
    assert stage(script, inputs=[source], force=True)
    assert runs() == 4


def test_a_failure_names_the_stage_the_command_and_the_log_and_repeats_nothing(
    stage, tmp_path, capfd
):
    with pytest.raises(UserError) as error:
        stage("echo first; echo cannot read utt_$((3 + 4)) >&2; exit 3")
    text = str(error.value)
    assert capfd.readouterr().err.count("cannot read utt_7") == 1
    assert "utt_7" not in text
    for part in (
        "3 x",
        "status 3",
        str(tmp_path / "exp/log/x.log"),
        "bash -c",
    ):
        assert part in text
    assert error.value.hint
    assert not (tmp_path / "exp/.done/x.json").exists()


def test_leaving_with_0_but_without_the_output_is_a_failure(stage, tmp_path):
    with pytest.raises(UserError, match="without"):
        stage("true")
    assert not (tmp_path / "exp/.done/x.json").exists()


def test_a_failed_rerun_leaves_no_old_marker(stage, tmp_path):
    stage(f"touch '{tmp_path}/out'")
    with pytest.raises(UserError):
        stage("false")
    assert not (tmp_path / "exp/.done/x.json").exists()


def test_a_refused_rerun_leaves_what_was_finished_before(stage, tmp_path, capsys):
    """Other options that our command refuses before it writes: the model there is still done."""
    good = f"touch '{tmp_path}/out'"
    stage(good)
    with pytest.raises(UserError, match="configuration changed"):
        stage("echo 'error: configuration changed'; exit 1")
    assert "x stays as it was finished before" in capsys.readouterr().out
    assert not stage(good)
    with pytest.raises(UserError):  # after it has written
        stage(f"echo b >'{tmp_path}/out'; echo 'error: no space'; exit 1")
    assert not (tmp_path / "exp/.done/x.json").exists()
    with pytest.raises(UserError):  # and where nothing had been finished
        stage("echo 'error: no'; exit 1")
    assert not (tmp_path / "exp/.done/x.json").exists()


def test_a_refusal_to_make_what_is_lost_leaves_the_rest_to_later_stages(tmp_path):
    expdir, outputs = tmp_path / "exp", [tmp_path / "model"]

    def call(script):
        return run_stage(
            "8 x", "x", shell(script), expdir, (), outputs, optional_outputs=[tmp_path / "state"]
        )

    # one command: what it does is said by a file that is no input
    script = f"cd '{tmp_path}'; if [ -f no ]; then echo 'error: state is lost'; exit 1; fi; "
    script += "touch model state"
    assert call(script)
    (tmp_path / "state").unlink()
    (tmp_path / "no").touch()
    for _ in range(2):  # it is not forgotten
        with pytest.raises(UserError, match="failed"):
            call(script)
        assert (expdir / ".done/x.json").exists()
    (tmp_path / "no").unlink()
    assert call(script) and not call(script)


def test_what_starts_a_command_does_not_make_it_another(stage, tmp_path):
    script = f"echo run >>'{tmp_path}/out'"
    assert stage(script, launcher=["env", "RANK=0"])
    assert not stage(script)
    with pytest.raises(UserError, match="command: env RANK=0 bash"):
        stage("false", launcher=["env", "RANK=0"])


def test_an_error_that_much_was_said_after_is_shown(stage):
    with pytest.raises(UserError) as caught:
        stage("echo 'error: no u7'; echo '  hint: fix u7'; seq 1000 1100; exit 1")
    assert "| error: no u7" in str(caught.value) and "| 1010" in str(caught.value)
    assert caught.value.hint == ""


@pytest.mark.parametrize("letter", ["a", "語"])
def test_a_name_too_long_for_the_marker_is_refused_before_the_work(tmp_path, letter):
    room = 250  # of 255 bytes, with .json
    longest = "x" * (room % len(letter.encode())) + room // len(letter.encode()) * letter
    out, expdir = tmp_path / "out", tmp_path / "exp"
    run_stage("3 x", longest, shell(f"touch {out}"), expdir, outputs=[out])
    assert not run_stage("3 x", longest, shell(f"touch {out}"), expdir, outputs=[out])  # done
    with pytest.raises(UserError, match="have 256 bytes, and 255 are allowed") as caught:
        run_stage("3 x", f"{longest}y", shell(f"touch {out}2"), expdir)
    assert "--asr_tag" in caught.value.hint and not (tmp_path / "out2").exists()


def test_dry_run_runs_nothing(stage, tmp_path, capsys):
    assert not stage(f"touch '{tmp_path}/out'", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert "would run" in capsys.readouterr().out


def test_a_missing_input_is_named(stage, tmp_path):
    with pytest.raises(UserError, match="gone does not exist"):
        stage("true", inputs=[tmp_path / "gone"])


def test_fixing_an_input_in_place_is_not_a_change(stage, tmp_path):
    data = tmp_path / "out"
    data.mkdir()
    (data / "text").write_text("b\na\n")
    script = f"sort -o '{data}/text' '{data}/text'"
    assert stage(script, inputs=[data])
    assert not stage(script, inputs=[data])


def test_too_little_disk_space_stops_before_the_work(stage, tmp_path):
    with pytest.raises(UserError, match="GB free"):
        stage(f"touch '{tmp_path}/out'", min_free_gb=1e9)
    assert not (tmp_path / "out").exists()


def test_a_second_run_waits_for_the_first_and_finds_its_work_done(tmp_path):
    script = f"echo run >> '{tmp_path}/runs'; sleep 1; touch '{tmp_path}/out'"
    words = ["--stage", "8 train", "--name", "x", "--expdir", str(tmp_path / "exp")]
    words += ["--output", str(tmp_path / "out"), "--", *shell(script)]
    command = [sys.executable, "-m", "espnet_spike.bin.run_stage", *words]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted((run.communicate(timeout=60)[0] for run in both), key=len)
    assert [run.returncode for run in both] == [0, 0]
    assert (tmp_path / "runs").read_text() == "run\n"
    assert "finished" in "".join(said) and "done meanwhile" in "".join(said)


def test_killed_for_memory_has_its_own_hint():
    assert "memory" in hint_for("", -signal.SIGKILL)
    assert hint_for("error: x\n  hint: do y", 1) == ""


def test_ctrl_c_stops_with_130_and_leaves_no_marker(tmp_path):
    command = [
        *(sys.executable, "-m", "espnet_spike.bin.run_stage", "--stage", "3 x", "--name", "x"),
        *("--expdir", str(tmp_path / "exp"), "--", "bash", "-c"),
        # without the trap bash goes on when touch has ended well after the signal
        f"trap 'exit 130' INT; touch '{tmp_path}/started'; sleep 30",
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(command, start_new_session=True, env=env)
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=10) == 130
    assert not (tmp_path / "exp/.done/x.json").exists()


class Recipe:
    """Fake stages of an experiment folder, in a recipe whose data and features are shared.

    Every stage writes its options and the content of its inputs.
    """

    STAGES = (
        ("data", ["local.sh"], ["data/train/text", "data/train/wav.scp"]),
        ("fix", ["data/train"], ["data/train"]),
        ("fbank", ["data/train"], ["dump/fbank/org/train/feats.scp", "dump/fbank/org/train"]),
        ("filter", ["dump/fbank/org/train"], ["dump/fbank/train/feats.scp"]),
        ("token", ["dump/fbank/train/feats.scp"], ["data/token_list/bpe/tokens.txt"]),
        ("train", ["dump/fbank/train", "data/token_list/bpe/tokens.txt"], ["EXP/x/*.ave.pth"]),
        ("decode", ["EXP/.done/train.json", "dump/fbank/train"], ["EXP/x/test/text"]),
        ("score", ["EXP/x/test"], ["EXP/x/test", "EXP/x/test/result.json"]),
    )

    def __init__(self, folder):
        self.folder = folder
        (folder / "local.sh").write_text("corpus")

    def command(self, name, exp, options):
        """Return the command of a stage; ``fix`` works in place, ``train`` makes several files."""
        made = {
            "fix": ["data/train/text", "data/train/utt2spk"],
            "fbank": ["dump/fbank/org/train/feats.scp", "dump/fbank/org/train/data/feats.1.ark"],
            "train": ["EXP/x/1epoch.pth", "EXP/x/valid.ave.pth"],
            "score": ["EXP/x/test/result.json", "EXP/x/test/score_wer/counts.tsv"],
        }
        outputs = dict((stage, names) for stage, _, names in self.STAGES)[name]
        lines = [
            f"mkdir -p $(dirname {path}); echo {name} {options.get(name, '')} > {path}"
            for path in made.get(name, outputs)
        ]
        return shell("; ".join(lines).replace("EXP", exp))

    def run(self, exp="exp", only=None, **options):
        """Run all stages, or one; return those that were not done before."""
        ran = []
        for name, inputs, outputs in self.STAGES:
            if only not in (None, name):
                continue
            paths = [[Path(p.replace("EXP", exp)) for p in some] for some in (inputs, outputs)]
            done = run_stage(
                f"1 {name}",
                name,
                self.command(name, exp, options),
                Path(exp),
                *paths,
                optional_outputs=[Path(exp, "x/*.pth")] if name == "train" else [],
                shared=[Path("data"), Path("dump")],
            )
            if done:
                ran.append(name)
        return ran

    def files(self):
        """Return every output with its content."""
        return {
            str(path.relative_to(self.folder)): path.read_text()
            for place in ("data", "dump", "exp/x")
            for path in sorted((self.folder / place).rglob("*"))
            if path.is_file() and ".done" not in path.parts
        }


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Recipe(tmp_path)


ALL = [name for name, _, _ in Recipe.STAGES]


def test_what_is_shared_has_its_marker_there(recipe, tmp_path):
    assert recipe.run() == ALL
    assert recipe.run() == []
    shared = {"data": ["data", "fix", "token"], "dump": ["fbank", "filter"]}
    for home, names in shared.items():
        assert sorted(p.stem for p in (tmp_path / home / ".done").glob("*.json")) == names
    # another experiment has its own training only
    assert recipe.run("exp2") == ["train", "decode", "score"]


def test_every_output_that_is_deleted_or_cut_heals(recipe, tmp_path, capsys):
    recipe.run()
    whole = recipe.files()
    assert len(whole) == 12
    for name, content in whole.items():
        for damage in ("", content[:3]):
            (tmp_path / name).unlink()
            if damage:
                (tmp_path / name).write_text(damage)
            ran = recipe.run()
            assert ran and recipe.files() == whole, name
            # what is made as it was is no other input
            assert len(ran) == 1 or set(ran) <= {"data", "fix"}, (name, ran)
            assert f"{ran[0]} runs again, " in capsys.readouterr().out
            assert recipe.run() == []


def test_markers_of_an_earlier_version_are_carried_over(recipe, tmp_path):
    recipe.run()
    before = {}
    for folder in ("data", "dump", "exp"):  # all markers were in the experiment folder
        shutil.rmtree(tmp_path / folder / ".done/outputs")
    for folder in ("data", "dump"):
        shutil.rmtree(tmp_path / folder / ".done")
    for path in (tmp_path / "exp/.done").glob("*.json"):
        before[path] = path.read_bytes()
    assert recipe.run(only="train") == [] == recipe.run()
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "dump/.done/fbank.json").exists()
    (tmp_path / "dump/fbank/org/train/data/feats.1.ark").unlink()
    assert recipe.run() == ["fbank"]


def test_another_definition_in_another_experiment_is_noticed(recipe):
    recipe.run()
    # (its filter happens to make what it made before)
    assert recipe.run("exp2", fbank="16000") == ["fbank", "filter", "train", "decode", "score"]
    # a stage of the first on its own must not take the features of the second
    with pytest.raises(UserError, match="another run made dump/fbank/org/train anew") as caught:
        recipe.run(only="filter", filter="--min_frames 20")
    assert "16000" in str(caught.value) and "--dumpdir" in caught.value.hint
    assert "fbank" in recipe.run()
    assert recipe.run() == []


def test_the_same_definition_in_another_experiment_is_none(recipe):
    recipe.run()
    # another command with the same result, such as one for further test sets
    assert "token" in recipe.run("exp2", data="", token=" ")
    assert recipe.run(only="train", train="more") == ["train"]


def test_a_run_that_was_killed_in_shared_folders_is_not_done_for_others(recipe, tmp_path):
    recipe.run()
    recipe.run("exp2")
    with pytest.raises(UserError):
        run_stage(
            "3 fbank",
            "fbank",
            shell("echo half >dump/fbank/org/train/feats.scp; false"),
            Path("exp2"),
            [Path("data/train")],
            [Path("dump/fbank/org/train")],
            shared=[Path("dump")],
        )
    shutil.rmtree(tmp_path / "exp/.done/outputs")  # as of an earlier version
    assert "fbank" in recipe.run()
    assert recipe.files()["dump/fbank/org/train/feats.scp"] == "fbank\n"


def test_done_stages_need_nothing_that_can_be_written(recipe, monkeypatch):
    recipe.run()

    def fails(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    for place in ("data", "dump", "exp"):
        shutil.rmtree(f"{place}/.done/outputs")
    for place in ("data", "dump"):
        shutil.rmtree(f"{place}/.done")
    monkeypatch.setattr(os, "replace", fails)
    monkeypatch.setattr(Path, "mkdir", fails)
    assert recipe.run() == []


def test_a_log_that_cannot_be_written_ends_the_command(stage, tmp_path, monkeypatch):
    (tmp_path / "exp/log/x.log").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        stage(f"touch '{tmp_path}/out'")
    assert not (tmp_path / "exp/.done/x.json").exists()


def test_two_experiments_at_once_share_the_work(recipe, tmp_path):
    script = "echo run >>runs; sleep 0.5; mkdir -p dump/f; echo x >dump/f/feats.scp"
    words = ["--stage", "3 fbank", "--name", "fbank", "--shared", "dump"]
    words += ["--output", "dump/f/feats.scp"]
    command = [sys.executable, "-m", "espnet_spike.bin.run_stage", *words]
    both = [
        subprocess.Popen(
            [*command, "--expdir", exp, "--", *shell(script)], stdout=subprocess.PIPE, text=True
        )
        for exp in ("exp1", "exp2")
    ]
    said = "".join(run.communicate(timeout=60)[0] for run in both)
    assert [run.returncode for run in both] == [0, 0]
    assert (tmp_path / "runs").read_text() == "run\n"
    assert "finished" in said and "done meanwhile" in said


def test_who_makes_features_anew_waits_for_who_reads_them(recipe):
    recipe.run()
    train = Work("train", Path("exp"), [Path("dump/fbank/train")], [], shared=[Path("dump")])
    fbank = Work("fbank", Path("exp2"), [], [Path("dump/fbank/org/train")], shared=[Path("dump")])
    assert set(train.locks()[1]) == {Path("dump/.done/fbank.lock"), Path("dump/.done/filter.lock")}
    assert fbank.locks()[0][0] == Path("dump/.done/fbank.lock")
