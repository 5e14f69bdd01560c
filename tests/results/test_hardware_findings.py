"""Verdicts on the published findings, against figures made by hand."""

import pytest

from espnet_spike.results.hardware_findings import best, findings, groups, simulations, whole
from tests.helpers.simulations import result


def verdicts(*made):
    return [(finding.claim[:3], finding.verdict) for finding in findings(simulations([*made]))]


def dense(states=None):
    return result("d", "dense", 1000.0, None, 0.0, states=states)


@pytest.mark.parametrize(
    ("cycles", "verdict"), [(381.0, "confirmed"), (380.0, "refuted"), (300.0, "refuted")]
)
def test_a_gain_is_less_than_the_sparsity(cycles, verdict):
    # 62 % sparsity, 1000 cycles dense: 380 remain if the gain is proportional
    assert verdicts(dense(), result("e", "E", 2000.0, cycles, 0.62)) == [("(a)", verdict)]


def test_without_a_dense_model_its_own_dense_coding_is_the_baseline():
    (finding,) = findings(simulations([result("e", "E", 2000.0, 800.0, 0.5)]))
    assert finding.verdict == "refuted" and "60.0 % of the cycles of own dense" in finding.why
    assert "the scan takes 75.0 %" in finding.why


@pytest.mark.parametrize(
    ("cycles", "memory", "sparsity", "verdict"),
    [
        (700.0, 150.0, 0.72, "confirmed"),  # saves 30 and 25 %, E 40 and 40 %
        (500.0, 100.0, 0.72, "refuted"),
        (700.0, 100.0, 0.72, "open"),  # less cycles, more accesses
        (700.0, 150.0, 0.60, "open"),  # not sparser than E
    ],
)
def test_b_membranes_eat_the_gain(cycles, memory, sparsity, verdict):
    spiking = result("s", "S", 1000.0, cycles, sparsity, memory=memory)
    found = findings(simulations([dense(), result("e", "E", 1000.0, 600.0, 0.62), spiking]))
    (finding,) = [finding for finding in found if finding.claim.startswith("(b)")]
    assert finding.verdict == verdict
    # half of the accesses and a quarter of the cycles are the neurons', see the helper
    assert "make 25.0 % of its cycles and 50.0 % of its accesses" in finding.why


@pytest.mark.parametrize(("cycles", "verdict"), [(499.0, "confirmed"), (500.0, "refuted")])
def test_c_more_points_add_over_ten_per_cent(cycles, verdict):
    made = dense(), result("e", "E", 1000.0, 600.0, 0.62)
    more = result("o", "E, optimized", 1000.0, cycles, 0.64)
    assert ("(c)", verdict) in verdicts(*made, more)


def test_only_models_with_as_many_scan_states_are_compared():
    made = [dense(16), result("e", "E", 1000.0, 600.0, 0.62, states=16)]
    made += [result("o", "E, optimized", 1000.0, 100.0, 0.64, states=256)]
    found = findings(simulations(made))
    assert [(f.claim[:3], f.where) for f in found] == [
        ("(a)", "small, 16 scan states"),
        ("(a)", "small, 256 scan states"),
    ]
    assert "own dense coding" in found[1].why and "of dense at" in found[0].why


def test_a_dense_model_has_no_finding_and_its_best_loops_are_the_blocked_ones():
    found = simulations([dense()])
    assert findings(found) == []
    (group,) = groups(found)
    figures = group.members["d"]
    assert best(figures, "event") == best(figures, "dense") == "dense_blocked"
    assert whole(figures, "dense_blocked")["cycles"] == 1000.0


@pytest.mark.parametrize(
    ("factors", "coding"),
    [((0.5, 2.0, 1.0), ""), ((2.0, 0.5, 1.0), "_unrolled"), ((1.0, 1.0, 1.0), "_blocked")],
)
def test_the_best_loops_are_those_of_the_fewest_cycles(factors, coding):
    (figures,) = simulations([result("e", "E", 1000.0, 500.0, 0.6)]).values()
    for kind, cycles in ("dense", 1000.0), ("event", 500.0):
        for loop, factor in zip(("", "_unrolled", "_blocked"), factors, strict=True):
            figures["codings"][kind + loop]["cycles"] = factor * cycles
        assert best(figures, kind) == kind + coding
