"""The attention of Spikformer, binary and without a softmax, over frames."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from espnet_spike.nn.layers.heads import check_heads, merge_heads, split_heads
from espnet_spike.nn.neurons.frame_lif import frame_neuron, normed_neuron
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.nn.ops.decay import decay_matrix
from espnet_spike.nn.ops.decay_attention import decay_attention
from espnet_spike.nn.ops.precision import at_least_fp32, full_matmul
from espnet_spike.nn.stream_state import Stateful


class SpikformerAttention(Stateful, nn.Module):
    """Spikformer's attention (arXiv 2209.15425) on ``(B, L, D)``: (Q K^T) V * scale, no softmax.

    Q, K and V are binary, LIF(BN(linear)); so is the context behind a neuron of a lower threshold.
    The output is BN(linear), real-valued: the shortcut around it has no spikes (ours). Without a
    softmax the product K^T V comes first: exact, since it sums integers, and linear in L.

    The causal form, ours, sums over earlier frames alone, which fade: head h weighs the frame j
    before frame i by gamma_h^(i-j). One matrix a head, gamma K^T V, is all it knows of the past.

    Args:
        dim: D.
        heads: H, a divisor of D.
        lif: of the neurons, see ``frame_neuron``.
        scale: of the product.
        v_th: threshold of the neuron on the context.
        decay: None for all frames alike; else exponents e of the first and the last head of the
            causal form, gamma = 1 - 2^-e.
        norm_in: a batch norm before the neuron on the input; not needed behind another norm.
        bias: of the four linear layers.

    Raises:
        ValueError: D is no multiple of H.
    """

    log_gamma: Tensor | None

    def __init__(
        self,
        dim: int,
        heads: int,
        lif: dict,
        scale: float = 0.125,
        v_th: float = 0.5,
        decay: Sequence[float] | None = None,
        norm_in: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.scale = scale
        log_gamma = None
        if decay is not None:
            first, last = decay
            log_gamma = torch.log1p(-(2.0 ** -torch.linspace(first, last, heads)))
        self.register_buffer("log_gamma", log_gamma, persistent=False)
        self.neuron_in = normed_neuron(dim, lif) if norm_in else frame_neuron(dim, lif)
        for name in "qkv":
            self.add_module(f"linear_{name}", nn.Linear(dim, dim, bias=bias))
            self.add_module(f"neuron_{name}", normed_neuron(dim, lif))
        self.neuron_out = frame_neuron(dim, lif, v_th=v_th)
        self.linear_out = nn.Linear(dim, dim, bias=bias)
        self.norm_out = MaskedBatchNorm(dim)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: ``(B, L, D)``.
            mask: ``(B, L)``, true on valid frames, which come first; None when all are.
            visible: not used, as ``SelfAttention`` is called; attention here has no window.
        """
        s = self.neuron_in(x, mask)
        q, k, v = (
            split_heads(
                getattr(self, f"neuron_{name}")(getattr(self, f"linear_{name}")(s), mask),
                self.heads,
            )
            for name in "qkv"
        )
        # the neurons are silent on padding, so K and V are zero there; sums of spikes, which half
        # precision cannot hold, go on to the neuron in fp32
        if self.log_gamma is None:
            if self.carry is not None:
                raise ValueError("a stream needs causal: true")
            context = full_matmul(q, full_matmul(k.mT, v))
        elif self.carry is None and self.neuron_out.spike_mode == "integer":
            context = decay_attention(q, k, v, self.log_gamma, causal=True)
        else:  # nothing but spikes is weighed within a chunk: there, gamma weighs sums alone
            carry = {} if self.carry is None else self.carry
            context = self._chunk(carry, self.log_gamma, q, k, v)
        context = context * self.scale
        context = self.neuron_out(merge_heads(context), mask)
        return self.norm_out(self.linear_out(context), mask)

    def _chunk(
        self, carry: dict[str, Tensor], log_gamma: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Attend within a chunk ``(B, H, n, ...)`` and, through one matrix a head, before it."""
        frames = q.shape[2]
        q, k, v = (at_least_fp32(x) for x in (q, k, v))
        t = torch.arange(1, frames + 1, device=q.device, dtype=q.dtype)
        log_gamma = log_gamma.to(q.dtype)[:, None]
        rising, falling = torch.exp(t * log_gamma), torch.exp((frames - t) * log_gamma)
        decay = decay_matrix(log_gamma[:, 0], frames, causal=True)
        context = full_matmul(full_matmul(q, k.mT) * decay, v)
        past = carry.get("kv")
        new = full_matmul((k * falling[..., None]).mT, v)
        if past is not None:
            context = context + full_matmul(q * rising[..., None], past)
            new = new + rising[:, -1, None, None] * past
        carry["kv"] = new
        return context
