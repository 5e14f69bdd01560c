"""Intervals over trainings in tables of earlier reports."""

import math

import pytest

from benchmarks import seeds
from espnet_spike.errors import UserError

SEEDS = """\
# Results: digits

|experiment|ratio|95 %|ratio|95 %|
|---|---:|---:|---:|---:|
|asr_a_seed1|1|2|3|4|

|experiments|encoder|decoding|set|seeds|mean WER|95 % interval|over|each seed|std|CER|
|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|
|asr_a|iml|asr|test|3|3.00|2.50 .. 3.50|utterance|2.00, 3.00, 4.00|1.00|1|
|asr_b|iml|asr|test|3|6.00|5.50 .. 6.50|utterance|4.00, 6.00, 8.00|2.00|1|

The interval is of the mean over these seeds; std is over the seeds.

|experiments|compared with|decoding|set|runs|WER|WER compared with|difference\
|95 % interval|over|P(better)|
|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|
|asr_a|asr_b|asr|test|3 / 3|3.00|6.00|-3.00|-3.10 .. -2.90|utterance|1.000|
|asr_c|asr_b|asr|test|1 / 3|5.00|6.00|-1.00|-1.10 .. -0.90|utterance|1.000|
"""


def test_intervals_by_hand():
    # Student: t = 4.3027 of two degrees of freedom, times 1 / sqrt(3)
    assert seeds.student([2, 3, 4]) == pytest.approx((3 - 2.4841, 3 + 2.4841), abs=1e-4)
    # Welch: variances 1/3 and 4/3, (5/3)^2 / (1/18 + 16/18) = 2.941 degrees of freedom, t 3.2206
    half = 3.2206 * math.sqrt(5 / 3)
    found = seeds.difference([2, 3, 4], [4, 6, 8])
    assert found == pytest.approx((-3 - half, -3 + half), abs=0.005)
    assert seeds.student([2]) is None


def test_tables_get_intervals_over_seeds(tmp_path, capsys):
    path = tmp_path / "RESULTS.md"
    path.write_text(SEEDS)
    seeds.main([str(path)])
    text = path.read_text()
    assert "|asr_a_seed1|1|2|3|4|" in text
    assert "|mean WER|95 %, these trainings|over|each seed|std|seeds alone|CER|" in text
    assert "|2.00, 3.00, 4.00|1.00|0.52 .. 5.48|1|" in text
    assert "|-3.10 .. -2.90|utterance|-7.16 .. +1.16|" in text
    assert "|-1.10 .. -0.90|utterance|–|" in text
    assert "P(better)" not in text
    assert seeds.SEEDS_NOTE in text
    seeds.main([str(path)])
    assert path.read_text() == text
    assert "nothing to change" in capsys.readouterr().out


def test_a_difference_without_its_seeds_is_refused(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text(SEEDS.replace("|asr_b|iml|", "|asr_d|iml|"))
    with pytest.raises(UserError, match="no table of seeds has asr_b asr test"):
        seeds.main([str(path)])
    assert "asr_d" in path.read_text()
