"""IML-Spikeformer and its ReLU twin as kernel calls."""

from typing import Any

import numpy as np
import torch

from espnet_spike.nn.neurons.base import Activation, Neuron
from espnet_spike.nn.neurons.factory import NormedNeuron, ReLU
from espnet_spike.nn.neurons.response import StaircaseResponse
from espnet_spike.nn.norms import LayerNorm
from espnet_spike.simulator import attention_sites as attention
from espnet_spike.simulator import layer_sites as layers
from espnet_spike.simulator import operations as ops
from espnet_spike.simulator.operations import Array, Events, Site
from espnet_spike.simulator.tape import Tape, unsupported, windows

STATISTICS = {"token": 0.0, "ema": 1.0, "fixed": 1.0}
"""Statistic that a neuron divides its input by -> the kernel's level; 0: the kernel takes it."""


def lower(tape: Tape) -> tuple[list[Site], tuple[str, ...]]:
    """Return the sites and the codings that differ.

    Raises:
        UserError: an option has no kernels.
    """
    encoder = tape.encoder
    _check(tape)
    sites = _front_end(tape)
    if hasattr(encoder.pos_enc, "pe"):
        sites.append(ops.add("pos_enc", "residual", 0, tape.output("pos_enc")))
    for layer, block in enumerate(encoder.encoders, 1):
        sites += _block(tape, f"encoders.{layer - 1}", layer, block)
    sites.append(_norm(tape, "after_norm", 0))
    spiking = any(isinstance(module, Neuron) for module in encoder.modules())
    return sites, ops.codings(*ops.KINDS) if spiking else ops.codings("dense", "event")


def _check(tape: Tape) -> None:
    for name, module in tape.modules.items():
        response = module.response() if isinstance(module, Neuron) else None
        if isinstance(response, StaircaseResponse):
            if response.statistic not in STATISTICS:
                raise unsupported(f"{name}: imls_stat {response.statistic}")
        elif isinstance(module, Activation) and not isinstance(module, ReLU):
            raise unsupported(f"{name}: {type(module).__name__}")
    for block in tape.encoder.encoders:
        if type(block.attn).__name__ != "SpikingAttention" or block.attn.folded is not None:
            raise unsupported("qk_mode: other than bilinear, or an inference form,")
        if block.attn.decay.causal:
            raise unsupported("causal")


def _norm(tape: Tape, name: str, layer: int) -> Site:
    module = tape.modules[name]
    if not isinstance(module, LayerNorm):
        raise unsupported(f"{name}: norm {type(module).__name__}")
    weight, bias = tape.parameter(f"{name}.weight"), tape.bias(name)
    return ops.norm(name, "norm", layer, "layernorm", weight, bias, tape.input(name))


@torch.no_grad()
def _counts(neuron: Neuron, x: Array, y: Array) -> tuple[Array, Array]:
    """Return spikes ``(frames, ...)`` and the level of each frame."""
    inputs, output = (torch.from_numpy(z).float()[None] for z in (x, y))
    counts = neuron.spike_counts((inputs,), output)[0][0].numpy().astype(np.int16)
    return counts, neuron.frame_level(inputs)[0].double().numpy()


def _affine(tape: Tape, norm: str) -> tuple[Array, Array]:
    """Return what a batch norm does in evaluation: scale and offset, each ``(C,)``."""
    scale, offset = (x.detach().double().numpy() for x in tape.modules[norm].affine())
    return scale, offset


def _before(tape: Tape, neuron: str) -> tuple[Array, Array] | None:
    """Return scale and offset of the norm that a neuron has; None where it has none."""
    normed = isinstance(tape.modules[neuron], NormedNeuron)
    return _affine(tape, f"{neuron}.norm") if normed else None


def _folded(tape: Tape, name: str, affine: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Return weights ``(outputs, ...)`` and bias of a layer, with the batch norm behind it."""
    weight, bias = tape.parameter(f"{name}.weight"), tape.bias(name)
    bias = np.zeros(len(weight)) if bias is None else bias
    if affine is None:
        return weight, bias
    scale, offset = affine
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + offset


def _neuron(
    tape: Tape, name: str, part: str, layer: int, to_linear: bool = True
) -> tuple[Site, Events, Array]:
    """Return the site of a neuron, its output as events, and its output as real values.

    A batch norm before it is none of it: the layer before holds it, see ``_folded``.
    """
    name = f"{name}.neuron" if isinstance(tape.modules[name], NormedNeuron) else name
    module, x, y = tape.modules[name], tape.input(name), tape.output(name)
    flat = x.reshape(len(x), -1)
    if isinstance(module, ReLU):
        fat = ops.threshold(flat, 0.0, False)
        site = Site(name, part, layer, ops.of_kinds(dense=ops.relu(flat), event=fat))
        return site, Events.of(y.reshape(len(y), -1)), y
    response, (counts, frame) = module.response(), _counts(module, x, y)
    repeats = flat.shape[1] // module.dim
    scale, unit = (np.tile(z.double().numpy(), repeats) for z in (response.scale, response.unit))
    counts = counts.reshape(len(x), -1)
    # the levels of stat ema are part of the channels' factors
    level = STATISTICS[response.statistic]
    # where all counts are 0 or 1 there are no bits to tell apart
    planes = to_linear and counts.max(initial=0) > 1
    site = layers.imls(name, part, layer, flat, counts, scale, response.levels, level, planes)
    return site, Events(counts, frame, unit), y


def _linear(
    tape: Tape,
    name: str,
    part: str,
    layer: int,
    x: Array,
    events: Events,
    affine: tuple[Array, Array] | None = None,
) -> list[Site]:
    """Return the sites of a linear layer with the batch norm behind it, if there is one."""
    weight, bias = _folded(tape, name, affine)
    given = bias if affine is not None or tape.bias(name) is not None else None
    return ops.linear(name, part, layer, weight, given, x.reshape(len(x), -1), events)


def _front_end(tape: Tape) -> list[Site]:
    embed = tape.encoder.embed
    sites, counts = [], None
    for index, (kernel, stride) in enumerate(embed.layers):
        name = f"embed.convs.{index}"
        maps = tape.inputs(name)
        x = windows(maps, kernel, stride, 0, 0)
        spikes = None
        if counts is not None:
            lengths = np.cumsum([len(x) for x in maps])[:-1]
            spikes = windows(np.split(counts, lengths), kernel, stride, 0, 0).astype(np.int16)
        weight, bias = _folded(tape, name, _before(tape, f"embed.neurons.{index}"))
        sites += layers.conv(name, "front end", weight, bias, x, stride, index > 0, spikes)
        last = index + 1 == len(embed.layers)
        site, events, y = _neuron(tape, f"embed.neurons.{index}", "neuron", 0, last)
        counts = events.counts.reshape(y.shape) if events.spiking else None
        sites.append(site)
    return [*sites, *_linear(tape, "embed.out", "front end", 0, y, events)]


def _block(tape: Tape, name: str, layer: int, block: Any) -> list[Site]:
    sites = _attention(tape, name, layer, block.attn)
    if block.conv is not None:
        sites += _conv_module(tape, name, layer)
    ffn = f"{name}.ffn"
    sites.append(_norm(tape, f"{name}.norm_ffn", layer))
    site, events, x = _neuron(tape, f"{ffn}.neuron_in", "neuron", layer)
    affine = _before(tape, f"{ffn}.neuron_hidden")
    sites += [site, *_linear(tape, f"{ffn}.linear_in", "feed-forward", layer, x, events, affine)]
    site, events, x = _neuron(tape, f"{ffn}.neuron_hidden", "neuron", layer)
    sites += [site, *_linear(tape, f"{ffn}.linear_out", "feed-forward", layer, x, events)]
    sites.append(ops.add(f"{ffn}.residual", "residual", layer, tape.output(f"{ffn}.linear_out")))
    return sites


def _attention(tape: Tape, name: str, layer: int, module: Any) -> list[Site]:
    attn, keys, heads = f"{name}.attn", tape.keys(), module.heads
    sites = [_norm(tape, f"{name}.norm_attn", layer)]
    site, events, x = _neuron(tape, f"{attn}.neuron_in", "neuron", layer)
    sites.append(site)
    for part in "qkv":
        affine = _before(tape, f"{attn}.neuron_v") if part == "v" else None
        sites += _linear(tape, f"{attn}.linear_{part}", "qkv", layer, x, events, affine)
    q = tape.output(f"{attn}.linear_q") * module.scale
    k = tape.output(f"{attn}.linear_k")
    if isinstance(module.norm_v, LayerNorm):
        sites.append(_norm(tape, f"{attn}.norm_v", layer))
    site, values, v = _neuron(tape, f"{attn}.neuron_v", "neuron", layer, False)
    sites.append(site)
    scores, _ = attention.scores(attn, layer, q, k, heads, keys)
    gamma = np.exp(module.decay.log_gamma.detach().double().numpy())
    p = attention.Probabilities(q, k, heads, keys, gamma, module.decay.norm)
    context = attention.context(attn, layer, p, v, values.counts, heads, keys)
    out = tape.input(f"{attn}.norm_out")
    sites += [scores, attention.decay(attn, layer, p), context]
    sites.append(ops.requantize(f"{attn}.context.requantize", "attention", layer, _sums(out)))
    sites += _units(tape, attn, layer, values, out)
    if isinstance(module.norm_out, LayerNorm):
        sites.append(_norm(tape, f"{attn}.norm_out", layer))
    site, events, x = _neuron(tape, f"{attn}.neuron_out", "neuron", layer)
    sites += [site, *_linear(tape, f"{attn}.linear_out", "attention output", layer, x, events)]
    sites.append(ops.add(f"{attn}.residual", "residual", layer, tape.output(f"{attn}.linear_out")))
    return sites


def _units(tape: Tape, attn: str, layer: int, values: Events, out: Array) -> list[Site]:
    """Return the site of the units of V's channels, once a frame, and of the norm behind them."""
    given = _before(tape, f"{attn}.neuron_out")
    scale, offset = given if given is not None else (np.ones(out.shape[1]), np.zeros(out.shape[1]))
    forms = {}
    if given is not None:
        forms |= ops.of_kinds(dense=(dense := ops.affine(scale, offset, out)), event=dense)
    if values.spiking:
        form = ops.affine(values.channel * scale, offset, out / values.channel)
        forms |= ops.of_kinds(event=form, spike=form)
    return [Site(f"{attn}.context.unit", "attention", layer, forms)] if forms else []


def _conv_module(tape: Tape, name: str, layer: int) -> list[Site]:
    """Return the sites of the convolution module: pointwise, depthwise, pointwise."""
    conv, part = f"{name}.conv", "convolution module"
    sites = [_norm(tape, f"{name}.norm_conv", layer)]
    site, events, x = _neuron(tape, f"{conv}.neuron_in", "neuron", layer)
    affine = _before(tape, f"{conv}.neuron_depthwise")
    sites += [site, *_linear(tape, f"{conv}.pointwise_in", part, layer, x, events, affine)]
    site, events, x = _neuron(tape, f"{conv}.neuron_depthwise", "neuron", layer, False)
    weight, bias = _folded(tape, f"{conv}.depthwise", _affine(tape, f"{conv}.norm"))
    sites.append(site)
    weight = weight[:, 0].T
    taps, ends = len(weight), np.cumsum(tape.lengths)[:-1]

    def over(values: Array) -> Array:
        maps = [part[:, None] for part in np.split(values, ends)]
        return windows(maps, taps, 1, taps // 2, 0)[:, :, 0]

    sites += layers.depthwise(f"{conv}.depthwise", layer, weight, bias, over(x), events, over)
    site, events, x = _neuron(tape, f"{conv}.neuron_out", "neuron", layer)
    sites += [site, *_linear(tape, f"{conv}.pointwise_out", part, layer, x, events)]
    y = tape.output(f"{conv}.pointwise_out")
    return [*sites, ops.add(f"{conv}.residual", "residual", layer, y)]


def _sums(x: Array) -> Array:
    """Return accumulators that stand for real values."""
    return np.round(x / max(np.abs(x).max(), 1e-12) * 2**28).astype(np.int64)
