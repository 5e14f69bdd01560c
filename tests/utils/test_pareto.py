import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.utils.pareto import pareto

COST = st.integers(0, 5)


@given(st.lists(st.tuples(COST, COST), min_size=1, max_size=12))
def test_pareto_points_are_beaten_by_none(pairs):
    flags = pareto(pairs)
    assert any(flags)
    for (w, e), best in zip(pairs, flags, strict=True):
        beaten = any(a <= w and b <= e and (a, b) != (w, e) for a, b in pairs)
        assert best != beaten


def test_any_number_of_costs():
    assert pareto([]) == []
    assert pareto([(1, 2, 3), (1, 2, 4), (2, 1, 3), (1, 2, 3)]) == [True, False, True, True]
    with pytest.raises(ValueError, match="argument 2 is"):
        pareto([(1, 2), (1,)])
