import torch

from espnet_spike.nn.layers.spiking_mamba import SpikingMamba
from tests.helpers.norms import excited


@torch.no_grad()
def test_the_gate_fires_where_output_and_gate_fire():
    torch.manual_seed(0)
    mamba = excited(SpikingMamba(4, {"v_th": 0.3}, d_state=2)).eval()
    y, z = torch.randn(2, 1, 12, mamba.out_proj.in_features)
    gated = mamba.gated(y, z, None)
    assert torch.equal(gated, mamba.f7(y) * mamba.f6(z))
    assert set(gated.unique().tolist()) == {0.0, 1.0}
