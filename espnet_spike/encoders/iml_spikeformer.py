"""IML-Spikeformer: a Transformer encoder whose weight layers read spikes (Song et al., 2025).

Song, Zhang, Chou, Wu, Li, IEEE TNNLS 37(3), 2026, arXiv 2507.07396. The paper's equations are not
public to us: the defaults here are our choice, each one an option. Block, with a membrane
shortcut (branches are added to the real-valued potential X, spikes never to spikes):

    X <- X + Dropout(attention(norm(X)))          nn.layers.spiking_attention
    X <- X + Dropout(neuron(neuron(norm(X)) W1 + b1) W2 + b2)   channel mixing
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.encoders.block_encoder import BlockEncoder, positional_encoding
from espnet_spike.encoders.spikeformer_blocks import SpikeformerBlock
from espnet_spike.nn.layers.attention_modes import build_attention
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.spiking_subsampling import ConvSubsampling
from espnet_spike.nn.neurons.base import named_neurons, set_levels, set_spike_mode
from espnet_spike.nn.neurons.factory import NeuronFactory
from espnet_spike.nn.neurons.frame_lif import RateLoss
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.utils.options import numbers_in_range


class IMLSpikeformerEncoder(BlockEncoder):
    """The IML-Spikeformer encoder; with ``neuron: relu`` its ANN twin.

    Args:
        input_size: feature dimension.
        output_size: D, channels of the blocks.
        attention_heads: H.
        linear_units: hidden channels of the channel mixing.
        num_blocks: L.
        dropout_rate: after each branch.
        positional_dropout_rate: after the positional encoding.
        attention_dropout_rate: on the attention map.
        input_layer: ``conv2d``, ``conv2d1``, ``conv2d2``, ``conv2d6`` or ``conv2d8``; the number
            is the subsampling factor, 4 without one.
        conv_channels: channels of the front end's convolutions; None means ``output_size``.
        neuron: ``imls``, ``ilif``, ``lif``, ``ternary`` or ``relu`` (the twin).
        T: levels of the neuron, or time steps of ``lif`` and ``ternary``; 1 is binary.
        alpha_init: initial threshold factor; None means 0.5, or 1.0 where T <= 2 or ``max``.
        imls_stat: ``token``, ``utt``, ``max``, ``ema`` or ``fixed``: what the threshold follows.
        detach_stat: no gradient through the statistic.
        rounding: ``half_up`` or ``even``.
        neuron_conf: further arguments of the neuron's class; they win over the options above.
        neuron_norm: a batch norm before each neuron that reads a weight layer bare; None: for
            ``lif`` only, whose fixed threshold needs it (Spikformer has it).
        r_min: firing rate below which a layer is too quiet.
        r_max: firing rate above which a layer bursts.
        lambda_q: weight of L_quiet, see ``neurons.frame_lif.rate_losses``; 0 for no such loss. The
            neurons need a ``surrogate_tail``, or nothing pulls a silent layer back.
        lambda_b: weight of L_burst.
        warm_start_steps: training steps that IMLS starts with unrounded, clip(X, 0, T*V).
        qk_mode: ``bilinear``, ``asym``, ``repconv``, ``ssa`` or ``sdsa``: how the map is made.
        fold_qk: hold W_Q and W_K merged, for inference: what ``reparameterize`` leaves.
        reparameterized: hold convolution chains and batch norms of attention merged, likewise.
        qkv_bias: biases on Q, K and V.
        inner_norm: LayerNorm before the neurons inside attention.
        attention_form: ``quadratic``, ``chunkwise`` (linear in the length, same result) or
            ``auto``, chosen by length.
        hdm: the decay mask on or off.
        hdm_mode: ``layer_head``, ``layer``, ``head``, ``same`` or ``none``.
        e_min: decay exponent of the first layer.
        e_max: decay exponent of the last layer.
        hdm_r: range of the decay exponent over heads.
        decay_norm: row normalisation of the decay mask.
        learn_decay: make the decay a parameter.
        causal: attention sees no later frame (the front end still looks ahead).
        norm: ``ln``, ``bn`` (over valid frames) or ``dyt``.
        pos_enc: ``abs``, ``abs_unscaled`` or ``none``, see ``positional_encoding``.
        conv_module: a convolution module between attention and channel mixing.
        conv_module_kernel: its width, odd.
        gradient_checkpointing: keep only the blocks' inputs while training and run them twice.
        interctc_layer_idx: blocks (1-based) whose output feeds an intermediate CTC loss.
        interctc_use_conditioning: feed the intermediate CTC posteriors back.

    Options of IMLS are without effect under another neuron, so that the twin of a model is one
    changed line.

    Raises:
        ValueError: for an unknown value, naming the known ones.
    """

    training_steps: Tensor

    @numbers_in_range
    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        input_layer: str = "conv2d",
        conv_channels: int | None = None,
        neuron: str = "imls",
        T: int = 6,
        alpha_init: float | None = None,
        imls_stat: str = "token",
        detach_stat: bool = True,
        rounding: str = "half_up",
        neuron_conf: dict | None = None,
        neuron_norm: bool | None = None,
        r_min: float = 0.05,
        r_max: float = 0.60,
        lambda_q: float = 0.0,
        lambda_b: float = 0.0,
        warm_start_steps: int = 0,
        qk_mode: str = "bilinear",
        fold_qk: bool = False,
        reparameterized: bool = False,
        qkv_bias: bool = False,
        inner_norm: bool = False,
        attention_form: str = "auto",
        hdm: bool = True,
        hdm_mode: str = "layer_head",
        e_min: float = 2.0,
        e_max: float = 6.0,
        hdm_r: float = 2.0,
        decay_norm: bool = True,
        learn_decay: bool = False,
        causal: bool = False,
        norm: str = "ln",
        pos_enc: str = "abs",
        conv_module: bool = False,
        conv_module_kernel: int = 31,
        gradient_checkpointing: bool = False,
        interctc_layer_idx: Sequence[int] = (),
        interctc_use_conditioning: bool = False,
    ) -> None:
        super().__init__()
        threshold_options = {
            "alpha_init": alpha_init,
            "stat": imls_stat,
            "detach_stat": detach_stat,
            "rounding": rounding,
        }
        neurons = NeuronFactory(neuron, T, neuron_conf, neuron_norm, threshold_options)
        self._output_size = output_size
        self.time_steps = neurons.time_steps
        self.embed = ConvSubsampling(input_size, output_size, neurons, input_layer, conv_channels)
        self.subsampling_factor = self.embed.factor
        self.pos_enc = positional_encoding(pos_enc, output_size, positional_dropout_rate)
        self.encoders = nn.ModuleList()
        for layer in range(1, num_blocks + 1):
            decay = DecayMask(
                layer,
                num_blocks,
                attention_heads,
                mode=hdm_mode if hdm else "none",
                e_min=e_min,
                e_max=e_max,
                r=hdm_r,
                norm=decay_norm,
                learn=learn_decay,
                causal=causal,
            )
            attn = build_attention(
                qk_mode,
                output_size,
                attention_heads,
                neurons,
                decay,
                qkv_bias=qkv_bias,
                inner_norm=inner_norm,
                dropout_rate=attention_dropout_rate,
                form=attention_form,
            )
            self.encoders.append(
                SpikeformerBlock(
                    output_size,
                    linear_units,
                    attn,
                    neurons,
                    norm,
                    dropout_rate,
                    conv_module_kernel if conv_module else None,
                )
            )
        self.after_norm = LayerNorm(output_size)
        self.set_interctc(interctc_layer_idx, interctc_use_conditioning)
        self.gradient_checkpointing = gradient_checkpointing
        self.warm_start_steps = warm_start_steps if neurons.cls.takes_threshold_options else 0
        if self.warm_start_steps:
            self.register_buffer("training_steps", torch.zeros((), dtype=torch.long))
            self._known_steps: tuple[Tensor | None, int, int] = None, 0, 0
        self.rate_loss = RateLoss(r_min, r_max, lambda_q, lambda_b)
        if lambda_q or lambda_b:
            for layer in named_neurons(self).values():
                layer.keeps_rate = True
        if fold_qk or reparameterized:
            self.reparameterize(fold_qk)

    @classmethod
    def twin(cls, conf: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
        """Return the ANN twin: ReLU for the neurons, the training form (no merged matrices)."""
        changed = {"neuron": "relu", "neuron_conf": None, "fold_qk": False}
        return cls, {**conf, **changed, "reparameterized": False}

    def subsample(self, xs_pad: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the front end; see ``BlockEncoder``."""
        if self.warm_start_steps:
            self._advance_warm_start()
        frames = torch.arange(xs_pad.shape[1], device=xs_pad.device)
        xs_pad = xs_pad.masked_fill((frames >= ilens[:, None])[..., None], 0.0)
        return self.embed(xs_pad, ilens)

    def block_inputs(self, x: Tensor, olens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask ``(time_steps * B, N)`` and the lengths ``(time_steps * B,)``."""
        lengths = olens.repeat(self.time_steps)
        return torch.arange(x.shape[1], device=x.device) < lengths[:, None], lengths

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Return the weighted firing-rate losses of the last forward pass; of the twin none."""
        return self.rate_loss(named_neurons(self).values())

    def _steps_done(self) -> int:
        """Return the training steps so far; the buffer is read only where others wrote into it."""
        steps, version, done = self._known_steps
        if steps is self.training_steps and version == self.training_steps._version:
            return done
        return int(self.training_steps)

    def _advance_warm_start(self) -> None:
        done = self._steps_done()
        warm = done < self.warm_start_steps
        neurons: list[Any] = [*named_neurons(self).values()]
        for neuron in neurons:
            neuron.warm = warm
        if self.training:
            self.training_steps.add_(1)
            done += 1
        self._known_steps = self.training_steps, self.training_steps._version, done

    def reparameterize(self, fold_qk: bool = True) -> None:
        """Turn the attention into its inference form, in place; outputs stay the same.

        Args:
            fold_qk: merge W_Q and W_K of ``bilinear`` attention too: more weights, but additions
                only.
        """
        blocks: list[Any] = [*self.encoders]
        for block in blocks:
            block.attn.reparameterize(fold_qk)

    def set_spike_mode(self, mode: str) -> None:
        """Choose how the encoder runs outside training.

        Args:
            mode: ``integer``, or ``binary``: the weight layers read 0/1 spikes only, attention is
                re-parameterised (this cannot be undone); or ``fire``: likewise, with spikes fired
                slot by slot by membranes that are charged and reset.

        Raises:
            ValueError: for an unknown mode, or neurons that have no binary form.
        """
        set_spike_mode(self, mode)
        if mode != "integer":
            self.reparameterize()

    def set_levels(self, T: int, rule: str = "keep") -> None:
        """Run a trained IMLS encoder with other levels, see ``Neuron.set_levels``.

        Neurons that are binary by design (``ssa``, ``sdsa``) stay so.

        Raises:
            ValueError: if the encoder's neurons are not IMLS.
        """
        set_levels(self, T, rule)

    def describe(self) -> dict:
        """Return what the encoder is made of, in plain values."""
        return {
            "blocks": len(self.encoders),
            "output_size": self._output_size,
            "subsampling_factor": self.subsampling_factor,
            "min_input_frames": self.embed.min_length,
            "time_steps": self.time_steps,
            "neurons": {
                name: {"class": type(neuron).__name__, "channels": neuron.dim, "T": neuron.T}
                for name, neuron in named_neurons(self).items()
            },
        }
