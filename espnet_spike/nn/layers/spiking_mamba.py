"""Mamba on LIF spikes (SpikMamba, as Ahmed et al., 2026, arXiv 2606.01135, name it).

Where norms and neurons stand is our reading; with a norm before each neuron the parameters are as
many as published. Neurons run over frames (``neurons.frame_lif``).

    s0 = LIF(BN(u));  [x; z] = in_proj(s0);  s1 = LIF(BN(causal depthwise conv(x)))
    (dt_r, B, C) = x_proj(s1);  y = selective_scan(s1, softplus(dt_proj(dt_r)), A, B, C) + D s1
    out = out_proj(LIF(BN(y)) * LIF(BN(z)))

in_proj, x_proj and out_proj read spikes only, and the scan's input is a select. Real values meet
weights at three places, ``REAL_VALUED``: the convolution, dt_proj and the scan's state.
"""

from typing import Any

from torch import Tensor

from espnet_spike.nn.layers.mamba import Mamba, SelectiveSSM
from espnet_spike.nn.neurons.frame_lif import normed_neuron

REAL_VALUED = ("conv.weight", "dt_proj.weight", "A_log")


class SpikingMamba(Mamba):
    """Mamba on spikes: LIF neurons before in_proj, after the convolution, on gate and output.

    Args:
        dim: D.
        lif: of the neurons, see ``frame_neuron``.
        **conf: of ``Mamba``.
    """

    def __init__(self, dim: int, lif: dict, **conf: Any) -> None:
        super().__init__(dim, **conf)
        inner = self.out_proj.in_features
        self.f5 = normed_neuron(dim, lif)
        self.f6 = normed_neuron(inner, lif, T=1)  # the gate stays open or shut
        self.f7 = normed_neuron(inner, lif)
        for ssm in (self.ssm, self.ssm_reverse):
            if ssm is not None:
                ssm.activation = normed_neuron(inner, lif)

    def real_valued(self) -> list[str]:
        """Return the weights that are multiplied with real values, see the module."""
        return [
            f"{name}.{weight}"
            for name, ssm in self.named_children()
            if isinstance(ssm, SelectiveSSM)
            for weight in REAL_VALUED
        ]

    def gated(self, y: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
        """Return LIF(BN(y)) * LIF(BN(z)): a spike again."""
        return self.f7(y, mask) * self.f6(z, mask)
