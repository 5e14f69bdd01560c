"""The table of compiled kernels, at one kernel of tiny sizes."""

import json

import pytest

from benchmarks import bench_kernels
from benchmarks.bench_kernels import GPUS, Compiled, bytes_of_thread
from espnet_spike.errors import UserError

PTX = """
	@%p1 ld.global.v2.b32 { %r1, %r2 }, [ %rd1 + 0 ];
$L__BB0_1:                              // =>This Inner Loop Header: Depth=1
	ld.global.b16 { %rs1 }, [ %rd2 + 0 ];
	@%p2 st.global.v4.b32 [ %rd3 + 0 ], { %r1, %r2, %r3, %r4 };
	ld.shared.b32 %r5, [%r6];
	@%p3 bra 	$L__BB0_1;
	bra.uni 	$L__BB0_2;
$L__BB0_2:
	st.global.b64 [ %rd4 + 0 ], { %rd5 };
"""


def test_a_loop_moves_its_bytes_as_often_as_it_runs():
    assert bytes_of_thread(PTX, trips=1) == 8 + 2 + 16 + 8
    assert bytes_of_thread(PTX, trips=5) == 8 + 5 * (2 + 16) + 8


def test_occupancy_is_bound_by_registers_or_shared_memory():
    gpu = GPUS["A100"]
    assert Compiled(32, 0, 0, 128, 0.0).occupancy(gpu) == 1.0
    assert Compiled(128, 0, 0, 128, 0.0).occupancy(gpu) == 0.25
    assert Compiled(32, 0, 81 << 10, 128, 0.0).occupancy(gpu) == 2 * 128 / 2048


def test_a_kernel_is_compiled_for_both_gpus(tmp_path):
    sizes = ["--batch", "2", "--frames", "16", "--channels", "256"]
    words = [*sizes, "--only", "fatrelu forward", "--out", str(tmp_path / "out")]
    bench_kernels.main(words)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["GPU"] for row in rows] == ["A100 (sm_80)", "H100 (sm_90)"]
    for row in rows:
        assert row["spilled bytes"] == 0 < row["registers"]
        assert 1 <= row["moved / compulsory"] <= 1.3
        # x and y, and of each frame two sums
        assert row["compulsory MB"] * 1e6 == 2 * 4 * 2 * 16 * 256 + 2 * 4 * 2 * 16 + 4
    assert "estimated" in (tmp_path / "out.md").read_text()
    with pytest.raises(UserError, match="times its bytes"):
        bench_kernels.main([*words, "--most", "0.9"])


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="no kernel has this name"):
        bench_kernels.main(["--only", "gone", "--out", str(tmp_path / "out")])
