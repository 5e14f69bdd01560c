from espnet_spike.results.energy_tables import energy_tables


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
    ((_, head, rows),) = energy_tables(
        [{"experiment": "asr_a", "parameters": 1, "decodes": decodes}]
    )
    shown = [[row[head.index(name)] for name in ("of points %", "by MACs %")] for row in rows]
    assert shown == [["50.0", "25.0"], ["–", "–"]]
    assert all(len(row) == len(head) for row in rows)
