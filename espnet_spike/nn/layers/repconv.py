"""Re-parameterised convolution: a chain for training that is one convolution for inference.

Spike-driven Transformer V2 (arXiv 2404.03663), in one dimension: 1x1 conv without bias, batch norm,
depthwise conv of width 3, 1x1 conv, batch norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.nn.layers.spike_layers import SpikeConv1d, SpikeLinear
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.norms import MaskedBatchNorm


class RepConv(nn.Module):
    """A projection of ``dim`` channels that mixes three frames, on spikes ``(B, N, C)``.

    Frames of padding must not spike: then they hold what the first batch norm makes of zero, which
    is also what the chain sees beyond the ends of an utterance, and the merge is exact there.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = SpikeLinear(dim, dim, bias=False)
        self.norm_in = MaskedBatchNorm(dim)
        self.depthwise = SpikeConv1d(dim, dim, 3, groups=dim, bias=False, padding=0)
        self.project = nn.Linear(dim, dim, bias=False)
        self.norm_out = MaskedBatchNorm(dim)
        self.merged: SpikeConv1d | None = None

    def forward(self, xs: Tensor | SpikeTrain, mask: Tensor) -> Tensor:
        """Return ``(B, N, C)``; ``mask`` ``(B, N)`` is true on valid frames."""
        if self.merged is not None:
            return self.merged(xs)
        x = self.expand(xs)
        # a frame without spikes added at either end, so that the norm makes the border's value
        x = self.norm_in(F.pad(x, (0, 0, 1, 1)), F.pad(mask, (1, 1)))
        return self.norm_out(self.project(self.depthwise(x)), mask)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Merge the chain into one convolution, in place.

        W[o,i,k] = s2_o sum_c P[o,c] D[c,k] s1_c E[c,i] with the norms as y = s x + b.
        """
        if self.merged is not None:
            return
        scale_in, shift_in = self.norm_in.affine()
        scale_out, shift_out = self.norm_out.affine()
        project = scale_out[:, None] * self.project.weight
        depthwise = self.depthwise.weight[:, 0]
        expand = scale_in[:, None] * self.expand.weight
        dim = len(scale_in)
        merged = SpikeConv1d(dim, dim, 3).to(expand)
        merged.weight.copy_(torch.einsum("oc,ck,ci->oik", project, depthwise, expand))
        assert merged.bias is not None  # not left out
        merged.bias.copy_(project @ (depthwise.sum(1) * shift_in) + shift_out)
        self.merged = merged.train(self.training)
        del self.expand, self.norm_in, self.depthwise, self.project, self.norm_out


@torch.no_grad()
def fold_norm(linear: SpikeLinear, norm: MaskedBatchNorm) -> SpikeLinear:
    """Return one linear layer for ``linear`` followed by the evaluation mode of ``norm``."""
    scale, shift = norm.affine()
    folded = SpikeLinear(linear.in_features, linear.out_features).to(linear.weight)
    folded.weight.copy_(scale[:, None] * linear.weight)
    folded.bias.copy_(shift if linear.bias is None else scale * linear.bias + shift)
    return folded.train(linear.training)
