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
    theirs = "32.32 / 14.3 / 17.57 / 29.78"
    assert f"|e|E-SpeechMamba, event-driven|small|–|dense|40.0|40.0|40.0|40.0|{theirs}|" in text
    assert "|e|E-SpeechMamba, event-driven|small|–|naive|33.3|" in text
    assert "|o|E-SpeechMamba, optimized|small|–|dense|60.0|" in text
    assert "(a) the gain in cycles is less than the sparsity: **confirmed**" in text
    assert "(c) more points inside Mamba add over 10 %: **confirmed**" in text


def test_the_command_reads_experiments_and_asks_for_a_simulation(tmp_path, capsys):
    exp = make_experiment(tmp_path, "x", {})
    with pytest.raises(UserError, match="no simulated experiment"):
        main([str(tmp_path / "exp")])
    found = result("asr_x", "E", 1000.0, 300.0, 0.5)
    (exp / "results.json").write_text(json.dumps(found))
    main([str(tmp_path / "exp")])
    output = capsys.readouterr().out
    assert "less than the sparsity: **refuted** (small, unknown scan states). asr_x (E)" in output
    assert "|asr_x|E-SpeechMamba, event-driven|small|–|own dense coding|70.0|" in output


def test_the_command_reads_what_explore_has_written(tmp_path, capsys):
    path = tmp_path / "explore.json"
    path.write_text(json.dumps([result("e", "E", 1000.0, 300.0, 0.5, states=256)]))
    main([str(path)])
    output = capsys.readouterr().out
    assert "|e|E-SpeechMamba, event-driven|small|256|own dense coding|70.0|" in output
