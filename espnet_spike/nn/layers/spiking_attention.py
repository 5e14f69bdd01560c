"""Spiking self-attention with a decay mask and no softmax (HD-RepSSA of IML-Spikeformer).

Song et al. (2025) name re-parameterised spiking self-attention; its equations were not available to
us. Ours, for the spikes Xs of the block's input neuron, heads h, d_h = d/H:

    Q_h = Xs W_Q^h,   K_h = Xs W_K^h                    real-valued: nothing spikes on Q and K
    A_h = Q_h K_h^T / sqrt(d_h)                         no softmax
    V   = neuron_v(Xs W_V)
    O_h = (A_h * Dn_h) V_h                              Dn: decay mask, 0 for padded keys
    Y   = neuron_out(concat_h O_h) W_O + b_O

Every weight layer, and the product with V, has one spiking operand. Re-parameterised for inference
(``fold_qk``), W_QK^h = W_Q^h W_K^h^T makes the map from spikes on both sides, A = Xs W_QK Xs^T.

``espnet_spike.nn.layers.attention_modes`` has the other readings and the baselines.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from espnet_spike.nn.accounting import in_accumulators
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.dropout import Dropout
from espnet_spike.nn.layers.heads import check_heads, merge_heads, split_heads
from espnet_spike.nn.layers.spike_layers import SpikeLinear
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.neurons.spike_train import SpikeTrain, add_up, real_values
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.nn.ops.decay_attention import decay_attention, fused
from espnet_spike.nn.ops.precision import at_least_fp32, full_matmul
from espnet_spike.utils.options import choose

FORMS = ("auto", "quadratic", "chunkwise")
CHUNKWISE_FROM = 1024
"""Frames from which ``auto`` takes the chunkwise form in torch."""
FUSED_FROM = 128
"""Frames from which it takes the kernel of the chunkwise form on a GPU."""

ROWS = 256
"""Rows of a map that is too large to be made whole."""

Spikes = Tensor | SpikeTrain
RowsOfMap = Callable[[int, int], Tensor]
"""Makes rows start..stop-1 of an attention map, ``(B, H, stop - start, N)``."""


class SpikingAttention(nn.Module):
    """Multi-head spiking self-attention; Q and K real-valued (``qk_mode: bilinear``).

    Args:
        dim: number of channels d.
        heads: H; must divide ``dim``.
        neurons: makes the neurons.
        decay: the layer's decay mask.
        qkv_bias: biases on the projections to Q, K and V (where no batch norm has one already).
        inner_norm: LayerNorm before the neurons on V and before W_O.
        dropout_rate: dropout on the attention map.
        form: ``quadratic`` makes the N x N map; ``chunkwise`` gives the same in linear time and
            memory; ``auto`` chooses by length, and on a GPU by whether there is a kernel for it.
            Spike trains have no chunkwise form, whose states are real values multiplied with real
            values: their map is made some rows at a time, in linear memory and quadratic time.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, for an unknown ``form``, or for dropout
            on a map that ``chunkwise`` does not have.
    """

    has_map = True
    pairwise_scaling = "decay_mask"  # kind of operator that a factor for each pair of frames is

    # what ``build`` adds; a subclass may do with less
    linear_q: SpikeLinear
    linear_k: SpikeLinear
    linear_v: SpikeLinear
    norm_v: nn.Module
    neuron_v: nn.Module

    def __init__(
        self,
        dim: int,
        heads: int,
        neurons: NeuronFactory,
        decay: DecayMask,
        qkv_bias: bool = False,
        inner_norm: bool = False,
        dropout_rate: float = 0.0,
        form: str = "auto",
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.form = choose("attention_form", form, FORMS)
        if form == "chunkwise" and dropout_rate:
            raise ValueError("attention_dropout_rate: the chunkwise form has no map to drop from")
        self.dim = dim
        self.heads = heads
        self.scale = 1.0 / math.sqrt(dim // heads)
        self.decay = decay
        self.neuron_in = neurons(dim)
        self.linear_out = projection(dim, bias=True, gain=1.0)
        self.norm_out: nn.Module = LayerNorm(dim) if inner_norm else nn.Identity()
        self.neuron_out = neurons(dim) if inner_norm else neurons.unnormed(dim)
        self.dropout = Dropout(dropout_rate)
        self.build(neurons, qkv_bias, inner_norm)

    def build(self, neurons: NeuronFactory, qkv_bias: bool, inner_norm: bool) -> None:
        """Add what makes Q, K and V."""
        self.add_projections(neurons, qkv_bias, inner_norm)
        self.folded: FoldedMap | None = None

    def add_projections(self, neurons: NeuronFactory, qkv_bias: bool, inner_norm: bool) -> None:
        """Add linear_q, linear_k, linear_v, norm_v and neuron_v."""
        for name in "qkv":
            # xavier of the three stacked matrices, as a packed projection would have
            linear = projection(self.dim, qkv_bias, gain=1 / math.sqrt(2))
            setattr(self, f"linear_{name}", linear)
        self.norm_v = LayerNorm(self.dim) if inner_norm else nn.Identity()
        self.neuron_v = neurons(self.dim) if inner_norm else neurons.unnormed(self.dim)

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Attend.

        Args:
            x: normalised membrane potentials ``(B, N, D)``.
            mask: ``(B, N)``, true on valid frames.
            lengths: ``(B,)``, the valid frames of each utterance.

        Returns:
            ``(B, N, D)``, real-valued, to be added to the membrane potential.
        """
        context = self.context(self.neuron_in(x, mask), mask, lengths)
        return self.linear_out(self.neuron_out(self.norm_out(context), mask))

    def context(self, xs: Spikes, mask: Tensor, lengths: Tensor) -> Tensor:
        """Return O ``(B, N, D)`` for the spikes of the input neuron."""
        if self.folded is None:
            query, key, value = self.project(xs, mask)
            return self.attend(query, key, value, mask, lengths)
        value = self.neuron_v(self.norm_v(self.linear_v(xs)), mask)
        # the queries of a folded map are too wide for a kernel
        if isinstance(value, Tensor) and self.is_chunkwise(xs.shape[1]):
            return self._chunkwise(*self.folded.operands(xs), value, mask, lengths)
        return self._from_map(self.folded.map_of(xs), value, mask, lengths)

    def project(self, xs: Spikes, mask: Tensor) -> tuple[Spikes, Spikes, Spikes]:
        """Return Q, K and V, each ``(B, N, D)``."""
        value = self.neuron_v(self.norm_v(self.linear_v(xs)), mask)
        return self.linear_q(xs), self.linear_k(xs), value

    def attend(
        self, query: Spikes, key: Spikes, value: Spikes, mask: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return O ``(B, N, D)``: decayed, row-normalised map times V, padded keys left out."""
        scaled = real_values(query) * self.scale
        if isinstance(key, Tensor) and isinstance(value, Tensor):
            if self.is_chunkwise(scaled.shape[1], scaled):
                q, k = (split_heads(x, self.heads) for x in (scaled, key))
                return self._chunkwise(q, k, value, mask, lengths)
        return self._from_map(attention_map(scaled, key, self.heads), value, mask, lengths)

    def is_chunkwise(self, length: int, query: Tensor | None = None) -> bool:
        """Tell whether a sequence of ``length`` frames goes without the N x N map.

        Args:
            length: N.
            query: ``(B, N, D)``, if its heads may be taken by the kernel.
        """
        if self.form != "auto":
            return self.form == "chunkwise"
        if self.training and self.dropout.p:
            return False
        if length >= FUSED_FROM and query is not None:
            heads = split_heads(query, self.heads)
            if fused(heads, heads) is not None:
                return True
        return length >= CHUNKWISE_FROM

    def _from_map(self, map_of: RowsOfMap, value: Spikes, mask: Tensor, lengths: Tensor) -> Tensor:
        """Return O from the N x N map; of many frames, so many rows of it at a time."""
        value = mask_spikes(value, mask)
        if isinstance(value, SpikeTrain):
            slots = range(1, value.levels + 1)
            shown = [split_heads(value.slot(t), self.heads) for t in slots]
        else:
            shown = [split_heads(value, self.heads)]
        length = value.shape[1]
        size = ROWS if self.is_chunkwise(length) and not torch.jit.is_tracing() else length
        contexts = []
        for start in range(0, length, size):
            rows = start, min(start + size, length)
            scores = at_least_fp32(map_of(*rows))
            matrix = self.decay.matrix(length, rows)
            if matrix is not None:
                scores = scores * matrix.to(scores.dtype)
            scores = self.dropout(scores)
            if isinstance(value, SpikeTrain):
                contexts.append(map_times_slots(scores, value, shown))
            else:
                contexts.append(full_matmul(scores, shown[0]))
        context = contexts[0] if len(contexts) == 1 else torch.cat(contexts, 2)
        context = self._join_heads(context, lengths)
        return context * value.channel if isinstance(value, SpikeTrain) else context

    def _chunkwise(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, lengths: Tensor
    ) -> Tensor:
        shown = split_heads(value, self.heads)
        log_gamma = None if self.decay.mode == "none" else self.decay.log_gamma
        row_scale = self.decay.row_scale(query.shape[2], lengths)
        context = decay_attention(
            query, key, shown, log_gamma, self.decay.causal, mask=mask, row_scale=row_scale
        )
        return merge_heads(context)

    def _join_heads(self, context: Tensor, lengths: Tensor) -> Tensor:
        """Normalise the rows, as a factor after the product, and join the heads."""
        row_scale = self.decay.row_scale(context.shape[2], lengths)
        if row_scale is not None:
            context = context * row_scale[..., None].to(context.dtype)
        return merge_heads(context)

    @torch.no_grad()
    def reparameterize(self, fold_qk: bool) -> None:
        """Turn the module into its inference form, in place; what is folded already stays.

        Args:
            fold_qk: merge W_Q and W_K, where Q and K are real-valued.
        """
        if fold_qk and self.folded is None:
            self.folded = FoldedMap(self.linear_q, self.linear_k, self.heads, self.scale)
            del self.linear_q, self.linear_k


class FoldedMap(nn.Module):
    """The attention map as a bilinear form of the spikes, without Q and K.

    A^h_ij = Xs_i W^h Xs_j^T + Xs_i u^h + Xs_j w^h + c^h with W^h = W_Q^h W_K^h^T * scale, and the
    last three terms from the biases. H d^2 weights instead of 2 d^2, but every product is an
    addition on spikes.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, heads: int, scale: float) -> None:
        super().__init__()
        # (H, d_h, d): rows of nn.Linear's weight are output channels
        w_q = query.weight.unflatten(0, (heads, -1)) * scale
        w_k = key.weight.unflatten(0, (heads, -1))
        self.weight = nn.Parameter(w_q.transpose(1, 2) @ w_k)
        self.has_bias = query.bias is not None
        if self.has_bias:
            b_q = query.bias.unflatten(0, (heads, -1)) * scale
            b_k = key.bias.unflatten(0, (heads, -1))
            self.u = nn.Parameter(torch.einsum("hcd,hc->hd", w_q, b_k))
            self.w = nn.Parameter(torch.einsum("hcd,hc->hd", w_k, b_q))
            self.c = nn.Parameter((b_q * b_k).sum(-1))

    def forward(self, xs: Spikes) -> Tensor:
        """Return the scaled map ``(B, H, N, N)`` for ``xs`` ``(B, N, D)``."""
        return self.map_of(xs)(0, xs.shape[1])

    def map_of(self, xs: Spikes) -> RowsOfMap:
        """Return what makes rows of the scaled map of ``xs`` ``(B, N, D)``."""
        if not isinstance(xs, SpikeTrain):
            query, key = self.operands(xs)
            return lambda start, stop: full_matmul(query[:, :, start:stop], key.mT)
        slots = [xs.slot(t) for t in range(1, xs.levels + 1)]
        weight = xs.channel[:, None] * self.weight * xs.channel
        left = over_slots(slot[:, None] @ weight for slot in slots)
        keys = [slot[:, None].transpose(-1, -2) for slot in slots]
        frame = xs.frame.expand(*xs.shape[:2], 1)
        of_rows = of_columns = None
        if self.has_bias:
            u, w = self.u * xs.channel, self.w * xs.channel
            of_rows = frame * over_slots(slot @ u.t() for slot in slots)
            of_columns = frame * over_slots(slot @ w.t() for slot in slots)

        def rows(start: int, stop: int) -> Tensor:
            units = frame[:, None, start:stop], frame[:, None].transpose(-1, -2)
            scores = map_of_slots(left[:, :, start:stop], keys, *units)
            if of_rows is not None and of_columns is not None:
                scores = scores + of_rows[:, start:stop].transpose(1, 2)[..., None]
                scores = scores + self.c[:, None, None]
                scores = scores + of_columns.transpose(1, 2)[..., None, :]
            return scores

        return rows

    def operands(self, xs: Spikes) -> tuple[Tensor, Tensor]:
        """Return ``(B, H, N, E)`` tensors whose product is the map; E = d, + 2 with biases.

        The bias terms are two more channels: (.., Xs_i u, 1) times (.., 1, Xs_j w + c).
        """
        x = real_values(xs)
        query = x[:, None] @ self.weight
        key = x[:, None].expand(-1, len(self.weight), -1, -1)
        if self.has_bias:
            rows = (x @ self.u.t()).transpose(1, 2)[..., None]
            columns = (x @ self.w.t() + self.c).transpose(1, 2)[..., None]
            one = torch.ones_like(rows)
            query, key = torch.cat([query, rows, one], -1), torch.cat([key, one, columns], -1)
        return query, key


def projection(dim: int, bias: bool, gain: float) -> SpikeLinear:
    """Return a xavier-initialised square projection, bias 0."""
    linear = SpikeLinear(dim, dim, bias=bias)
    nn.init.xavier_uniform_(linear.weight, gain=gain)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def attention_map(query: Tensor, key: Spikes, heads: int) -> RowsOfMap:
    """Return what makes rows of Q K^T per head; additions only where K is a spike train."""
    if not isinstance(key, SpikeTrain):
        q, k = split_heads(query, heads), split_heads(key, heads).transpose(-1, -2)
        return lambda start, stop: full_matmul(q[:, :, start:stop], k)
    train, q = key, split_heads(query * key.channel, heads)
    slots = range(1, train.levels + 1)
    keys = [split_heads(train.slot(t), heads).transpose(-1, -2) for t in slots]
    return lambda start, stop: per_key(over_slots(q[:, :, start:stop] @ k for k in keys), train)


@in_accumulators
def over_slots(products: Iterable[Tensor]) -> Tensor:
    """Return the sum of the products of a train's slots."""
    return add_up(products)


@in_accumulators
def map_of_slots(left: Tensor, keys: Sequence[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows ``(B, H, n, D)`` times the slots of K, ``(B, H, n, N)``.

    Args:
        left: the rows.
        keys: the slots, ``(B, 1, D, N)`` each.
        rows: units of the rows' frames, ``(B, 1, n, 1)``.
        columns: units of the columns' frames, ``(B, 1, 1, N)``.
    """
    return rows * add_up(left @ key for key in keys) * columns


@in_accumulators
def map_times_slots(scores: Tensor, value: SpikeTrain, slots: Sequence[Tensor]) -> Tensor:
    """Return rows of the map times the spikes of V, in units of its channels.

    The unit of frame j and the decay are one factor per map entry.

    Args:
        scores: rows of the map, ``(B, H, n, N)``.
        value: V.
        slots: its slots, a head each, ``(B, H, N, d)``.
    """
    scores = per_key(scores, value)
    return add_up(scores @ spikes for spikes in slots)


def per_key(scores: Tensor, train: SpikeTrain) -> Tensor:
    """Multiply column j of the map ``(B, H, N, N)`` by the frame factor of frame j."""
    return scores * train.frame.expand(*train.shape[:2], 1).transpose(1, 2)[:, None]


def mask_spikes(xs: Spikes, mask: Tensor) -> Spikes:
    """Silence the frames where ``mask`` ``(B, N)`` is false."""
    if isinstance(xs, SpikeTrain):
        return xs.masked(mask)
    return xs.masked_fill(~mask[..., None], 0.0)
