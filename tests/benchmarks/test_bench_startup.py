"""The start-up benchmark runs commands on data of its own, and says when one fails."""

import json
import re

import pytest

from benchmarks import bench_startup
from benchmarks.bench_startup import CALLS, Call
from espnet_spike.errors import UserError
from tests.bin.test_commands import COMMANDS
from tests.conftest import ROOT

# runs within others
WITHIN = {"asr_inference": "decode", "run_stage": "run.sh"}


def test_every_command_is_measured():
    measured = {call.program[0] for call in CALLS}
    assert set(WITHIN.values()) <= measured
    assert sorted((measured | set(WITHIN)) - {"run.sh"}) == COMMANDS


def test_it_compares_with_another_checkout(tmp_path, capsys):
    peer = tmp_path / "peer"
    (peer / "espnet_spike" / "bin").mkdir(parents=True)
    (peer / "espnet_spike" / "bin" / "list_encoders.py").write_text("sum(range(10**7))")
    words = ["--only", "list_encoders", "check_environment", "--repeats", "1"]
    bench_startup.main([*words, "--peer", str(peer), "--out", str(tmp_path / "out")])
    first, second = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert first["command"] == "list_encoders" and second["before"] == "new"
    assert 0 < first["processor s"] and 0 < first["before"]
    assert first["share"] == pytest.approx(first["processor s"] / first["before"])
    assert "| list_encoders | no network |" in (tmp_path / "out.md").read_text()


def test_a_command_that_fails_ends_the_benchmark(tmp_path):
    bench_startup.write_recipe(tmp_path)
    call = Call("score", "no network", "--out none --token_type char --token_list none test=none")
    with pytest.raises(UserError, match=r"(?s)^score in .*exit 1.*none: no such folder"):
        bench_startup.seconds_of(call, ROOT, tmp_path)
    with pytest.raises(UserError, match="--only fly: no such command"):
        bench_startup.main(["--only", "fly"])


def test_what_a_call_makes_is_removed_before_it_runs(tmp_path):
    bench_startup.write_recipe(tmp_path)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "old").touch()
    (call,) = [call for call in CALLS if call.program == ["tokenize"]]
    assert bench_startup.seconds_of(call, ROOT, tmp_path) > 0
    made = {path.name for path in (tmp_path / "tokens").iterdir()}
    assert "tokens.txt" in made and "old" not in made
    assert re.search(r"^a$", (tmp_path / "tokens" / "tokens.txt").read_text(), re.MULTILINE)
