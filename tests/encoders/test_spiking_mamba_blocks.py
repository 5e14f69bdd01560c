import torch
from torch import nn

from espnet_spike.encoders.mamba_blocks import BlockConfig, Frames
from espnet_spike.encoders.spiking_mamba_blocks import SPIKING_BLOCKS, LIFPoints
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from tests.helpers.norms import excited


def test_neurons_stand_at_the_points_that_have_channels():
    points = LIFPoints({"F1": 3}, {"v_th": 0.7})
    neuron = points("F1", nn.ReLU())
    assert isinstance(neuron, FrameLIF) and neuron.v_th == 0.7
    assert torch.equal(
        points("F8", nn.ReLU())(torch.tensor([[[-1.0, 2.0]]])), torch.tensor([[[0.0, 2.0]]])
    )


@torch.no_grad()
def test_the_published_block_keeps_the_norms_and_shortcuts_of_the_dense_one():
    torch.manual_seed(0)
    conf = BlockConfig(8, 2, 12, 3, 0.5, 0.5, mamba={"d_state": 2, "bidirectional": False})
    block = SPIKING_BLOCKS["mamba_mhsa_mamba"](conf, {"v_th": 0.3}, 0.125, 0.3)
    block = excited(block).double().eval()
    x = torch.randn(2, 7, 8, dtype=torch.double)
    lengths = torch.tensor([7, 4])
    mask = torch.arange(7) < lengths[:, None]
    mamba_in, attn, mamba_out = block.mamba_in, block.attn, block.mamba_out
    assert isinstance(attn.sublayer.neuron_in, FrameLIF)
    y = x + mamba_in.sublayer(mamba_in.norm(x), lengths, mask)
    y = y + attn.sublayer(attn.norm(y), mask)
    want = y + mamba_out.sublayer(mamba_out.norm(y), lengths, mask)
    got = block(x, Frames(lengths, mask, None))
    assert torch.equal(got[mask], want[mask]) and not torch.allclose(got[mask], x[mask])
