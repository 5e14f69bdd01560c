"""Run an IML-Spikeformer encoder in integers: what is between two layers lies on int16 grids.

``measure`` notes how large activations get on some utterances. ``in_integers`` then puts integer
arithmetic in the place of every layer: int8 weights with a scale for each output channel, sums of
32 bits, int16 activations, spike counts and the frame's mean magnitude as the kernel takes it. A
batch norm behind a weight layer is merged into it. Tensors between the layers hold numbers of a
grid's steps times the step, so nothing is lost on the way; a residual sum has one grid throughout.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.base import Activation, Neuron
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.response import StaircaseResponse
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.simulator.integer.arithmetic import (
    decayed,
    layer_norm,
    quantise_channels,
    spike_counts,
    thresholds,
    to_grid,
)
from espnet_spike.simulator.integer.registers import ROOM, Registers
from espnet_spike.simulator.lower_spikeformer import STATISTICS
from espnet_spike.simulator.operations import INT16, Array, headroom

NORMED = 2.0**-10  # step of a norm's output, as the kernel has it
STREAM = "residual"
NEGLIGIBLE = 1e-9  # range of what was 0 in all frames


@dataclass(frozen=True)
class Ranges:
    """Largest magnitudes that were measured.

    Attributes:
        inputs, outputs: of modules, by name.
        scores: of Q K^T before its scale, by name of the attention.
        sums: of integers in accumulators, by name of the layer.
    """

    inputs: Mapping[str, float]
    outputs: Mapping[str, float]
    scores: Mapping[str, float]
    sums: Mapping[str, int] = field(default_factory=dict)


@torch.no_grad()
def measure(encoder: Any, utterances: Iterable[tuple[Tensor, Tensor]]) -> Ranges:
    """Encode utterances, ``(1, F, D)`` and its length, and note how large activations get.

    Then once more in integers, for the sums.

    Raises:
        UserError: there is no utterance, or the encoder cannot run in integers.
    """
    utterances = list(utterances)
    ins: dict[str, float] = {}
    outs: dict[str, float] = {}
    last: dict[str, Tensor] = {}
    scores: dict[str, float] = {}

    def keep(name: str, _module: nn.Module, args: tuple, out: object) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            ins[name] = max(ins.get(name, 0.0), float(args[0].abs().max()))
            outs[name] = max(outs.get(name, 0.0), float(out.abs().max()))
            if name.endswith(("linear_q", "linear_k")):
                last[name] = out

    inside = {name: module for name, module in encoder.named_modules() if name}
    with watching(inside, keep):
        for speech, lengths in utterances:
            encoder(speech, lengths)
            for index, block in enumerate(encoder.encoders):
                name = f"encoders.{index}.attn"
                q, k = (_heads(last[f"{name}.linear_{x}"], block.attn.heads) for x in "qk")
                largest = float(np.abs(q @ k.swapaxes(1, 2)).max())
                scores[name] = max(scores.get(name, 0.0), largest)
    if not scores:
        raise UserError("no utterance is long enough for the encoder")
    ranges, registers = Ranges(ins, outs, scores), Registers()
    with in_integers(encoder, ranges, registers):
        for speech, lengths in utterances:
            encoder(speech, lengths)
    return replace(ranges, sums=registers.largest)


def check(encoder: Any) -> None:
    """See whether an encoder can run in integers.

    Raises:
        UserError: it cannot; says why.
    """
    if not isinstance(encoder, IMLSpikeformerEncoder):
        raise _not(f"encoder {type(encoder).__name__}")
    for name, module in encoder.named_modules():
        if isinstance(module, Neuron):
            response = module.response()
            if not isinstance(response, StaircaseResponse) or response.statistic not in STATISTICS:
                raise _not(f"{name}: {type(module).__name__}")
        elif isinstance(module, Activation):
            raise _not(f"{name}: {type(module).__name__}")
    for index, block in enumerate(encoder.encoders):
        attn: Any = block.attn
        if type(attn).__name__ != "SpikingAttention" or attn.folded is not None:
            raise _not("qk_mode: other than bilinear, or an inference form,")
        norms = ["norm_attn", "norm_ffn", *(["norm_conv"] if block.conv is not None else [])]
        for norm in norms:
            if not isinstance(getattr(block, norm), LayerNorm):
                raise _not(f"encoders.{index}.{norm}: norm {type(getattr(block, norm)).__name__}")


def _not(what: str) -> UserError:
    return UserError(
        f"{what} cannot run in integers",
        "iml_spikeformer with imls or ilif neurons, qk_mode bilinear and norm ln can",
    )


@contextmanager
def in_integers(encoder: Any, ranges: Ranges, registers: Registers | None = None) -> Iterator[None]:
    """Let an encoder run in integers within the context, one utterance a batch.

    Args:
        encoder: see ``check``.
        ranges: of ``measure``.
        registers: count what saturates; None for those of the ranges.

    Raises:
        UserError: see ``check``.
    """
    check(encoder)
    with ExitStack() as stack:
        for module, name, function in _Network(encoder, ranges, registers).replacements():
            vars(module)[name] = function
            stack.callback(vars(module).pop, name)
        yield


class _Network:
    """What stands in the place of each layer of an encoder."""

    def __init__(self, encoder: Any, ranges: Ranges, registers: Registers | None = None) -> None:
        self.encoder, self.ranges = encoder, ranges
        self.registers = Registers(ranges.sums) if registers is None else registers
        self.modules: dict[str, Any] = dict(encoder.named_modules())
        branches = ("attn.linear_out", "conv.pointwise_out", "ffn.linear_out")
        sums = [ranges.inputs["after_norm"], ranges.outputs["embed.out"]]
        for index, block in enumerate(encoder.encoders):
            sums += [
                ranges.inputs[f"encoders.{index}.{norm}"]
                for norm in ("norm_attn", "norm_conv", "norm_ffn")
                if hasattr(block, norm)
            ]
            sums += [ranges.outputs.get(f"encoders.{index}.{name}", 0.0) for name in branches]
        sums.append(ranges.outputs.get("pos_enc", 0.0))
        self.stream = max(*sums, NEGLIGIBLE) * ROOM / INT16

    def replacements(self) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Yield a module, the name of its method, and what stands in for that."""
        embed = self.encoder.embed
        for index in range(len(embed.convs)):
            neuron = f"embed.neurons.{index}"
            yield from self.neuron(neuron)
            yield self.layer(f"embed.convs.{index}", self.before(neuron), neuron)
        yield self.layer("embed.out", self.stream)
        if hasattr(self.encoder.pos_enc, "pe"):
            position = type(self.encoder.pos_enc).forward
            yield self.encoder.pos_enc, "forward", self.on_stream(self.encoder.pos_enc, position)
        for index, block in enumerate(self.encoder.encoders):
            yield from self.block(f"encoders.{index}", block)
            yield block, "join", self.joined
        yield self.norm("after_norm", self.stream)

    def block(self, name: str, block: Any) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Yield those of a block."""
        attn, ffn, conv = f"{name}.attn", f"{name}.ffn", f"{name}.conv"
        yield self.norm(f"{name}.norm_attn", self.stream)
        yield from self.neuron(f"{attn}.neuron_in", NORMED)
        head_dim = block.attn.dim // block.attn.heads
        limit = min(INT16, np.sqrt(2.0**30 / head_dim))
        outputs = {part: self.ranges.outputs[f"{attn}.linear_{part}"] for part in "qk"}
        steps = {part: max(most, NEGLIGIBLE) * ROOM / limit for part, most in outputs.items()}
        for part, step in steps.items():
            yield self.layer(f"{attn}.linear_{part}", step)
        yield from self.behind(f"{attn}.linear_v", f"{attn}.norm_v", f"{attn}.neuron_v")
        normed = isinstance(block.attn.norm_out, LayerNorm)
        neuron_out = f"{attn}.neuron_out"
        inside = self.step(f"{attn}.norm_out") if normed else self.before(neuron_out)
        if normed:
            yield self.norm(f"{attn}.norm_out", inside)
        yield from self.neuron(neuron_out, NORMED if normed else None)
        yield block.attn, "attend", self.attention(attn, block.attn, steps, inside, normed)
        yield self.layer(f"{attn}.linear_out", self.stream)
        if block.conv is not None:
            yield self.norm(f"{name}.norm_conv", self.stream)
            yield from self.neuron(f"{conv}.neuron_in", NORMED)
            middle, last = f"{conv}.neuron_depthwise", f"{conv}.neuron_out"
            yield self.layer(f"{conv}.pointwise_in", self.before(middle), middle)
            yield from self.neuron(middle)
            yield self.depthwise(conv, middle, last)
            yield block.conv.norm, "forward", lambda x, mask=None: x  # merged
            yield from self.neuron(last)
            yield self.layer(f"{conv}.pointwise_out", self.stream)
        yield self.norm(f"{name}.norm_ffn", self.stream)
        yield from self.neuron(f"{ffn}.neuron_in", NORMED)
        hidden = f"{ffn}.neuron_hidden"
        yield self.layer(f"{ffn}.linear_in", self.before(hidden), hidden)
        yield from self.neuron(hidden)
        yield self.layer(f"{ffn}.linear_out", self.stream)

    def behind(
        self, layer: str, norm: str, neuron: str
    ) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Yield a weight layer, the LayerNorm behind it, if there is one, and a neuron."""
        if isinstance(self.modules[norm], LayerNorm):
            yield self.layer(layer, self.step(norm))
            yield self.norm(norm, self.step(norm))
            yield from self.neuron(neuron, NORMED)
        else:
            yield self.layer(layer, self.before(neuron), neuron)
            yield from self.neuron(neuron)

    def step(self, name: str) -> float:
        """Return the step of the grid on which a module's input lies."""
        return max(self.ranges.inputs[name], NEGLIGIBLE) * ROOM / INT16

    def before(self, neuron: str) -> float:
        """Return the step of the input of a neuron, behind its batch norm."""
        normed = isinstance(self.modules[neuron], NormedNeuron)
        return self.step(f"{neuron}.neuron" if normed else neuron)

    def affine(self, neuron: str | None) -> tuple[Array, Array] | None:
        """Return scale and offset of the batch norm before a neuron; None without one."""
        module = None if neuron is None else self.modules[neuron]
        if not isinstance(module, NormedNeuron):
            return None
        scale, offset = (x.detach().double().numpy() for x in module.norm.affine())
        return scale, offset

    def neuron(
        self, name: str, step: float | None = None
    ) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Yield what a neuron does with numbers of steps; its batch norm is merged."""
        found = self.before(name) if step is None else step
        module: Any = self.modules[name]
        if isinstance(module, NormedNeuron):
            yield module.norm, "forward", lambda x, mask=None: x
            module = module.neuron
        response = module.response()
        scale, unit = response.scale.double().numpy(), response.unit.double()
        try:
            inverse, fixed = thresholds(scale, STATISTICS[response.statistic], found)
        except ValueError as error:
            raise _not(f"{name}: its threshold's {error}; it") from None

        def forward(x: Tensor, mask: Tensor | None = None) -> SpikeTrain:
            rows = self.registers.grid(name, x[0].flatten(1).double().numpy(), found)
            repeated = np.tile(inverse, rows.shape[1] // len(inverse))
            counts, m = spike_counts(rows, repeated, response.levels, fixed)
            tail = (1,) * (x.dim() - 2)
            level = m * found if STATISTICS[response.statistic] == 0 else np.ones(len(m))
            frame = torch.from_numpy(level).view(1, -1, *tail)
            counted = torch.from_numpy(counts).double().view(x.shape)
            return SpikeTrain(counted, frame, unit, response.levels)

        yield module, "forward", forward

    def norm(self, name: str, step: float) -> tuple[nn.Module, str, Callable]:
        """Return what a LayerNorm does with numbers of steps."""
        module = self.modules[name]
        weight, bias = (x.detach().double().numpy() for x in (module.weight, module.bias))

        def forward(x: Tensor, mask: Tensor | None = None) -> Tensor:
            rows = self.registers.grid(name, x[0].double().numpy(), step)
            return _tensor(layer_norm(rows, weight, bias), NORMED)

        return module, "forward", forward

    def on_stream(self, module: nn.Module, right: Callable) -> Callable:
        """Return a layer of no weights whose output is put on the grid of the residual sum."""

        def forward(x: Tensor) -> Tensor:
            found = right(module, x)[0].double().numpy()
            return _tensor(self.registers.grid(STREAM, found, self.stream), self.stream)

        return forward

    def joined(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return the residual sum, which saturates at each addition."""
        total = (x + branch)[0].double().numpy()
        return _tensor(self.registers.grid(STREAM, total, self.stream), self.stream)

    def merged(self, name: str, affine: tuple[Array, Array] | None) -> tuple[Array, Array]:
        """Return weights and bias of a layer with the batch norm behind it."""
        module = self.modules[name]
        w = module.weight.detach().double().numpy()
        b = np.zeros(len(w)) if module.bias is None else module.bias.detach().double().numpy()
        if affine is None:
            return w, b
        scale, offset = affine
        return w * scale.reshape(-1, *[1] * (w.ndim - 1)), b * scale + offset

    def layer(
        self, name: str, step: float, neuron: str | None = None
    ) -> tuple[nn.Module, str, Callable]:
        """Return a linear or 2-D convolutional layer whose output has steps of ``step``."""
        module = self.modules[name]
        w, bias = self.merged(name, self.affine(neuron))
        start = to_grid(bias, step)
        inputs = self.ranges.inputs.get(name)

        def of_train(xs: SpikeTrain) -> Tensor:
            channel = xs.channel.double().numpy()
            shown = channel if w.ndim == 2 else channel[:, None, None]
            wq, unit = quantise_channels(w * shown)
            counts = xs.counts[0].double().numpy()
            frame = xs.frame.double().numpy().reshape(-1)
            frame = np.broadcast_to(frame, len(counts)) if frame.size == 1 else frame
            if w.ndim == 2:
                sums = _product(counts, wq)
                y = self.registers.scaled(name, sums, frame[:, None] * unit / step)
                return _tensor(self.registers.fit16(name, y + start), step)
            taps, stride = module.kernel_size[0], module.stride[0]
            length = (len(counts) - taps) // stride + 1
            total = np.zeros(1, np.int64)
            for tap in range(taps):
                rows = slice(tap, tap + (length - 1) * stride + 1, stride)
                sums = _convolve(counts[rows], wq[:, :, tap], module.stride[1])
                y = self.registers.scaled(name, sums, frame[rows][:, None, None] * unit / step)
                total = self.registers.fit16(name, total + y)
            return _tensor(self.registers.fit16(name, total + start), step)

        def dense(xs: Tensor) -> Tensor:
            limit = headroom(quantise_channels(w)[0], tuple(range(1, w.ndim)))
            scale = max(inputs or 0.0, NEGLIGIBLE) * ROOM / limit
            # the bias has to fit the accumulator: weights that are small beside it, or 0, take
            # larger steps rather than the input of all channels
            wq, unit = quantise_channels(w, np.abs(bias) / (scale * 2.0**29))
            x = np.rint(xs[0].double().numpy() / scale)
            x = self.registers.fit(name, x, limit)
            begin = np.round(bias / (unit * scale)).astype(np.int64)
            if w.ndim == 2:
                sums = _product(x, wq) + begin
                return _tensor(self.registers.scaled(name, sums, unit * scale / step), step)
            taps, stride = module.kernel_size[0], module.stride[0]
            length = (len(x) - taps) // stride + 1
            found = np.zeros(1, np.int64)
            for tap in range(taps):
                rows = slice(tap, tap + (length - 1) * stride + 1, stride)
                found = found + _convolve(x[rows], wq[:, :, tap], module.stride[1])
            return _tensor(self.registers.scaled(name, found + begin, unit * scale / step), step)

        def forward(xs: Tensor | SpikeTrain) -> Tensor:
            return of_train(xs) if isinstance(xs, SpikeTrain) else dense(xs)

        return module, "forward", forward

    def depthwise(self, conv: str, neuron: str, reader: str) -> tuple[nn.Module, str, Callable]:
        """Return the depthwise convolution, whose sums are over frames of different units."""
        module = self.modules[f"{conv}.depthwise"]
        scale, offset = (x.detach().double().numpy() for x in self.modules[f"{conv}.norm"].affine())
        first = self.affine(reader)
        if first is not None:
            scale, offset = scale * first[0], offset * first[0] + first[1]
        w, bias = self.merged(f"{conv}.depthwise", (scale, offset))
        step, inside = self.before(reader), self.before(neuron)
        start = to_grid(bias, step)

        def forward(xs: SpikeTrain) -> Tensor:
            wq, unit = quantise_channels(w[:, 0] * xs.channel.double().numpy()[:, None])
            taps = wq.shape[1]
            follows = xs.frame.numel() > 1
            one = inside if follows else 1.0  # a frame's level is a number of the input's steps
            level = np.rint(xs.frame.double().numpy().reshape(-1, 1) / one).astype(np.int64)
            x = xs.counts[0].numpy().astype(np.int64) * level
            x = np.pad(x, ((taps // 2, taps // 2), (0, 0)))
            length = len(x) - taps + 1
            sums = np.zeros((length, len(wq)), np.int64)
            for t in range(taps):
                sums += x[t : t + length] * wq[:, t].astype(np.int64)
            y = self.registers.scaled(f"{conv}.depthwise", sums, unit * one / step)
            return _tensor(self.registers.fit16(f"{conv}.depthwise", y + start), step)

        return module, "forward", forward

    def attention(
        self, name: str, module: Any, steps: dict[str, float], step: float, normed: bool
    ) -> Callable:
        """Return the product of decayed Q K^T with the counts of V."""
        affine = None if normed else self.affine(f"{name}.neuron_out")
        of_score = steps["q"] * steps["k"]
        largest = self.ranges.scores[name] * ROOM / of_score
        shift = max(int(np.ceil(np.log2(max(largest, 1.0) / 2**15))), 0)

        def attend(
            query: Tensor, key: Tensor, value: SpikeTrain, mask: Tensor, lengths: Tensor
        ) -> Tensor:
            heads, count = module.heads, query.shape[1]
            q, k = (_heads(_grid(x, steps[part]), heads) for part, x in (("q", query), ("k", key)))
            # of 16 bits behind the shift, which is that of the largest map of the calibration
            most = 2 ** min(15 + shift, 31)
            scores = self.registers.fit(f"{name} (map)", q @ k.swapaxes(1, 2), most - 1, -most)
            scores = scores.astype(np.int64)
            fading = np.ones((heads, count, count))
            matrix = module.decay.matrix(count)
            if matrix is not None:
                fading = matrix.detach().double().numpy()
            rows = module.decay.row_scale(count, lengths)
            if rows is not None:
                fading = fading * rows[0].detach().double().numpy()[..., None]
            fading = np.round(fading * 2**15).clip(0, 65535).astype(np.int64)
            frame = np.broadcast_to(value.frame.double().numpy().reshape(-1), count)
            unit = float(frame.max(initial=1e-9))
            p = decayed(scores, fading, np.round(frame / unit * 2**15).astype(np.int64), shift)
            counts = _heads(value.counts, heads)
            context = np.concatenate(list(p @ counts), 1).astype(np.int64)
            factor = of_score * module.scale * 2.0**shift * unit * value.channel.double().numpy()
            if affine is None:
                return _tensor(self.registers.scaled(name, context, factor / step), step)
            scale, offset = affine
            y = self.registers.scaled(name, context, factor * np.abs(scale) / step)
            y = y * np.sign(scale).astype(np.int64) + to_grid(offset, step)
            return _tensor(self.registers.fit16(name, y), step)

        return attend


def _grid(x: Tensor, step: float) -> Tensor:
    return torch.from_numpy(to_grid(x.double().numpy(), step)).double()


def _heads(x: Tensor, heads: int) -> Array:
    """Return ``(1, N, D)`` as ``(heads, N, D / heads)``, in float64, which holds the integers."""
    return x[0].double().numpy().reshape(x.shape[1], heads, -1).swapaxes(0, 1)


def _tensor(steps: Array, step: float) -> Tensor:
    return torch.from_numpy(np.asarray(steps, np.float64) * step)[None]


def _product(x: Array, wq: Array) -> Array:
    # sums of products of integers are exact in float64, and fast
    return (x @ wq.T.astype(np.float64)).astype(np.int64)


def _convolve(x: Array, w: Array, stride: int) -> Array:
    """Return one tap in time: x ``(N, F, C)`` with w ``(outputs, C, width)``."""
    width = w.shape[2]
    positions = (x.shape[1] - width) // stride + 1
    found = np.zeros(1)
    for k in range(width):
        bins = slice(k, k + (positions - 1) * stride + 1, stride)
        found = found + x[:, bins] @ w[:, :, k].T.astype(np.float64)
    return found.astype(np.int64)
