"""The benchmark for a GPU: refused without one, and its logic at tiny sizes on a CPU."""

import json

import pytest
import torch

from benchmarks import bench_gpu
from espnet_spike.errors import UserError


def test_without_a_gpu_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA GPU here"):
        bench_gpu.main(["--out", str(tmp_path / "gpu")])
    with pytest.raises(UserError, match="says nothing of a GPU"):
        bench_gpu.main(["--device", "cpu", "--out", str(tmp_path / "gpu")])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def one_kernel(monkeypatch):
    """Check one kernel alone: all of them are in a test of their own."""
    functions = bench_gpu.functions
    monkeypatch.setattr(bench_gpu, "functions", lambda *sizes: {"IMLS": functions(*sizes)["IMLS"]})


@pytest.mark.usefixtures("one_kernel")
@pytest.mark.parametrize("only", ["selective scan", "spiking_speech_mamba"])
def test_a_case_runs_and_says_its_days(only, tmp_path):
    words = ["--tiny", "--device", "cpu", "--only", only, "--out", str(tmp_path / "gpu")]
    bench_gpu.main(words)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows and all(row["ms"] > 0 for row in rows)
    assert all((row["days of all epochs"] != "") == (only != "selective scan") for row in rows)


def test_what_has_no_time_is_named_and_every_kernel_checked(tmp_path):
    words = ["--tiny", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path / "gpu")]
    bench_gpu.main(words)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["ms"] for row in rows} == {"left out: no time"}
    names = [f"{name}, LibriSpeech-960" for name in bench_gpu.CONFIGS]
    assert [row["case"] for row in rows][-8:] == [*bench_gpu.SMALL, *names]
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("# A trial of bench_gpu on a CPU")
    assert all(name in text for name in bench_gpu.functions(1, 1, 1))


@pytest.mark.usefixtures("one_kernel")
def test_an_unknown_case_is_refused(tmp_path):
    with pytest.raises(UserError, match="no case has this name"):
        bench_gpu.main(["--tiny", "--device", "cpu", "--only", "gone", "--out", str(tmp_path)])


def test_a_row_that_fails_says_why_and_the_table_is_written(tmp_path, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("ptxas is gone | here\nand more")

    monkeypatch.setattr(bench_gpu, "selective_scan", broken)
    words = [
        "--tiny",
        "--device",
        "cpu",
        "--only",
        "selective scan",
        "--out",
        str(tmp_path / "gpu"),
    ]
    with pytest.raises(
        UserError, match="selective scan, N = 4: numba: failed: RuntimeError: ptxas"
    ):
        bench_gpu.main(words)
    why = "failed: RuntimeError: ptxas is gone / here"
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["ms"] for row in rows} == {why}
    text = (tmp_path / "gpu.md").read_text()
    assert f"| selective scan | {why} |" in text and "| IMLS | failed" not in text


def test_a_kernel_that_is_wrong_fails_the_command(tmp_path, monkeypatch):
    found = {"largest deviation": 0.5, "share that deviates": 0.3, "two runs equal": True}
    monkeypatch.setattr(bench_gpu, "deviations", lambda *_: found)
    words = ["--tiny", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path / "gpu")]
    with pytest.raises(UserError, match="IMLS is wrong on this device"):
        bench_gpu.main(words)
    assert (tmp_path / "gpu.md").exists()
