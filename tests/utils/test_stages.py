import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils.stages import fingerprint, hint_for, run_stage


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


def test_a_failure_names_the_stage_the_command_the_log_and_the_last_lines(stage, tmp_path):
    with pytest.raises(UserError) as error:
        stage("echo first; echo 'cannot read utt_7' >&2; exit 3")
    text = str(error.value)
    for part in (
        "3 x",
        "status 3",
        "cannot read utt_7",
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


def test_the_fingerprint_ignores_what_does_not_change_the_output(tmp_path):
    command = ["fbank", "--nj", "2", "a", "b"]
    assert fingerprint(command, []) == fingerprint(["fbank", "--nj", "8", "a", "b"], [])
    assert fingerprint(command, []) == fingerprint(["fbank", "--nj=8", "a", "b"], [])
    assert fingerprint(command, []) != fingerprint(["fbank", "--nj", "2", "a", "c"], [])
    assert fingerprint(["x", "--c", "1"], [], frozenset({"--c"})) == fingerprint(["x"], [])


def test_killed_for_memory_has_its_own_hint():
    assert "memory" in hint_for("", -signal.SIGKILL)
    assert hint_for("error: x\n  hint: do y", 1) == ""


def test_ctrl_c_stops_with_130_and_leaves_no_marker(tmp_path):
    command = [
        *(sys.executable, "-m", "espnet_spike.bin.run_stage", "--stage", "3 x", "--name", "x"),
        *("--expdir", str(tmp_path / "exp"), "--", "bash", "-c"),
        f"touch '{tmp_path}/started'; sleep 30",
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(command, start_new_session=True, env=env)
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=10) == 130
    assert not (tmp_path / "exp/.done/x.json").exists()


def test_a_later_result_in_an_input_folder_makes_it_no_other_input(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "text").write_text("a")
    before = fingerprint(["x"], [folder])
    (folder / "count.json").write_text("{}")
    (folder / "neurobench.json").write_text("{}")
    assert fingerprint(["x"], [folder]) == before
    (folder / "other.json").write_text("{}")
    assert fingerprint(["x"], [folder]) != before
