from espnet_spike.results.experiments import find_experiments, write_results
from espnet_spike.results.hardware_tables import simulation_lines
from espnet_spike.results.markdown import render
from tests.helpers.experiments import make_experiment
from tests.helpers.simulations import result


def test_without_a_simulation_there_is_no_section():
    assert simulation_lines([{"experiment": "a"}]) == []


def test_notes_say_what_each_simulation_ran_on():
    first, second = result("d", "dense", 1000.0, None, 0.0), result("e", "E", 900.0, 500.0, 0.6)
    second["simulate"]["small"] |= {"utterances": 3, "frames": 17, "data": "dev"}
    second["simulate"]["fast"] = second["simulate"].pop("small") | {
        "hardware": {"clock_mhz": 250},
        "flags": ["-O3"],
    }
    text = "\n".join(simulation_lines([first, second]))
    assert (
        "operands of 2 utterances (9 frames) of `test`; 3 utterances (17 frames) of `dev`" in text
    )
    assert "latency at 100 MHz; 250 MHz;" in text and "flags `-O2`; `-O3`." in text
    assert text.count("Ibex x") == 1


def test_the_report_has_the_section_and_results_keep_it(tmp_path):
    exp = make_experiment(tmp_path, "x", {})
    simulated = result("asr_x", "E", 1000.0, 300.0, 0.5)["simulate"]
    (exp / "results.json").write_text(__import__("json").dumps({"simulate": simulated}))
    experiments = find_experiments(tmp_path / "exp")
    results = [write_results(e) for e in experiments]
    assert results[0]["simulate"] == simulated
    lines = render("x", experiments, results)
    assert "## Hardware cycles" in lines
    assert lines.index("## Hardware cycles") < lines.index("## Environments")


def test_every_part_of_a_model_has_its_cycles():
    text = "\n".join(simulation_lines([result("e", "E", 1100.0, 600.0, 0.62)]))
    assert "**scan**" in text and "within 0.10 %" in text
    assert "aper" not in text  # what others have claimed is no part of a user's results
