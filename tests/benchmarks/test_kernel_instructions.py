import json

import pytest

from benchmarks import kernel_instructions

pytestmark = pytest.mark.xdist_group("simulator")


def test_instructions_of_a_product_are_those_of_its_loop(tmp_path, capsys):
    """By hand, of four outputs: a word loaded, three shifts, four products, four sums."""
    names = ["linear_dense_blocked", "linear_spike_blocked", "linear_planes_blocked"]
    kernel_instructions.main(["--kernels", *names, "--out", str(tmp_path / "x")])
    dense, spike, planes = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert dense["multiplications"] == pytest.approx(1, abs=0.05)
    assert dense["loads"] == pytest.approx(1 / 4 + 1 / 16, abs=0.03)  # and the activation
    assert dense["others"] == pytest.approx(7 / 4 + 0.1, abs=0.15)
    for row in spike, planes:
        assert abs(row["multiplications"]) < 0.01
        # all += q, odd += q >> 8 & mask: four for four outputs
        assert row["others"] == pytest.approx(1, abs=0.35)
    assert "linear_spike_blocked" in capsys.readouterr().out
