from dataclasses import replace

import numpy as np
import pytest

from espnet_spike.simulator import operations as ops

pytestmark = pytest.mark.xdist_group("simulator")


def test_quantisation_loses_no_event_and_overflows_nothing():
    x = np.array([[1e-9, 0.0, 1.0, -1e-9]])
    q, scale = ops.quantise_events(x)
    assert (q != 0).tolist() == [[True, False, True, True]] and scale * q[0, 2] == pytest.approx(1)
    assert not ops.quantise(np.zeros(4))[0].any()
    w = np.full((3, 5000), 127, np.int8)
    assert abs(w[0].astype(int) @ np.full(5000, int(ops.headroom(w, (1,))))) < 2**31
    for factor in (0.24, 1e-3, 1e-7):
        multiplier, shift = ops.rescale(factor)
        assert multiplier / 2 ** (32 + shift) == pytest.approx(factor, rel=1e-6)


def test_forms_compare_by_identity():
    form = ops.relu(np.ones((3, 4)))
    assert form == form and form != replace(form)
