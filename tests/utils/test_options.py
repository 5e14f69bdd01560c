"""Option values from YAML are checked: names with a did-you-mean, numbers against their ranges."""

import numpy as np
import pytest

from espnet_spike.utils.options import check_keys, check_numbers, choose, numbers_in_range


def test_a_known_value_is_returned():
    assert choose("norm", "bn", ["ln", "bn"]) == "bn"


def test_an_unknown_value_names_option_and_nearest():
    with pytest.raises(ValueError, match=r"qk_mode: 'bilinaer' .*did you mean 'bilinear'.*asym"):
        choose("qk_mode", "bilinaer", ["bilinear", "asym"])


def test_an_unknown_key_is_refused():
    def target(self, tau, v_th):
        pass

    check_keys("neuron_conf", {"tau": 2.0}, target)
    with pytest.raises(ValueError, match="did you mean 'v_th'"):
        check_keys("neuron_conf", {"vth": 1.0}, target)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_blocks", 0), ("T", 1.5), ("tau", 0.5), ("v_th", float("nan")), ("fat_k", float("inf"))],
)
def test_a_number_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: {value} is out of range; give a (whole )?num"):
        check_numbers({"other": -1, name: value})


def test_what_is_no_number_is_out_of_range_but_for_none():
    check_numbers({"num_blocks": None, "unknown": -1})
    check_numbers({"T": np.int64(4), "tau": np.float32(2), "attention_window": range(4, 6)})
    with pytest.raises(ValueError, match=r"T: .*2\.0.* is out of range; give a whole number"):
        check_numbers({"T": np.float64(2)})
    for value in ("3", True):
        with pytest.raises(ValueError, match=f"T: {value!r} is out of range; give a whole number"):
            check_numbers({"T": value})


def test_a_constructor_checks_numbers_by_position_and_by_name():
    class Made:
        @numbers_in_range
        def __init__(self, dim: int, T: int = 4, **options: float) -> None:
            """Make it."""
            self.all = dim, T, options

    assert Made(-1, 2, tau=3.0).all == (-1, 2, {"tau": 3.0})
    for args, options in (((1, 0), {}), ((1,), {"T": 0}), ((1,), {"tau": 0.0})):
        with pytest.raises(ValueError, match="out of range"):
            Made(*args, **options)
    assert Made.__init__.__doc__ == "Make it."
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'dim'"):
        Made()
