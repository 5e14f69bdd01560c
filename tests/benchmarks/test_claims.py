import json

import pytest

from benchmarks.claims import claims, main
from espnet_spike.errors import UserError
from tests.helpers.experiments import make_experiment
from tests.helpers.simulations import result


def test_models_stand_beside_the_paper_against_both_baselines():
    lines = claims(
        [
            result("d", "dense", 1000.0, None, 0.0),
            result("n", "naive", 1000.0, 900.0, 0.2),
            result("e", "E", 1100.0, 600.0, 0.62),
            result("o", "E, optimized", 1100.0, 400.0, 0.64),
            result("s", "S", 1000.0, 700.0, 0.72, memory=190.0),
        ]
    )
    text = "\n".join(lines)
    assert "|e|E|small|dense|plain|40.0|40.0|40.0|40.0|32.32 / 14.3 / 17.57 / 29.78|" in text
    assert "|e|E|small|naive|plain|33.3|" in text
    assert "|o|E, optimized|small|dense|unrolled|60.0|" in text
    assert "less than the sparsity: confirmed for e on small (45.5 % of the cycles" in text
    assert "Membranes eat the gain of spikes: confirmed for s" in text
    assert "over 10 %: confirmed on small (45.5 % to 63.6 %)" in text


def test_findings_can_be_refuted():
    text = "\n".join(
        claims(
            [
                result("e", "E", 1000.0, 300.0, 0.5),
                result("o", "E, optimized", 1000.0, 290.0, 0.6),
                result("s", "S", 1000.0, 200.0, 0.72, memory=10.0),
            ]
        )
    )
    assert "Membranes eat the gain of spikes: refuted for s" in text
    assert "sparsity: refuted for e" in text and "over 10 %: refuted" in text
    assert "spikes: refuted for s" in text
    assert "|e|E|small|own dense coding|plain|70.0|" in text


def test_the_command_reads_experiments_and_asks_for_a_simulation(tmp_path, capsys):
    exp = make_experiment(tmp_path, "x", {})
    with pytest.raises(UserError, match="no simulated experiment"):
        main([str(tmp_path / "exp")])
    found = result("asr_x", "E", 1000.0, 300.0, 0.5)
    (exp / "results.json").write_text(json.dumps(found))
    main([str(tmp_path / "exp")])
    assert "less than the sparsity: refuted for asr_x on small" in capsys.readouterr().out
