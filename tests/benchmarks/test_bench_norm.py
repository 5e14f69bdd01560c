"""What batch norm and LIF move, on paper: a norm by hand, and the command at tiny sizes."""

import json

import torch

from benchmarks import bench_norm
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.utils.yaml import read_yaml


def test_a_norm_moves_eight_tensors_by_kernels_and_many_more_in_torch():
    with torch.device("meta"):
        norm, x = MaskedBatchNorm(256), torch.empty(2, 512, 256, requires_grad=True)
    size = 4 * x.numel()
    leaves = [x, norm.weight, norm.bias]
    in_torch, by_kernels = (bench_norm.step_of(lambda: norm(x), leaves, on) for on in (False, True))
    # forward x, x, y; backward x, g and x, g, dx; statistics are small
    assert 8 <= by_kernels.moved / size < 8.4
    assert in_torch.moved / size > 20
    assert by_kernels.launches < in_torch.launches


def test_the_table(tmp_path, monkeypatch):
    options = read_yaml(bench_norm.CONFIG)["encoder_conf"] | {"num_blocks": 1, "d_state": 4}
    monkeypatch.setattr(bench_norm, "read_yaml", lambda path: {"encoder_conf": options})
    words = ["--batch", "2", "--frames", "40", "--channels", "64", "--out", str(tmp_path / "out")]
    bench_norm.main(words)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["form"] for row in rows] == [*bench_norm.FORMS] * 2
    for first in (0, 3):
        assert rows[first]["MB"] > rows[first + 1]["MB"] > rows[first + 2]["MB"] > 0
        assert rows[first]["launches"] > rows[first + 2]["launches"]
    assert "estimated" in (tmp_path / "out.md").read_text()
