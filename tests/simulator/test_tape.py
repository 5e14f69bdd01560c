import numpy as np
import pytest
import torch

from espnet_spike.errors import UserError
from espnet_spike.simulator.tape import Tape, windows

pytestmark = pytest.mark.xdist_group("simulator")


def test_windows_are_what_a_convolution_reads():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 4, 3))
    w = torch.from_numpy(rng.normal(size=(5, 3, 3, 2)))
    got = np.einsum("octf,ntfc->no", w, windows([x], 3, 2, 0, 0)[:, :, :2])
    want = torch.nn.functional.conv2d(torch.from_numpy(x).permute(2, 0, 1)[None], w, stride=2)
    assert np.allclose(got, want[0, :, :, 0].T)
    # causal: the last row is the frame itself, the first frames see zeros
    causal = windows([x, x + 1], 3, 1, 2, 0)
    assert len(causal) == 18 and np.array_equal(causal[:, -1], np.concatenate([x, x + 1]))
    assert (causal[0, :2] == 0).all() and (causal[9, :2] == 0).all()


class Doubling(torch.nn.Module):
    """An encoder of one layer, whose numbers double."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.constant_(self.layer.weight, 1.0)

    def forward(self, speech, lengths):
        return self.layer(speech), lengths


def test_numbers_that_are_not_finite_are_named():
    fine, huge = torch.ones(1, 3, 2), torch.full((1, 3, 2), 3e38)
    with pytest.raises(UserError, match=r"layer of the encoder .* not finite on utterance 2"):
        Tape(Doubling()).record((x, torch.tensor([3])) for x in (fine, huge))
