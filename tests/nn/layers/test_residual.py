"""The pre-norm residual form."""

import torch
from torch import nn

from espnet_spike.nn.layers.mamba import RMSNorm
from espnet_spike.nn.layers.residual import PreNormResidual


class Scaled(nn.Module):
    """A sublayer with an input of its own."""

    def forward(self, x, factor):
        return factor * x


def test_the_sublayer_reads_the_normed_input_and_is_added():
    x = torch.tensor([[[3.0, 4.0]]])
    block = PreNormResidual(RMSNorm(2, eps=0.0), Scaled(), 0.0)
    rms = (12.5) ** 0.5  # of 3 and 4
    torch.testing.assert_close(block(x, 2.0), x + 2.0 * x / rms)


def test_dropout_leaves_the_shortcut():
    block = PreNormResidual(nn.Identity(), Scaled(), 1.0)
    x = torch.randn(2, 3, 4)
    assert torch.equal(block.train()(x, 5.0), x)
    torch.testing.assert_close(block.eval()(x, 5.0), 6 * x)
