from espnet_spike.results.energy_tables import (
    baselines,
    columns_of,
    count_lines,
    energy_tables,
    is_dense,
    twin_name,
)


def test_sparsity_of_points_stands_in_the_table():
    column = {"joules_per_second": 1e-3, "twin_joules_per_second": 2e-3, "ratio": 2.0}
    column |= {"ratio_ci": [1.0, 3.0], "ratio_ci_meaningful": True}
    figures = {
        "sparsity": {
            "activations": 0.7,
            "firing_rate": None,
            "points": 0.5,
            "points_by_macs": 0.25,
        },
        "per_second": dict.fromkeys(("synops", "macs", "dense_macs"), 1.0),
        "energy": {"prices": {"compute": column, "total": column}},
    }
    # counted before there were such figures
    older = figures | {"sparsity": {"activations": 0.7, "firing_rate": None}}
    decodes = {"decode": {"test": figures, "older": older}}
    ((_, head, rows), products, memory) = energy_tables(
        [{"experiment": "asr_a", "parameters": 1, "decodes": decodes}]
    )
    # counted when there was but one baseline: it says so
    for _, energy_head, energy_rows in (products, memory):
        assert [len(row) for row in energy_rows] == [len(energy_head)] * 2
        assert energy_rows[0][3:] == ["`prices`", "count again", *["count again", "–", ""] * 3]
    shown = [[row[head.index(name)] for name in ("of points %", "by MACs %")] for row in rows]
    assert shown == [["50.0", "25.0"], ["–", "–"]]
    assert all(len(row) == len(head) for row in rows)


def test_a_baseline_that_is_not_there_says_so():
    other = {"joules_per_second": 3e-3, "ratio": 3.0, "ratio_ci": [2.0, 4.0]}
    other["ratio_ci_meaningful"] = False
    found = {"joules_per_second": 1e-3, "against": dict.fromkeys(("trained_twin", "quantised"))}
    found["against"]["twin"] = other
    dense = ("3", "3.00", "2.00 .. 4.00 *")
    assert baselines(found) == [("none given", "–", ""), dense, ("no counts", "–", "")]
    found["against"] = dict.fromkeys(("trained_twin", "twin", "quantised"), other)
    assert baselines(found) == [dense] * 3


def test_the_trained_twin_is_named():
    assert "count again" in twin_name({})
    assert twin_name({"trained_twin": None}) == "none given (--twin_exp)"
    assert twin_name({"trained_twin": {"itself": True}}).startswith("itself")
    assert twin_name({"trained_twin": {"asr_exp": "exp/asr_t"}}) == "exp/asr_t"


def dense_energy():
    other = {"joules_per_second": 3e-3, "ratio": 1.01, "ratio_ci": [1.0, 1.02]}
    other["ratio_ci_meaningful"] = True
    column = {"joules_per_second": 2.97e-3, "against": dict.fromkeys(("trained_twin", "quantised"))}
    column["against"]["twin"] = other
    column["against"]["trained_twin"] = other
    return {"twin": "itself, nothing skipped", "compute": column, "total": column}


def test_a_dense_model_saves_nothing_over_itself():
    energy = dense_energy()
    assert is_dense(energy) and not is_dense({"twin": "dense encoder"})
    for _, found in columns_of(energy):
        assert baselines(found) == [("itself", "–", ""), ("3", "–", ""), ("no counts", "–", "")]
    result = {
        **{"utterances": 1, "audio_seconds": 5.0, "uncovered": {}, "spikes_made_real": {}},
        "per_second": dict.fromkeys(("synops", "macs", "dense_macs"), 1.0),
        **{"sparsity": {"activations": None}, "energy": {"prices": energy}, "skipped": []},
        "trained_twin": {"itself": True},
    }
    lines = "\n".join(count_lines({"test": result}))
    assert "1.01" not in lines and "sparsity" not in lines and "–" not in lines
    energy["real_mac_share"], result["sparsity"]["product_inputs"] = 0.981, 0.029
    line = count_lines({"test": result})[1]
    assert line == "  zeros: operands 2.9 %; real MACs are 98.1 % of the compute energy"
    assert "test: 1 utterance," in lines and "nothing skipped 3 mJ/s" in lines


def test_a_baseline_that_is_not_there_has_no_figures_in_the_lines_of_count():
    other = {"joules_per_second": 3e-3, "ratio": 3.0, "ratio_ci": [2.0, 4.0]}
    other["ratio_ci_meaningful"] = True
    against = {"trained_twin": None, "twin": other, "quantised": None}
    column = {"joules_per_second": 1e-3, "against": against}
    energy = {"twin": "dense encoder", "compute": column, "total": column, "real_mac_share": 0.25}
    result = {
        **{"utterances": 2, "audio_seconds": 5.0, "uncovered": {}, "spikes_made_real": {}},
        "per_second": dict.fromkeys(("synops", "macs", "dense_macs"), 1.0),
        "sparsity": {"activations": 0.5, "product_inputs": 0.25, "multiplications": 0.125},
        **{"energy": {"prices": energy}, "skipped": [], "trained_twin": None},
    }
    lines = count_lines({"test": result})
    assert lines[1].startswith(
        "  zeros: neuron outputs 50.0 %, operands 25.0 %, multiplications 12.5"
    )
    assert lines[1].endswith("real MACs are 25.0 % of the compute energy")
    assert lines[3].endswith(
        "mJ/s; trained twin, zeros skipped: none given; dense twin, nothing skipped 3 mJ/s: 3.00x "
        "(2.00 .. 4.00); T + 1 levels: no counts"
    )


def counted_with(forms):
    other = {"joules_per_second": 3e-3, "ratio": 3.0, "ratio_ci": [2.0, 4.0]}
    other["ratio_ci_meaningful"] = False
    against = {"trained_twin": None, "twin": other, "quantised": None}

    def energy(ours):
        column = {"joules_per_second": ours, "against": against}
        return {"prices": {"twin": "dense encoder", "compute": column, "total": column}}

    names = [("integer", False), ("binary", False), ("integer", True), ("binary", True)]
    return {
        **{"utterances": 2, "audio_seconds": 5.0, "uncovered": {}, "spikes_made_real": {}},
        "per_second": dict.fromkeys(("synops", "macs", "dense_macs"), 1.0),
        **{"sparsity": {}, "energy": energy(1e-3), "skipped": [], "trained_twin": None},
        "forms": [
            {"spike_mode": mode, "fold_qk": fold, "energy": energy(ours)}
            for (mode, fold), ours in zip(names, forms, strict=False)
        ],
    }


def test_forms_that_do_not_differ_stand_once_in_the_lines_of_count():
    lines = count_lines({"test": counted_with([1e-3, 1e-3])})
    assert lines[-2:] == [
        "  as integer counts, W_Q and W_K apart; 0/1 spikes in slots, W_Q and W_K apart: "
        "the same as above",
        "  *: fewer than 20 utterances, the interval says little",
    ]
    assert sum("mJ/s;" in line for line in lines) == 2
    lines = count_lines({"test": counted_with([1e-3, 2e-3, 1e-3, 2e-3])})
    assert sum("mJ/s;" in line for line in lines) == 4
    heads = [line for line in lines if line.startswith("  as ")]
    assert [line.endswith("same as above") for line in heads] == [True, False]
