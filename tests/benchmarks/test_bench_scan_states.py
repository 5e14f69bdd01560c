"""The benchmark of the scan by states and frames, on next to nothing."""

import json

import pytest

from benchmarks import bench_scan_states

pytest.importorskip("mambapy", reason="the peer is installed with the group bench")


def test_every_shape_has_its_cases_and_limits(tmp_path, monkeypatch):
    fresh = bench_scan_states.memory_of  # a process of its own, seconds of imports: once is enough
    measured = []

    def memory_of(case, shape):
        measured.append((case, shape[2]))
        return fresh(case, shape) if len(measured) == 1 else 10_000 * len(measured)

    monkeypatch.setattr(bench_scan_states, "memory_of", memory_of)
    stem = tmp_path / "states"
    words = "--batch 1 --channels 16 --states 2 4 --frames 8 --repeats 1 --out".split()
    bench_scan_states.main([*words, str(stem)])
    rows = json.loads(stem.with_suffix(".json").read_text())["rows"]
    assert [row["N"] for row in rows] == [2] * 5 + [4] * 5
    assert {row["case"] for row in rows} >= set(bench_scan_states.CASES)
    assert all(row["ms"] > 0 for row in rows)
    assert measured == [(case, N) for N in (2, 4) for case in bench_scan_states.CASES.values()]
    memory = [row["memory, MB"] for row in rows if row["case"] in bench_scan_states.CASES]
    assert memory[0] >= 0 and memory[1:] == pytest.approx([0.02, 0.03, 0.04, 0.05, 0.06])
    exponential = [row for row in rows if "exponentials" in row["case"]]
    assert [row["x exponential limit"] for row in exponential] == [1.0, 1.0]


def test_a_case_that_does_not_fit_is_named_and_left_out():
    shape = (1, 16, 2, 8)
    not_run = bench_scan_states.left_out(shape, limit_gib=0.0, torch_updates=255)
    rows = {row["case"]: row for row in bench_scan_states.rows_of(shape, 1, not_run)}
    assert "GiB" in rows[bench_scan_states.PEER]["ms"]
    assert "state updates" in rows[bench_scan_states.TORCH]["ms"]
    assert rows[bench_scan_states.OURS]["ms"] > 0
    assert all(row["x mambapy"] == "" for row in rows.values())
    assert not bench_scan_states.left_out(shape, limit_gib=1.0, torch_updates=256)


def test_memory_of_the_peer_is_that_of_its_padded_tensors():
    # 10 tensors of 4 bytes x 1 x 1024 x 256 x 2048 (1500 rounded up to a power of two)
    assert bench_scan_states.peer_gib((1, 1024, 256, 1500)) == 20.0
