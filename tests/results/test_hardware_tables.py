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
    second["simulate"]["small"]["left_out"] = ["CTC", "decoder speech_mamba"]
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
    assert "Front end and encoder, without CTC, decoder speech_mamba. Ibex x" in text


def test_notes_name_the_loops_compared_and_the_costs_that_are_not_fitted():
    made = result("e", "E", 900.0, 500.0, 0.6)
    figures = made["simulate"]["small"]
    text = "\n".join(simulation_lines([made]))
    assert "fewest cycles: dense, blocked; events, blocked." in text and "not fitted" not in text
    figures["codings"]["dense_unrolled"]["cycles"] = 899.0
    figures["fit"]["not_fitted"] = ["gate_event", "scan_event"]
    text = "\n".join(simulation_lines([made]))
    assert "fewest cycles: dense, unrolled; events, blocked." in text
    assert "beyond 2 % and so not fitted: gate_event, scan_event. Memory" in text


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


def test_every_part_of_a_model_has_its_figures_beside_both_baselines():
    made = [
        result("d", "dense", 1000.0, None, 0.0, states=16),
        result("n", "naive", 1000.0, 900.0, 0.2, states=16),
        result("e", "E", 1100.0, 600.0, 0.62, states=16),
        result("f", "E", 1100.0, 1000.0001, 0.62, states=16),
        result("x", "E", 1100.0, 600.0, 0.62, states=256),
    ]
    lines = simulation_lines(made)
    text = "\n".join(lines)
    e = "|e|E-SpeechMamba, event-driven|small|16|"
    # blocked loops: the scan takes 450 of 600 cycles; 1000 in the dense, 675 in the naive model
    assert f"{e}**scan**|450|75.0|225|90|0.0045|55.0|55.0|55.0|33.3|33.3|33.3|" in lines
    assert f"{e}**neuron, threshold**|150|25.0|75|30|0.0015|–|–|–|33.3|33.3|33.3|" in lines
    assert f"{e}sum|600|100.0|300|120|0.0060|40.0|40.0|40.0|33.3|33.3|33.3|" in lines
    # no dense and no naive model with 256 states: its own dense coding takes 1100
    assert "|x|E-SpeechMamba, event-driven|small|256|sum|600|100.0|300|120|0.0060|45.5|" in text
    assert f"{e}naive|62.0|33.3|33.3|33.3|33.3|" in lines
    assert "within 0.10 %" in text and "-0.0|" not in text
    assert "aper" not in text  # what others have claimed is no part of a user's results


def test_a_simulation_of_before_has_no_blocked_loops_and_no_blocks():
    made = result("e", "E", 1000.0, 300.0, 0.5)
    figures = made["simulate"]["small"]
    for name in "blocks", "blocks_sparsity", "d_state":
        del figures[name]
    for forms in (figures["codings"], *figures["parts"].values()):
        for coding in [name for name in forms if name.endswith("_blocked")]:
            del forms[coding]
    lines = simulation_lines([made])
    assert "|e|E-SpeechMamba, event-driven|small|–|own dense coding|50.0|70.0|" in "\n".join(lines)
    row = next(line for line in lines if "|events, unrolled|" in line)
    assert row.endswith("|76.0|70.0|–|")
