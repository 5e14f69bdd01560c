"""The decoder of Speech-Mamba (Gao and Chen, 2024, arXiv 2409.18654): Mamba and cross-attention.

Each layer is Mamba, cross-attention, Mamba, in the pre-norm residual form; there is neither
self-attention nor a feed-forward module. The scan makes it causal, so all that a token knows of
those before it is a state of fixed size: a step of a beam search costs the same for every length.
Sizes, norms, dropout and the scaled embedding are those of the paper's recipe.

Whether the decoders of event-driven and spiking SpeechMamba (Ahmed et al., 2026, arXiv 2606.01135)
are sparse too is not known, so FATReLUs and LIF neurons are options, off by default.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import StreamPositionalEncoding
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface
from torch import Tensor, nn

from espnet_spike.nn.layers.cross_attention import (
    CrossAttention,
    KeysValues,
    SpikingCrossAttention,
    SpikingKeysValues,
)
from espnet_spike.nn.layers.fatrelu import POINTS, FatPoints, SparsityLoss, named_fatrelus
from espnet_spike.nn.layers.mamba import INIT_MODES, Mamba, RMSNorm, xavier_normal
from espnet_spike.nn.layers.residual import PreNormResidual
from espnet_spike.nn.layers.spiking_mamba import SpikingMamba
from espnet_spike.nn.neurons.frame_lif import RateLoss, named_frame_lifs
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.nn.stream_state import Carries
from espnet_spike.utils.options import choose, numbers_in_range

NO_POINTS = ("F1", "F2", "F8")  # of front end and feed-forward module, which a decoder has not


@dataclass(frozen=True)
class Encoded:
    """B utterances as the cross-attention of every layer sees them.

    Attributes:
        frames: T, that they are padded to.
        layers: by layer.
    """

    frames: int
    layers: Sequence[KeysValues | SpikingKeysValues]

    def __len__(self) -> int:
        """Return B."""
        return len(self.layers[0])

    def select(self, rows: Tensor) -> "Encoded":
        """Return the utterances ``rows``, indices ``(N,)``."""
        return Encoded(self.frames, [layer.select(rows) for layer in self.layers])


class TokenEmbedding(nn.Embedding):
    """Embedding of V tokens in D channels.

    Its values, once scaled by sqrt(D), start with a variance of 1, or as ``xavier_normal`` has it.
    The first is ours: beside torch's own start, scaled, the positions would not be visible.
    """

    init_mode = "mamba"

    def __init__(self, vocab_size: int, dim: int, init_mode: str) -> None:
        super().__init__(vocab_size, dim)
        self.init_mode = init_mode
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight ``(V, D)``; ESPnet calls this after its ``init``."""
        if self.init_mode == "xavier_normal":
            nn.init.xavier_normal_(self.weight)
        else:
            nn.init.normal_(self.weight, std=1 / math.sqrt(self.embedding_dim))


class DecoderBlock(nn.Module):
    """Mamba, cross-attention, Mamba: each x + dropout(layer(RMSNorm(x))).

    Args:
        dim: D.
        dropout_rate: after each sublayer.
        mamba_in, mamba_out: called as ``Mamba``.
        attn: called as ``CrossAttention``.
    """

    def __init__(
        self,
        dim: int,
        dropout_rate: float,
        mamba_in: nn.Module,
        attn: nn.Module,
        mamba_out: nn.Module,
    ) -> None:
        super().__init__()
        self.mamba_in, self.attn, self.mamba_out = (
            PreNormResidual(RMSNorm(dim), sublayer, dropout_rate)
            for sublayer in (mamba_in, attn, mamba_out)
        )

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        mask: Tensor | None,
        encoded: KeysValues | SpikingKeysValues,
    ) -> Tensor:
        """Run the block on tokens ``(N, L, D)``; see ``Mamba`` and ``CrossAttention``."""
        x = self.mamba_in(x, lengths, mask)
        x = self.attn(x, mask, encoded)
        return self.mamba_out(x, lengths, mask)


class SpeechMambaDecoder(AbsDecoder, BatchScorerInterface):
    """Decoder of Mamba and cross-attention; the defaults are those of the published model.

    In a beam search the state of a hypothesis holds, for every layer that looks back, what it
    carries (the last inputs of the convolution, the state of the scan, the potential of a neuron),
    and the number of its utterance among those whose keys and values the search computed at its
    start. It is made of plain containers of tensors, so that ESPnet's search may take, repeat, drop
    and copy it.

    Args:
        vocab_size: V.
        encoder_output_size: D, also the decoder's channels.
        attention_heads: of cross-attention.
        num_blocks: number of layers.
        dropout_rate: after each sublayer.
        positional_dropout_rate: after the positional encoding.
        attention_dropout_rate: on the attention weights.
        d_state: states of the scan, a channel.
        d_conv: kernel of Mamba's convolution.
        expand: Mamba's inner channels over D.
        dt_rank: rank of the scan's step sizes; None means D / 16.
        scan_backend: see ``espnet_spike.nn.ops.selective_scan``.
        init_mode: ``mamba`` (every layer's own) or ``xavier_normal`` (that of the paper's recipe:
            every parameter of more than one dimension but the output layer's).
        fat_points: where FATReLUs go: ``none``, ``e``, ``optimized``, or names. F3 stands before
            the projection of the queries, F4 behind the attention's context, F5 to F7 and F9 to F11
            in both Mamba sublayers; see ``espnet_spike.nn.layers.fatrelu``.
        fat_threshold, fat_learn, fat_two_sided, fat_k, fat_scale_k, fat_surrogate: of these, as in
            ``EventSpeechMambaEncoder``.
        sparsity_loss, lambda_act, lambda_T: of their loss, see ``SparsityLoss``.
        spiking: LIF neurons behind batch norms before the projections of Mamba, as in
            ``SpikingMamba``, and ``SpikingCrossAttention``; their time steps are the tokens.
        tau, learn_tau, v_th, attn_v_th, reset, decay_input, detach_reset, surrogate,
            surrogate_alpha, ssa_scale: of these, as in ``SpikingSpeechMambaEncoder``.
        r_min, r_max, lambda_q, lambda_b: of their loss, see ``RateLoss``.

    Raises:
        ValueError: for an unknown or impossible value, naming the known ones.
    """

    @numbers_in_range
    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        attention_heads: int = 4,
        num_blocks: int = 3,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.1,
        d_state: int = 256,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        scan_backend: str = "auto",
        init_mode: str = "mamba",
        fat_points: str | Sequence[str] = "none",
        fat_threshold: float = 0.0,
        fat_learn: bool = True,
        fat_two_sided: Sequence[str] = ("F9", "F10", "F11"),
        fat_k: float | None = None,
        fat_scale_k: bool = False,
        fat_surrogate: str = "sigmoid",
        sparsity_loss: str = "paper",
        lambda_act: float = 1e-4,
        lambda_T: float = 1e-6,
        spiking: bool = False,
        tau: float = 2.0,
        learn_tau: bool = False,
        v_th: float = 1.0,
        attn_v_th: float = 0.5,
        reset: str = "hard",
        decay_input: bool = True,
        detach_reset: bool = True,
        surrogate: str = "atan",
        surrogate_alpha: float | None = None,
        ssa_scale: float = 0.125,
        r_min: float = 0.05,
        r_max: float = 0.30,
        lambda_q: float = 0.5,
        lambda_b: float = 0.5,
    ) -> None:
        super().__init__()
        dim = encoder_output_size
        if absent := [] if isinstance(fat_points, str) else sorted({*fat_points} & {*NO_POINTS}):
            known = ", ".join(point for point in POINTS if point not in NO_POINTS)
            raise ValueError(f"fat_points: {', '.join(absent)}: a decoder has {known} only")
        points = FatPoints(
            fat_points, fat_threshold, fat_learn, fat_two_sided, fat_k, fat_scale_k, fat_surrogate
        )
        if spiking and points.points:
            raise ValueError("fat_points: none, where spiking: true puts neurons in their place")
        self.sparsity_loss = SparsityLoss(sparsity_loss, lambda_act, lambda_T)
        self.rate_loss = RateLoss(r_min, r_max, lambda_q, lambda_b)
        self.init_mode = choose("init_mode", init_mode, INIT_MODES)
        mamba: dict[str, Any] = {
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "dt_rank": dt_rank,
            "bidirectional": False,
            "scan_backend": scan_backend,
            "init_mode": init_mode,
        }
        lif = {
            "tau": tau,
            "learn_tau": learn_tau,
            "v_th": v_th,
            "reset": reset,
            "decay_input": decay_input,
            "detach_reset": detach_reset,
            "surrogate": surrogate,
            "surrogate_alpha": surrogate_alpha,
        }

        def sublayers() -> tuple[nn.Module, nn.Module, nn.Module]:
            if spiking:
                return (
                    SpikingMamba(dim, lif, **mamba),
                    SpikingCrossAttention(dim, attention_heads, lif, ssa_scale, attn_v_th),
                    SpikingMamba(dim, lif, **mamba),
                )
            return (
                Mamba(dim, points=points, **mamba),
                CrossAttention(dim, attention_heads, attention_dropout_rate, points),
                Mamba(dim, points=points, **mamba),
            )

        self.embed = TokenEmbedding(vocab_size, dim, init_mode)
        # scales the embedding by sqrt(D), as the paper's recipe does
        self.pos_enc = StreamPositionalEncoding(dim, positional_dropout_rate)
        self.decoders = nn.ModuleList(
            DecoderBlock(dim, dropout_rate, *sublayers()) for _ in range(num_blocks)
        )
        self.after_norm = LayerNorm(dim, eps=1e-6)
        self.output_layer = nn.Linear(dim, vocab_size)
        self.espnet_initialization_fn()

    def espnet_initialization_fn(self) -> None:
        """Draw parameters as ``init_mode`` says; ESPnet calls this after its own ``init``."""
        if self.init_mode == "xavier_normal":
            xavier_normal(self.decoders)

    def forward(
        self, hs_pad: Tensor, hlens: Tensor, ys_in_pad: Tensor, ys_in_lens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the token after each of whole sequences (teacher forcing).

        Args:
            hs_pad: encoded utterances ``(B, T, D)``.
            hlens: valid frames ``(B,)``.
            ys_in_pad: token ids ``(B, L)``, the first of each is <sos>.
            ys_in_lens: valid tokens ``(B,)``.

        Returns:
            scores before softmax ``(B, L, V)``, on valid tokens independent of padding, and
            ``ys_in_lens``.
        """
        mask = torch.arange(ys_in_pad.shape[1], device=ys_in_pad.device) < ys_in_lens[:, None]
        return self._run(ys_in_pad, 0, ys_in_lens, mask, self.encoded(hs_pad, hlens)), ys_in_lens

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Return the weighted losses on sparsity or firing rates of the last forward pass."""
        neurons = named_frame_lifs(self).values()
        if neurons:
            return self.rate_loss(neurons)
        return self.sparsity_loss(named_fatrelus(self).values())

    def encoded(self, hs_pad: Tensor, hlens: Tensor) -> Encoded:
        """Return keys and values of utterances ``(B, T, D)`` with valid frames ``(B,)``."""
        layers: Any = self.decoders
        hlens = hlens.to(hs_pad.device)  # ESPnet may hand in lengths that are still on the CPU
        kept = [layer.attn.sublayer.keys_values(hs_pad, hlens) for layer in layers]
        return Encoded(hs_pad.shape[1], kept)

    def _run(
        self, ys: Tensor, first: int, lengths: Tensor, mask: Tensor | None, encoded: Encoded
    ) -> Tensor:
        """Return scores ``(N, L, V)`` of tokens ``(N, L)``, of which the first has a number."""
        x = self.pos_enc(self.embed(ys), first)
        for block, kept in zip(self.decoders, encoded.layers, strict=True):
            x = block(x, lengths, mask, kept)
        return self.output_layer(self.after_norm(x))

    def init_state(self, x: Tensor) -> dict[str, Any]:
        """Return the state before the first token for an utterance ``(T, D)``."""
        return self.batch_init_state(x)

    def batch_init_state(self, x: Tensor, xs_lengths: Tensor | None = None) -> dict[str, Any]:
        """Return the state before the first token, one for all utterances of a search.

        Args:
            x: ``(T, D)``, or ``(B, T, D)``; every utterance has as many hypotheses, in a row.
            xs_lengths: valid frames ``(B,)``; None when all are.
        """
        xs = x if x.dim() == 3 else x[None]
        if xs_lengths is None:
            xs_lengths = torch.full((len(xs),), xs.shape[1], device=x.device)
        return {"encoded": self.encoded(xs, xs_lengths)}

    def score(
        self, y: Tensor, state: dict[str, Any] | None, x: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Score the token after a prefix; see ``batch_score``.

        Args:
            y: ``(L,)``.
            state: after the tokens but the last of ``y``.
            x: encoded utterance ``(T, D)``.

        Returns:
            log-probabilities ``(V,)`` and the state after ``y``.
        """
        scores, states = self.batch_score(y[None], [state], x[None])
        return scores[0], states[0]

    def batch_score(
        self,
        ys: Tensor,
        states: Sequence[dict[str, Any] | None],
        xs: Tensor,
        *,
        xs_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Score the token after each prefix from its last token and the state before that.

        Args:
            ys: prefixes of one length ``(N, L)``.
            states: by prefix, those of ``batch_init_state`` before the first token. None stands for
                a first token too; keys and values are then computed from ``xs``.
            xs: encoded utterance of each prefix ``(N, T, D)``.
            xs_mask: valid frames ``(N, 1, T)``; None when all are.

        Returns:
            log-probabilities ``(N, V)``, and the state after each prefix.
        """
        encoded, utterances = self._utterances(states, xs, xs_mask)
        if "layers" in (states[0] or {}):
            carries = Carries.of_rows(self.decoders, [state["layers"] for state in states if state])
        else:
            carries = Carries(self.decoders)
        shared = encoded
        if len(ys) % len(encoded) or utterances != _in_rows(len(ys), len(encoded)):
            shared = encoded.select(torch.tensor(utterances, device=xs.device))
        with carries.active():
            lengths = torch.ones(len(ys), dtype=torch.int64, device=ys.device)
            scores = self._run(ys[:, -1:], ys.shape[1] - 1, lengths, None, shared)
        after = [
            {"encoded": encoded, "utterance": utterance, "layers": layers}
            for utterance, layers in zip(utterances, carries.rows(), strict=True)
        ]
        return scores[:, 0].log_softmax(-1), after

    def _utterances(
        self, states: Sequence[dict[str, Any] | None], xs: Tensor, xs_mask: Tensor | None
    ) -> tuple[Encoded, list[int]]:
        """Return the encoded utterances, and which of them each prefix belongs to.

        What the search computed at its start is used, unless the prefixes are of several searches
        or, as in a stream, the utterances have grown since.
        """
        first = states[0] or {}
        encoded: Encoded | None = first.get("encoded")
        shared = all(state is not None and state["encoded"] is encoded for state in states)
        if encoded is None or not shared or encoded.frames != xs.shape[1]:
            lengths = None if xs_mask is None else xs_mask[:, 0].sum(1)
            return self.batch_init_state(xs, lengths)["encoded"], _in_rows(len(states), len(xs))
        if "utterance" in first:
            return encoded, [state["utterance"] for state in states if state]
        # before the first token: the hypotheses of an utterance lie in a row
        return encoded, _in_rows(len(states), len(encoded))


def _in_rows(hypotheses: int, utterances: int) -> list[int]:
    """Return the utterance of each hypothesis where those of an utterance lie in a row."""
    return [row * utterances // hypotheses for row in range(hypotheses)]
