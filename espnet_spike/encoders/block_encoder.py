"""What our encoders share: a front end, a positional encoding, blocks, a norm, intermediate CTC."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import PositionalEncoding
from torch import Tensor, nn

from espnet_spike.errors import UserError
from espnet_spike.nn.checkpointing import checkpoint
from espnet_spike.nn.layers.dropout import Dropout
from espnet_spike.nn.ops.precision import at_least_fp32
from espnet_spike.utils.options import choose

POS_ENCS = ("abs", "abs_unscaled", "none")


def positional_encoding(pos_enc: str, dim: int, dropout_rate: float) -> nn.Module:
    """Return a positional encoding of ``(B, N, dim)`` with dropout, or the dropout alone.

    Args:
        pos_enc: ``abs`` (sinusoidal, added to sqrt(D) times the input, as ESPnet does),
            ``abs_unscaled`` (added to the input, as SpeechBrain does) or ``none``.
        dim: D.
        dropout_rate: of the result.

    Raises:
        ValueError: for an unknown ``pos_enc``.
    """
    if choose("pos_enc", pos_enc, POS_ENCS) == "none":
        return Dropout(dropout_rate)
    encoding = PositionalEncoding(dim, dropout_rate)
    if pos_enc == "abs_unscaled":
        encoding.xscale = 1.0
    return encoding


def refuse_compiled_training(encoder: str, checkpointed: bool) -> None:
    """Say that an encoder is not trained within ``torch.compile``.

    Args:
        encoder: name of its class.
        checkpointed: ``gradient_checkpointing`` stands in the way.

    Raises:
        UserError: always.
    """
    if checkpointed:
        raise UserError(
            f"torch.compile: {encoder} is not trained compiled with gradient_checkpointing",
            "set encoder_conf: {gradient_checkpointing: false}, or train without torch.compile",
        )
    raise UserError(
        f"torch.compile: {encoder} is not trained compiled, only SpeechMambaEncoder is",
        "train without torch.compile, and compile the encoder in evaluation (eval())",
    )


# as torch.compiler.disable does, which would import the compiler: an error within what is compiled
# would not be raised, but only end the compilation
refuse_compiled_training._torchdynamo_disable = True  # type: ignore[attr-defined]


class BlockEncoder(AbsEncoder):
    """Base of the encoders; a subclass makes the parts and says what a block is given.

    Attributes:
        embed: the front end: ``(B, F, input_size)`` and lengths ``(B,)`` to
            ``(time_steps * B, N, D)`` and lengths ``(B,)``; has ``output_lengths``.
        pos_enc: of ``positional_encoding``.
        encoders: the blocks, ``(time_steps * B, N, D)`` to the same.
        after_norm: on the output, and on that of the blocks with an intermediate CTC loss.
        time_steps: that the batch of the blocks carries.
        interctc_layer_idx: blocks with an intermediate CTC loss; none without ``set_interctc``.
        interctc_use_conditioning: whether their posteriors are fed back.
        gradient_checkpointing: keep only the blocks' inputs while training and run them twice.
        compiles_in_training: whether ``torch.compile`` takes it in training, without
            ``gradient_checkpointing``; in evaluation it takes every one.
    """

    embed: Any  # a module with output_lengths
    pos_enc: nn.Module
    encoders: nn.ModuleList
    after_norm: nn.Module
    time_steps: int = 1
    interctc_layer_idx: Sequence[int] = ()
    interctc_use_conditioning: bool = False
    gradient_checkpointing: bool = False
    compiles_in_training: ClassVar[bool] = False
    _output_size: int

    def set_interctc(self, layers: Sequence[int], use_conditioning: bool) -> None:
        """Feed the output of some blocks to an intermediate CTC loss, under ESPnet's names.

        Args:
            layers: numbers of blocks, 1-based, without the last.
            use_conditioning: feed the posteriors back; ESPnet then sets ``conditioning_layer``.

        Raises:
            ValueError: no such block, or one twice.
        """
        if len(set(layers)) < len(layers):
            raise ValueError(f"interctc_layer_idx: {list(layers)} has a block twice")
        for index in layers:
            if isinstance(index, bool) or not 0 < index < len(self.encoders):
                raise ValueError(
                    f"interctc_layer_idx: {index} is not within 1..{len(self.encoders) - 1}"
                )
        self.interctc_layer_idx = list(layers)
        self.interctc_use_conditioning = use_conditioning
        self.conditioning_layer: Any = None

    @classmethod
    def twin(cls, conf: Mapping[str, Any]) -> tuple[type, dict[str, Any]] | None:
        """Return the dense network of the same size that this encoder is compared with.

        Args:
            conf: options of this encoder.

        Returns:
            class and options of its twin, without spikes and thresholds; None if it is dense.
        """
        return None

    @classmethod
    def twin_place(cls, name: str, twin: nn.Module) -> str | None:
        """Return the module of the twin whose output a neuron stands for.

        Args:
            name: of the neuron within this encoder.
            twin: the encoder of the twin.

        Returns:
            its name within the twin, here the same; None where the twin has nothing of the kind.
        """
        return name.removesuffix(".neuron")

    def output_size(self) -> int:
        """Return D."""
        return self._output_size

    def output_lengths(self, ilens: Tensor) -> Tensor:
        """Return the number of output frames for each number of input frames, ``(B,)``."""
        return self.embed.output_lengths(ilens)

    def subsample(self, xs_pad: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the front end; a subclass checks or cleans its input before."""
        return self.embed(xs_pad, ilens)

    @abstractmethod
    def block_inputs(self, x: Tensor, olens: Tensor) -> tuple:
        """Return what every block is given beside ``x`` ``(time_steps * B, N, D)``.

        Args:
            x: input of the first block.
            olens: its valid frames, ``(B,)``.
        """

    def run_block(self, block: nn.Module, x: Tensor, *inputs: object) -> Tensor:
        """Return the output of a block; ``inputs`` are those of ``block_inputs``."""
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, x, *inputs)
        return block(x, *inputs)

    def readout(self, x: Tensor) -> Tensor:
        """Average the time steps, ``(time_steps * B, N, D)`` to ``(B, N, D)``, and normalise."""
        if self.time_steps > 1:
            x = x.view(self.time_steps, -1, *x.shape[1:]).mean(0)
        return self.after_norm(x)

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: Tensor | None = None,
        ctc: Any = None,
    ) -> tuple[Tensor | tuple[Tensor, list[tuple[int, Tensor]]], Tensor, None]:
        """Encode.

        Args:
            xs_pad: features ``(B, F, input_size)``; frames past ``ilens`` are ignored.
            ilens: ``(B,)``.
            prev_states: not used; ESPnet's signature.
            ctc: ESPnet's CTC module, needed for ``interctc_use_conditioning``.

        Returns:
            ``(xs, olens, None)`` with ``xs`` ``(B, N, D)``, or ``(xs, [(block, output), ...])`` in
            its place when ``interctc_layer_idx`` names blocks.

        Raises:
            TooShortUttError: if no utterance gives an output frame.
            UserError: it reads CTC posteriors and runs without the CTC module; or it is trained
                within ``torch.compile`` and cannot be.
        """
        if torch.compiler.is_compiling() and self.training:
            if self.gradient_checkpointing or not self.compiles_in_training:
                refuse_compiled_training(type(self).__name__, self.compiles_in_training)
        if self.interctc_use_conditioning and (ctc is None or self.conditioning_layer is None):
            raise UserError(
                "interctc_use_conditioning: the encoder reads the posteriors of the model's CTC "
                "layer, which are real values; it cannot run without that layer",
                "proofs, exports, counts and simulations of the encoder alone take models that "
                "were trained without the option",
            )
        x, olens = self.subsample(xs_pad, ilens)
        # x, the membrane potential in spiking blocks, stays fp32 under autocast: branches add up
        # over all blocks
        x = self.pos_enc(at_least_fp32(x))
        inputs = self.block_inputs(x, olens)
        intermediate = []
        for number, block in enumerate(self.encoders, 1):
            x = self.run_block(block, x, *inputs)
            if number in self.interctc_layer_idx:
                out = self.readout(x)
                intermediate.append((number, out))
                if self.interctc_use_conditioning:
                    feedback = self.conditioning_layer(ctc.softmax(out))
                    x = x + feedback.repeat(self.time_steps, 1, 1)
        xs = self.readout(x)
        return ((xs, intermediate) if intermediate else xs), olens, None
