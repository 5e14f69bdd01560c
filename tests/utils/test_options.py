"""Option values from YAML are checked with a did-you-mean."""

import pytest

from espnet_spike.utils.options import check_keys, choose


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
