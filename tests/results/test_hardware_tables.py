from espnet_spike.results.experiments import find_experiments, write_results
from espnet_spike.results.hardware_tables import simulation_lines
from espnet_spike.results.markdown import render
from tests.helpers.experiments import make_experiment


def counts(cycles, memory=None):
    memory = cycles / 5 if memory is None else memory
    return {
        **{"cycles": cycles, "instructions": cycles / 2, "memory": memory},
        **{"latency_ms": cycles / 1e5, "energy_uj": cycles / 1e3},
    }


def result(name, model, dense, event, sparsity, memory=None):
    codings = {"dense": counts(dense), "dense_unrolled": counts(dense * 0.8)}
    parts = {"scan": dict(codings)}
    if event:
        forms = {"event": counts(event, memory), "event_unrolled": counts(event * 0.8, memory)}
        codings |= forms
        parts = {"scan": dict(codings), "neuron": forms}
    return {
        "experiment": name,
        "simulate": {
            "small": {
                **{"model": model, "codings": codings, "parts": parts, "layers": {"1": codings}},
                **{"sparsity": sparsity, "versions": ["Ibex x"], "flags": ["-O2"]},
                **{
                    "utterances": 2,
                    "frames": 9,
                    "data": "test",
                    "energy": "prices",
                    "hardware": {"clock_mhz": 100},
                },
                "fit": {"held_out_max": 0.001, "float_error_max": 0.02},
            }
        },
    }


def test_without_a_simulation_there_is_no_section():
    assert simulation_lines([{"experiment": "a"}]) == []


def test_models_stand_beside_the_paper_against_both_baselines():
    lines = simulation_lines(
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
    assert "**scan**" in text and "within 0.10 %" in text


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


def test_findings_can_be_refuted():
    text = "\n".join(
        simulation_lines(
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
