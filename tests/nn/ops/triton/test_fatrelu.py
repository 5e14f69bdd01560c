"""The FATReLU kernels against the reference in float64."""

import pytest
import torch

from espnet_spike.nn.ops.fatrelu import fatrelu, frame_fatrelu
from espnet_spike.nn.ops.triton import fatrelu as kernels
from tests.helpers.interpreter import compare, grid, interpreted, kernels_on, on_each_device, randn

SHAPES = grid([(2, 2, 20)], [(2, 3, 40), (1, 1, 1), (3, 5, 2, 33), (1, 2, 4097), (2, 7, 256)])
DTYPES = grid(["float32", "bfloat16"], ["float16"])


@on_each_device
@pytest.mark.parametrize("learnt", [True, False])
@pytest.mark.parametrize("surrogate", ["sigmoid", "rational"])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_statistics_and_gradients(shape, dtype, two_sided, surrogate, learnt, device):
    def run(x, T):
        T = T if learnt else T.detach()
        unit = torch.full((), 0.75, dtype=x.dtype, device=x.device)
        return frame_fatrelu(x, T, 3.0, two_sided, surrogate, unit)

    compare(run, {"x": randn(*shape), "T": torch.tensor(0.5)}, dtype, device)


@on_each_device
def test_ties_and_what_is_no_number(device):
    """T passes, 0 never does; NaN is dropped and infinity passes, as in the reference."""
    x = torch.tensor([0.5, 0.49999997, -0.5, 0.0, -0.0, 1e-45, float("nan"), float("inf")])
    for T in (0.5, 0.0):
        for two_sided in (False, True):
            results = []
            for wanted, where in ((True, device), (False, "cpu")):
                with kernels_on(wanted):
                    threshold = torch.tensor(T, device=where)
                    results.append(fatrelu(x.to(where), threshold, two_sided=two_sided).cpu())
            assert torch.equal(*results), (T, two_sided, results)


@interpreted
def test_views_are_taken():
    x = randn(3, 40, 2).mT
    with kernels_on(True):
        y = fatrelu(x, torch.tensor(0.3))
    assert torch.equal(y, torch.where(x >= 0.3, x, 0.0))
    assert kernels.MOST > 40
