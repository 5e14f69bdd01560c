"""The table of compiled kernels, at one kernel of tiny sizes."""

import json

import pytest

from benchmarks import bench_kernels
from benchmarks.bench_kernels import GPUS, Compiled
from espnet_spike.errors import UserError


def test_occupancy_is_bound_by_registers_or_shared_memory():
    gpu = GPUS["A100"]
    assert Compiled(32, 0, 0, 128, 0, 0).occupancy(gpu) == 1.0
    assert Compiled(128, 0, 0, 128, 0, 0).occupancy(gpu) == 0.25
    assert Compiled(32, 0, 81 << 10, 128, 0, 0).occupancy(gpu) == 2 * 128 / 2048


def test_a_kernel_is_compiled_for_both_gpus(tmp_path):
    sizes = ["--batch", "2", "--frames", "16", "--channels", "256"]
    words = [*sizes, "--only", "fatrelu forward", "--out", str(tmp_path / "out")]
    bench_kernels.main(words)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["GPU"] for row in rows] == ["A100 (sm_80)", "H100 (sm_90)"]
    for row in rows:
        assert row["spilled bytes"] == 0 < row["registers"]
        assert 1 <= row["moved / compulsory"] <= 1.1
        # x and y, and of each frame two sums
        assert row["compulsory MB"] * 1e6 == 2 * 4 * 2 * 16 * 256 + 2 * 4 * 2 * 16 + 4
    assert "estimated" in (tmp_path / "out.md").read_text()
    with pytest.raises(UserError, match="times its bytes"):
        bench_kernels.main([*words, "--most", "0.9"])


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="no kernel has this name"):
        bench_kernels.main(["--only", "gone", "--out", str(tmp_path / "out")])
