"""SpeechMamba: a speech encoder of self-attention and Mamba blocks, dense, event-driven, spiking.

The dense backbone is the encoder of Speech-Mamba (Gao and Chen, 2024, arXiv 2409.18654); sizes,
layout and initialisation are those of its official SpeechBrain recipe (mamba960h). Layouts of ours
and of its kin are options (``encoders.mamba_blocks``).
The event-driven form (Ahmed et al., 2026, arXiv 2606.01135) puts FATReLU layers at named points of
the same backbone, see ``nn.layers.fatrelu``; the spiking form of the same paper replaces the blocks
by spiking ones, see ``espnet_spike.encoders.spiking_mamba_blocks``.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import PositionalEncoding
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor, nn

from espnet_spike.encoders.block_encoder import BlockEncoder, positional_encoding
from espnet_spike.encoders.mamba_blocks import BLOCKS, BlockConfig, Frames
from espnet_spike.encoders.spiking_mamba_blocks import SPIKING_BLOCKS, LIFPoints
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.conv_subsampling import ConvFrontEnd, front_end_layers
from espnet_spike.nn.layers.fatrelu import FatPoints, SparsityLoss, named_fatrelus
from espnet_spike.nn.layers.mamba import INIT_MODES, RMSNorm, xavier_normal
from espnet_spike.nn.layers.softmax_attention import SelfAttention, attention_mask
from espnet_spike.nn.neurons.base import named_neurons, set_spike_mode
from espnet_spike.nn.neurons.frame_lif import RateLoss
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.utils.options import check_numbers, choose, numbers_in_range


@dataclass(frozen=True)
class BlockDefaults:
    """Options whose default depends on the block; see ``Backbone``."""

    output_size: int
    num_blocks: int
    input_layer: str
    pos_enc: str
    d_state: int
    bidirectional: bool


PUBLISHED = "mamba_mhsa_mamba"
BLOCK_DEFAULTS = {
    PUBLISHED: BlockDefaults(512, 7, "speechbrain", "abs_unscaled", 256, bidirectional=False)
}
OUR_DEFAULTS = BlockDefaults(256, 12, "conmamba", "abs", 16, bidirectional=True)


@dataclass(frozen=True)
class Backbone:
    """Options that all SpeechMamba encoders share.

    Where two defaults are given, the first is Speech-Mamba's and holds with its own block,
    ``mamba_mhsa_mamba``; the second, ours, with any other.

    Attributes:
        output_size: D, channels of the blocks; None for 512 or 256.
        attention_heads: of self-attention.
        linear_units: hidden channels of feed-forward modules, in the blocks that have one.
        num_blocks: number of blocks; None for 7 or 12.
        block: ``mamba_mhsa_mamba`` (Mamba, self-attention, Mamba; with a final LayerNorm, the
            others with an RMSNorm), ``mhsa_mamba`` (self-attention, then Mamba in the place of the
            feed-forward module), ``conmamba`` (a Conformer block with Mamba in the place of
            attention) or ``mamba_ffn``.
        dropout_rate: after each branch and inside feed-forward modules.
        positional_dropout_rate: after the positional encoding.
        attention_dropout_rate: on the attention weights.
        input_layer: ``speechbrain`` (5x5, 5x5, 1x1 of 64 channels) or ``conmamba`` (two 3x3
            convolutions of 64 and 32 channels); both shorten the input by 4. None for one or the
            other.
        conv_channels: channels of all these convolutions; None for those named.
        conv_skip: the 1x1 skip around the last convolution that Speech-Mamba's recipe has, see
            ``ConvFrontEnd``.
        pos_enc: ``abs``, ``abs_unscaled`` or ``none``, see ``positional_encoding``; None for
            ``abs_unscaled`` or ``abs``.
        d_state: states of the scan, a channel; None for 256 or 16.
        d_conv: kernel of Mamba's convolution.
        expand: Mamba's inner channels over D.
        dt_rank: rank of the scan's step sizes; None means D / 16.
        bidirectional: also scan each utterance backwards; None for false or true.
        attention_window: frames to the left and right that attention sees; None for all.
        causal: no later frame in the front end, the scan and attention, whatever else is said.
        conv_kernel: of ConMamba's convolution module, odd.
        scan_backend: ``auto``, ``numba``, ``triton``, ``torch``, ``mamba`` or ``ref``, see
            ``espnet_spike.nn.ops.selective_scan``.
        scan_memory: MiB that ``torch`` may take for the states of a scan; None: 32 frames of them.
        init_mode: ``mamba`` (every layer's own) or ``xavier_normal`` (Speech-Mamba's: every
            parameter of more than one dimension behind the convolutions, those of the scan too),
            which holds whatever ESPnet's ``init`` says; that leaves the scan's own alone, too.
        gradient_checkpointing: keep only the blocks' inputs while training and run them twice.
        interctc_layer_idx: blocks (1-based) whose output feeds an intermediate CTC loss.
        interctc_use_conditioning: feed the intermediate CTC posteriors back.
    """

    output_size: int | None = None
    attention_heads: int = 4
    linear_units: int = 1024
    num_blocks: int | None = None
    block: str = PUBLISHED
    dropout_rate: float = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    input_layer: str | None = None
    conv_channels: int | None = None
    conv_skip: bool = False
    pos_enc: str | None = None
    d_state: int | None = None
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    bidirectional: bool | None = None
    attention_window: Sequence[int] | None = None
    causal: bool = False
    conv_kernel: int = 31
    scan_backend: str = "auto"
    scan_memory: float | None = None
    init_mode: str = "mamba"
    gradient_checkpointing: bool = False
    interctc_layer_idx: Sequence[int] = ()
    interctc_use_conditioning: bool = False

    def __post_init__(self) -> None:
        check_numbers(vars(self))

    def of_block(self) -> BlockDefaults:
        """Return the options that depend on the block: as given, else the block's own.

        Raises:
            ValueError: for an unknown ``block``.
        """
        defaults = BLOCK_DEFAULTS.get(choose("block", self.block, BLOCKS), OUR_DEFAULTS)
        given = {f.name: getattr(self, f.name) for f in fields(BlockDefaults)}
        return replace(defaults, **{k: v for k, v in given.items() if v is not None})


def backbone_of(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``Backbone`` among those of an encoder."""
    shared = {f.name for f in fields(Backbone)}
    return {name: value for name, value in conf.items() if name in shared}


def backbone_options(cls: type) -> type:
    """Show the fields of ``Backbone`` in the signature in place of ``**backbone``.

    ESPnet and the check of configurations read a class's options from its signature.
    """
    _self, input_size, *own = inspect.signature(cls.__init__).parameters.values()
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.kind is not p.VAR_KEYWORD]
    shared = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
        )
        for f in fields(Backbone)
    ]
    cls.__signature__ = inspect.Signature([input_size, *own, *shared])
    cls.__init__.__annotations__ |= {p.name: p.annotation for p in shared}
    return cls


@backbone_options
class SpeechMambaEncoder(BlockEncoder):
    """Dense SpeechMamba.

    Args:
        input_size: feature dimension.
        **backbone: see ``Backbone``.

    Raises:
        ValueError: for an unknown or impossible value, naming the known ones.
    """

    compiles_in_training = True

    def __init__(self, input_size: int, **backbone: Any) -> None:
        super().__init__()
        self.build(input_size, Backbone(**backbone), FatPoints())

    def build(self, input_size: int, conf: Backbone, points: FatPoints) -> None:
        """Make the layers, with FATReLU at ``points``."""
        chosen = conf.of_block()
        dim = self._output_size = chosen.output_size
        self.embed = ConvFrontEnd(
            input_size,
            dim,
            chosen.input_layer,
            points,
            conf.causal,
            conf.conv_channels,
            conf.conv_skip,
        )
        self.subsampling_factor = self.embed.factor
        self.pos_enc = positional_encoding(chosen.pos_enc, dim, conf.positional_dropout_rate)
        self.window = _window(conf)
        if conf.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel: {conf.conv_kernel} is even")
        if conf.causal and conf.block == "conmamba":
            raise ValueError("causal: the convolution module of block conmamba looks ahead")
        block_conf = BlockConfig(
            dim=dim,
            heads=conf.attention_heads,
            hidden=conf.linear_units,
            kernel=conf.conv_kernel,
            dropout_rate=conf.dropout_rate,
            attention_dropout_rate=conf.attention_dropout_rate,
            mamba={
                "d_state": chosen.d_state,
                "d_conv": conf.d_conv,
                "expand": conf.expand,
                "dt_rank": conf.dt_rank,
                "bidirectional": chosen.bidirectional and not conf.causal,
                "scan_backend": conf.scan_backend,
                "scan_memory": conf.scan_memory,
                "init_mode": conf.init_mode,
            },
            points=points,
            window=self.window,
        )
        self.encoders = nn.ModuleList(
            self.make_block(conf.block, block_conf) for _ in range(chosen.num_blocks)
        )
        published = conf.block == PUBLISHED
        self.after_norm = LayerNorm(dim, eps=1e-6) if published else RMSNorm(dim)
        self.set_interctc(conf.interctc_layer_idx, conf.interctc_use_conditioning)
        self.gradient_checkpointing = conf.gradient_checkpointing
        self.init_mode = choose("init_mode", conf.init_mode, INIT_MODES)
        self.espnet_initialization_fn()
        if published:
            self.register_load_state_dict_pre_hook(_refuse_other_blocks)

    def espnet_initialization_fn(self) -> None:
        """Draw parameters as ``init_mode`` says; ESPnet calls this after its own ``init``."""
        if self.init_mode == "xavier_normal":
            # the recipe draws its Transformer class anew: the convolutions are not part of that
            for module in (self.embed.out, self.encoders):
                xavier_normal(module)

    def make_block(self, block: str, conf: BlockConfig) -> nn.Module:
        """Return one block of the kind that ``block`` names."""
        return BLOCKS[block](conf)

    def subsample(self, xs_pad: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the front end; see ``BlockEncoder``.

        Raises:
            TooShortUttError: the batch has no frames.
        """
        if xs_pad.shape[1] == 0:
            raise TooShortUttError("has no frames, return empty results", 0, 1)
        return self.embed(xs_pad, ilens)

    def block_inputs(self, x: Tensor, olens: Tensor) -> tuple[Frames]:
        """Return the lengths and masks of the frames."""
        mask = torch.arange(x.shape[1], device=x.device) < olens[:, None]
        return (Frames(olens, mask, attention_mask(olens, x.shape[1], self.window)),)

    look_ahead = 0  # frames after frame 4 n that output frame n of a stream waits for

    def check_streams(self) -> None:
        """Check that the encoder can work chunk by chunk.

        Raises:
            UserError: names the options that stand in the way.
        """
        window = self.window is None or self.window[1] > 0
        obstacles = {
            "causal: true": not self.embed.causal,
            "pos_enc: none": isinstance(self.pos_enc, PositionalEncoding),
            "attention_window: [N, 0]": window
            and any(isinstance(m, SelfAttention) for m in self.modules()),
            "no interctc_use_conditioning": self.interctc_use_conditioning,
        }
        wanted = [option for option, missing in obstacles.items() if missing]
        if wanted:
            raise UserError("this encoder cannot stream", f"train it with {', '.join(wanted)}")

    def forward_chunk(self, xs: Tensor) -> Tensor:
        """Encode the next chunk of a stream; ``inference.streaming`` keeps what is carried.

        Args:
            xs: features ``(B, F, input_size)``, any F.

        Returns:
            ``(B, L, D)``, the frames that the chunk completes: frame n comes with the input frame
            4 n, it waits for no later one.
        """
        x, olens = self.embed(xs, torch.full((len(xs),), xs.shape[1], device=xs.device))
        if x.shape[1] == 0:
            return x
        x = self.pos_enc(x)
        frames = Frames(olens, None, None)
        for block in self.encoders:
            x = block(x, frames)
        return self.after_norm(x)

    def describe(self) -> dict:
        """Return what the encoder is made of, in plain values."""
        return {
            "blocks": len(self.encoders),
            "output_size": self._output_size,
            "subsampling_factor": self.subsampling_factor,
            "points": {
                name: {"learnt": layer.learnt, "two_sided": layer.two_sided}
                for name, layer in named_fatrelus(self).items()
            },
        }


@backbone_options
class EventSpeechMambaEncoder(SpeechMambaEncoder):
    """Event-driven SpeechMamba (E-SpeechMamba): FATReLU layers make the activations sparse.

    With ``fat_threshold: 0`` the points are plain ReLUs: the model of the first training stage.

    Args:
        input_size: feature dimension.
        fat_points: names of points (``F1`` ... ``F11``), or ``e`` (F1 to F8), ``optimized`` (all);
            each stands wherever the network has its place: F8 in feed-forward modules alone.
        fat_threshold: initial threshold; learnt if positive.
        fat_learn: whether positive thresholds are learnt.
        fat_two_sided: points that zero small magnitudes and keep the sign.
        fat_k: slope of the surrogate gradient of the threshold; None for the usual one.
        fat_scale_k: measure activations in units of their standard deviation there.
        fat_surrogate: ``sigmoid`` (k 10) or ``rational`` (k 5), see ``nn.ops.fatrelu``.
        sparsity_loss: ``paper`` or ``relative``, see ``SparsityLoss``.
        lambda_act: weight of the mean activation; 1e-4 suits the first stage, 1e-3 the last.
        lambda_T: weight of the penalty on small thresholds.
        **backbone: see ``Backbone``.

    Raises:
        ValueError: for an unknown or impossible value, naming the known ones.
    """

    compiles_in_training = False

    @numbers_in_range
    def __init__(
        self,
        input_size: int,
        fat_points: str | Sequence[str] = "e",
        fat_threshold: float = 0.0,
        fat_learn: bool = True,
        fat_two_sided: Sequence[str] = ("F9", "F10", "F11"),
        fat_k: float | None = None,
        fat_scale_k: bool = False,
        fat_surrogate: str = "sigmoid",
        sparsity_loss: str = "paper",
        lambda_act: float = 1e-4,
        lambda_T: float = 1e-6,
        **backbone: Any,
    ) -> None:
        BlockEncoder.__init__(self)
        points = FatPoints(
            fat_points, fat_threshold, fat_learn, fat_two_sided, fat_k, fat_scale_k, fat_surrogate
        )
        self.sparsity_loss = SparsityLoss(sparsity_loss, lambda_act, lambda_T)
        self.build(input_size, Backbone(**backbone), points)

    @classmethod
    def twin(cls, conf: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
        """Return the dense SpeechMamba of the same backbone."""
        return SpeechMambaEncoder, backbone_of(conf)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Return the weighted sparsity losses of the last forward pass."""
        return self.sparsity_loss(named_fatrelus(self).values())


@backbone_options
class SpikingSpeechMambaEncoder(SpeechMambaEncoder):
    """Spiking SpeechMamba (S-SpeechMamba): LIF neurons over frames, binary spikes.

    Args:
        input_size: feature dimension.
        neuron: ``lif``; ``ilif`` (ours), which keeps nothing from frame to frame and emits up to
            ``T`` spikes in each; or ``relu``, the same network with ReLUs. Of the options below
            ``v_th``, ``attn_v_th``, ``per_channel`` and those of the rate are for ``ilif`` too.
        T: spikes of a neuron of ``ilif`` in a frame at most, None for 4; the gate has one.
        tau: membrane time constant, in frames.
        learn_tau: learn that of every layer from there, see ``FrameLIF``.
        v_th: threshold.
        attn_v_th: threshold of the neuron on attention's context.
        reset: ``hard`` or ``soft``.
        decay_input: whether a neuron's input is divided by ``tau`` too.
        detach_reset: no gradient through the reset.
        surrogate: a name in ``espnet_spike.nn.ops.surrogate.SURROGATES``.
        surrogate_alpha: its parameter; None means its usual value.
        per_channel: learn a threshold, and what a spike is worth, for each channel; needed to start
            from a trained twin, see ``neurons.lif.FixedThreshold``.
        ssa_scale: scale of attention.
        ssa_decay: with ``causal``, exponents e of the first and the last head: a frame weighs
            gamma = 1 - 2^-e of the one after it.
        r_min: firing rate below which a layer is too quiet.
        r_max: firing rate above which a layer bursts.
        lambda_q: weight of L_quiet, see ``espnet_spike.nn.neurons.frame_lif.rate_losses``.
        lambda_b: weight of L_burst.
        **backbone: see ``Backbone``; ``block``: ``mamba_mhsa_mamba`` or ``mhsa_mamba``, attention
            without window.

    Raises:
        ValueError: for an unknown or impossible value, naming the known ones.
    """

    compiles_in_training = False

    @numbers_in_range
    def __init__(
        self,
        input_size: int,
        neuron: str = "lif",
        T: int | None = None,
        tau: float = 2.0,
        learn_tau: bool = False,
        v_th: float = 1.0,
        attn_v_th: float = 0.5,
        reset: str = "hard",
        decay_input: bool = True,
        detach_reset: bool = True,
        surrogate: str = "atan",
        surrogate_alpha: float | None = None,
        per_channel: bool = False,
        ssa_scale: float = 0.125,
        ssa_decay: Sequence[float] = (2.0, 6.0),
        r_min: float = 0.05,
        r_max: float = 0.30,
        lambda_q: float = 0.5,
        lambda_b: float = 0.5,
        **backbone: Any,
    ) -> None:
        BlockEncoder.__init__(self)
        conf = Backbone(**backbone)
        choose("block", conf.block, SPIKING_BLOCKS)
        if conf.attention_window is not None:
            raise ValueError("attention_window: spiking attention has none, see ssa_decay")
        if T not in (None, 1) and neuron == "lif":
            raise ValueError(f"T: {T}: lif emits one spike a frame at most, see neuron: ilif")
        self.lif = {
            "neuron": neuron,
            "T": 4 if T is None else T,
            "tau": tau,
            "learn_tau": learn_tau,
            "v_th": v_th,
            "reset": reset,
            "decay_input": decay_input,
            "detach_reset": detach_reset,
            "surrogate": surrogate,
            "surrogate_alpha": surrogate_alpha,
            "per_channel": per_channel,
        }
        self.attn: dict[str, Any] = {"scale": ssa_scale, "attn_v_th": attn_v_th}
        if conf.causal:
            self.attn["decay"] = tuple(ssa_decay)
        self.rate_loss = RateLoss(r_min, r_max, lambda_q, lambda_b)
        layers = front_end_layers(conf.of_block().input_layer, conf.conv_channels)
        channels = {"F1": layers[0][2], "F2": layers[-1][2]}
        self.build(input_size, conf, LIFPoints(channels, self.lif))

    @classmethod
    def twin(cls, conf: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
        """Return the dense SpeechMamba of the same backbone."""
        return SpeechMambaEncoder, backbone_of(conf)

    @classmethod
    def twin_place(cls, name: str, twin: nn.Module) -> str | None:
        """Return the module of the twin that a neuron stands for, see ``BlockEncoder``.

        Q, K and V of the dense SpeechMamba have no activation, and its scan is read under the gate
        at once. With ReLUs for the neurons the places are the same.
        """
        place = name.removesuffix(".neuron")
        if isinstance(twin, cls):
            return place
        parent, _, own = place.rpartition(".")
        if own in ("neuron_q", "neuron_k", "neuron_v", "f7"):
            return None
        places = {"neuron_in": "f3", "neuron_out": "f4"}
        return f"{parent}.{places.get(own, own)}"

    def set_spike_mode(self, mode: str) -> None:
        """Choose how the neurons run outside training.

        Args:
            mode: ``integer`` or ``binary``, which are one here, as every neuron emits one spike a
                frame at most; or ``fire``: membranes are charged and reset frame by frame.

        Raises:
            ValueError: an unknown mode, or spikes that are worth something (``per_channel``).
        """
        set_spike_mode(self, mode)

    def make_block(self, block: str, conf: BlockConfig) -> nn.Module:
        """Return one spiking block of the kind that ``block`` names."""
        return SPIKING_BLOCKS[block](conf, self.lif, **self.attn)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Return the weighted firing-rate losses of the last forward pass."""
        return self.rate_loss(named_neurons(self).values())


def _refuse_other_blocks(
    encoder: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any
) -> None:
    """Say what to do where ``block`` was left out when another block was its default."""
    blocks = [name for name in state if name.startswith(f"{prefix}encoders.")]
    if blocks and not any(name.startswith(f"{prefix}encoders.0.mamba_in.") for name in blocks):
        raise RuntimeError(
            f"its blocks are none of `{PUBLISHED}`, the default of `block` now; a configuration of "
            "before that leaves it out needs `block: mhsa_mamba` in encoder_conf"
        )


def _window(conf: Backbone) -> tuple[int, int] | None:
    if conf.attention_window is None:
        return (2**30, 0) if conf.causal else None
    left, right = conf.attention_window
    return left, 0 if conf.causal else right
