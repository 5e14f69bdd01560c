"""The other ways to make an attention map, and the choice by ``qk_mode``.

``asym`` and ``repconv`` are further readings of the attention of Song et al. (2025); ``ssa``
(Spikformer, arXiv 2209.15425) and ``sdsa`` (Spike-driven Transformer, arXiv 2307.01694) are
baselines in the same block.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.nn.layers.repconv import RepConv, fold_norm
from espnet_spike.nn.layers.spiking_attention import (
    Spikes,
    SpikingAttention,
    mask_spikes,
    projection,
)
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.neurons.spike_train import SpikeTrain, real_values
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.utils.options import choose


class AsymAttention(SpikingAttention):
    """Real-valued Q, spiking K and V, so that the map needs additions only."""

    neuron_k: nn.Module

    def build(self, neurons: NeuronFactory, qkv_bias: bool, inner_norm: bool) -> None:
        """Add the projections and a neuron on K."""
        super().build(neurons, qkv_bias, inner_norm)
        self.neuron_k = neurons.unnormed(self.dim)

    def project(self, xs: Spikes, mask: Tensor) -> tuple[Spikes, Spikes, Spikes]:
        """Return real Q, spiking K and V."""
        query, key, value = super().project(xs, mask)
        return query, self.neuron_k(key, mask), value

    @torch.no_grad()
    def reparameterize(self, fold_qk: bool) -> None:
        """Nothing to merge: a neuron stands between W_K and the map."""


class RepConvAttention(SpikingAttention):
    """Q, K and V by re-parameterised convolutions, a neuron on each.

    As Spike-driven Transformer V2. Training adds two matrices per projection; inference has one
    convolution of width 3 each.
    """

    conv_q: RepConv
    conv_k: RepConv
    conv_v: RepConv
    neuron_q: nn.Module
    neuron_k: nn.Module

    def build(self, neurons: NeuronFactory, qkv_bias: bool, inner_norm: bool) -> None:
        """Add the convolution chains and a neuron on each."""
        self.folded = None
        for name in "qkv":
            setattr(self, f"conv_{name}", RepConv(self.dim))
            setattr(self, f"neuron_{name}", neurons(self.dim))

    def project(self, xs: Spikes, mask: Tensor) -> tuple[Spikes, Spikes, Spikes]:
        """Return spiking Q, K and V."""
        xs = mask_spikes(xs, mask)
        query = self.neuron_q(self.conv_q(xs, mask), mask)
        key = self.neuron_k(self.conv_k(xs, mask), mask)
        return query, key, self.neuron_v(self.conv_v(xs, mask), mask)

    @torch.no_grad()
    def reparameterize(self, fold_qk: bool) -> None:
        """Merge each chain into one convolution."""
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            conv.reparameterize()


class SSA(SpikingAttention):
    """Spikformer's attention: Q and K binary, after linear and batch norm; scale 0.125.

    V keeps the levels of the other neurons (ours), so that against ``bilinear`` only the map's
    precision differs; with ``neuron: lif`` it is binary as in Spikformer.
    """

    def build(self, neurons: NeuronFactory, qkv_bias: bool, inner_norm: bool) -> None:
        """Add the projections, their norms and neurons."""
        self.folded = None
        self.add_binary_projections(neurons)
        if options := neurons.cls.weak_input_options:  # a sum over keys
            self.neuron_out = neurons(self.dim, **options)
        self.scale = 0.125

    def add_binary_projections(self, neurons: NeuronFactory) -> None:
        """Add Q, K, V = neuron(BN(linear)), Q and K binary."""
        for name in "qkv":
            linear = projection(self.dim, bias=False, gain=1 / math.sqrt(2))
            setattr(self, f"linear_{name}", linear)
            setattr(self, f"norm_{name}", MaskedBatchNorm(self.dim))
            neuron = neurons(self.dim) if name == "v" else neurons.binary(self.dim)
            setattr(self, f"neuron_{name}", neuron)

    def project(self, xs: Spikes, mask: Tensor) -> tuple[Spikes, Spikes, Spikes]:
        """Return spiking Q, K and V."""
        spikes = []
        for name in "qkv":
            x = getattr(self, f"linear_{name}")(xs)
            norm = getattr(self, f"norm_{name}")
            x = norm(x, mask) if isinstance(norm, MaskedBatchNorm) else norm(x)
            spikes.append(getattr(self, f"neuron_{name}")(x, mask))
        query, key, value = spikes
        return query, key, value

    @torch.no_grad()
    def reparameterize(self, fold_qk: bool) -> None:
        """Fold the batch norms into the projections before them."""
        for name in "qkv":
            norm = getattr(self, f"norm_{name}")
            if isinstance(norm, MaskedBatchNorm):
                setattr(self, f"linear_{name}", fold_norm(getattr(self, f"linear_{name}"), norm))
                setattr(self, f"norm_{name}", nn.Identity())


class SDSA(SSA):
    """Spike-driven Transformer's attention: a gate per channel instead of a map, linear in N.

    O = neuron_gate(sum over n of Q_n * K_n) * V with Q, K and the gate binary. O is a spike
    again, so no neuron stands before W_O. Without a map there is no decay and no causal form.
    """

    has_map = False

    def build(self, neurons: NeuronFactory, qkv_bias: bool, inner_norm: bool) -> None:
        """Add the projections, their norms and neurons, and the gate's neuron."""
        if self.decay.causal or self.decay.learn:
            raise ValueError("qk_mode: sdsa has no map; causal and learn_decay ask for one")
        super().build(neurons, qkv_bias, inner_norm)
        del self.neuron_out, self.norm_out
        self.neuron_gate = neurons.binary(self.dim)

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Attend, see the base class."""
        query, key, value = self.project(self.neuron_in(x, mask), mask)
        agreement = (
            (real_values(query) * real_values(key))
            .masked_fill(~mask[..., None], 0.0)
            .sum(1, keepdim=True)
        )
        gate = self.neuron_gate(agreement, mask.any(1, keepdim=True))
        if not isinstance(value, SpikeTrain):
            return self.linear_out(gate * value)
        unit = gate.frame * value.frame, gate.channel * value.channel
        if gate.levels == 1:
            gates = gate.slot(1)
            passed = value.each(lambda spikes: gates.to(spikes.dtype) * spikes)
            return self.linear_out(replace(passed, frame=unit[0], channel=unit[1]))
        # a neuron of another package that has no binary form
        counts = gate.counts * value.counts
        return self.linear_out(SpikeTrain(counts, *unit, gate.levels * value.levels))


QK_MODES: dict[str, type[SpikingAttention]] = {
    "bilinear": SpikingAttention,
    "asym": AsymAttention,
    "repconv": RepConvAttention,
    "ssa": SSA,
    "sdsa": SDSA,
}


def build_attention(qk_mode: str, *args: Any, **kwargs: Any) -> SpikingAttention:
    """Return the attention named ``qk_mode``; arguments as of ``SpikingAttention``.

    Raises:
        ValueError: for a name not in ``QK_MODES``.
    """
    return QK_MODES[choose("qk_mode", qk_mode, QK_MODES)](*args, **kwargs)
