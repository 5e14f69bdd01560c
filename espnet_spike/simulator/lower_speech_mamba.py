"""SpeechMamba as kernel calls: dense, event-driven (FATReLU) and spiking (LIF)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from espnet_spike.encoders.mamba_blocks import (
    MambaFFNBlock,
    MambaMHSAMambaBlock,
    MHSAMambaBlock,
)
from espnet_spike.encoders.spiking_mamba_blocks import SpikingMambaBlock
from espnet_spike.nn.layers.fatrelu import FATReLU, Pass
from espnet_spike.nn.layers.spikformer_attention import SpikformerAttention
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import FrameILIF, FrameLIF, FrameReLU
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.simulator import attention_sites as attention
from espnet_spike.simulator import layer_sites as layers
from espnet_spike.simulator import operations as ops
from espnet_spike.simulator.operations import Array, Events, Site
from espnet_spike.simulator.tape import Tape, unsupported, windows

Function = Callable[[Array], Array]


def silu(x: Array) -> Array:
    """Return x * sigmoid(x)."""
    return x / (1 + np.exp(-x))


def leaky_relu(x: Array) -> Array:
    """Return torch's LeakyReLU with its usual slope."""
    return np.where(x > 0, x, 0.01 * x)


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x))."""
    return np.logaddexp(0, x)


def lower(tape: Tape) -> tuple[list[Site], tuple[str, ...]]:
    """Return the sites and the codings that differ.

    Raises:
        UserError: an option has no kernels.
    """
    encoder = tape.encoder
    if encoder.window is not None or encoder.embed.causal:
        raise unsupported("attention_window or causal")
    if any(isinstance(m, FrameILIF | FrameReLU) for m in encoder.modules()):
        raise unsupported("neuron: another than lif in spiking_speech_mamba")
    sites = _front_end(tape)
    if hasattr(encoder.pos_enc, "pe"):
        sites.append(ops.add("pos_enc", "residual", 0, tape.output("pos_enc")))
    for layer, block in enumerate(encoder.encoders, 1):
        name = f"encoders.{layer - 1}"
        if isinstance(block, MambaMHSAMambaBlock):
            sites += _residual_mamba(tape, f"{name}.mamba_in", layer)
            sites.append(_norm(tape, f"{name}.attn.norm", layer))
            sites += _attention(tape, f"{name}.attn.sublayer", layer)
            sites += _residual_mamba(tape, f"{name}.mamba_out", layer)
        elif isinstance(block, MHSAMambaBlock):
            sites.append(_norm(tape, f"{name}.norm_attn", layer))
            sites += _attention(tape, f"{name}.attn", layer)
            sites.append(_norm(tape, f"{name}.norm_mamba", layer))
            sites += _mamba(tape, f"{name}.mamba", layer)
        elif isinstance(block, SpikingMambaBlock):
            sites += _attention(tape, f"{name}.attn", layer)
            sites += _mamba(tape, f"{name}.mamba", layer)
        elif isinstance(block, MambaFFNBlock):
            sites.append(_norm(tape, f"{name}.norm_mamba", layer))
            sites += _mamba(tape, f"{name}.mamba", layer)
            sites.append(_norm(tape, f"{name}.norm_ffn", layer))
            sites += _feed_forward(tape, f"{name}.ffn", layer)
        else:
            raise unsupported(f"block: {type(block).__name__}")
    sites.append(_norm(tape, "after_norm", 0))
    sparse = any(isinstance(m, FATReLU | FrameLIF) for m in encoder.modules())
    return sites, ops.codings("dense", "event") if sparse else ops.codings("dense")


def _residual_mamba(tape: Tape, name: str, layer: int) -> list[Site]:
    """Return the sites of x + Mamba(norm(x))."""
    return [_norm(tape, f"{name}.norm", layer), *_mamba(tape, f"{name}.sublayer", layer)]


def _attention(tape: Tape, name: str, layer: int) -> list[Site]:
    module = tape.modules[name]
    of_kind = _spiking_attention if isinstance(module, SpikformerAttention) else _self_attention
    return of_kind(tape, name, layer, module.heads)


def _norm(tape: Tape, name: str, layer: int) -> Site:
    """Return the site of a LayerNorm or RMSNorm."""
    kind = "layernorm" if isinstance(tape.modules[name], torch.nn.LayerNorm) else "rmsnorm"
    x, bias = tape.input(name), tape.bias(name) if kind == "layernorm" else None
    weight = tape.parameter(f"{name}.weight").reshape(-1)
    bias = None if bias is None else bias.reshape(-1)
    return ops.norm(name, "norm", layer, kind, weight, bias, x.reshape(len(x), -1))


def _batch_norm(tape: Tape, name: str, layer: int, x: Array) -> Site:
    scale, offset = (t.detach().double().numpy() for t in tape.modules[name].affine())
    return Site(name, "norm", layer, ops.everywhere(ops.affine(scale, offset, x)))


def _point(
    tape: Tape, name: str, layer: int, dense: Function | None = None
) -> tuple[list[Site], Events | None, Array]:
    """Return the sites at a point, its output as events (None if dense) and as real values.

    Args:
        tape: the recording.
        name: of the point's module.
        layer: block.
        dense: the activation that the dense model has here.
    """
    module, x, y = tape.modules[name], tape.input(name), tape.output(name)
    flat, out = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if isinstance(module, FrameLIF | NormedNeuron):
        return (
            _lif(tape, name, layer),
            Events(out.astype(np.int16), np.ones(len(y)), np.ones(out.shape[1])),
            y,
        )
    table = None if dense is None else ops.lookup(flat, dense)
    if isinstance(module, Pass):
        sites = [] if table is None else [Site(name, "neuron", layer, ops.everywhere(table))]
        return sites, None, y
    sites = []
    forms = {} if table is None else ops.of_kinds(dense=table)
    if module.activation is not None:  # the two-sided form keeps it
        assert dense is not None and table is not None
        sites.append(Site(f"{name}.activation", "neuron", layer, ops.of_kinds(event=table)))
        flat = dense(flat)
    forms |= ops.of_kinds(event=ops.threshold(flat, _T(module), module.two_sided))
    return [*sites, Site(name, "neuron", layer, forms)], Events.of(out), y


def _lif(tape: Tape, name: str, layer: int) -> list[Site]:
    module: Any = tape.modules[name]
    sites, neuron = [], name
    if isinstance(module, NormedNeuron):
        sites.append(_batch_norm(tape, f"{name}.norm", layer, tape.input(name)))
        module, neuron = module.neuron, f"{name}.neuron"
    before = []
    for x in tape.inputs(neuron):
        steps = torch.from_numpy(x)[None]
        v = module.initial_state(steps)
        for t in range(steps.shape[1]):
            before.append(v[0].double().numpy().reshape(-1).copy())
            _, v = module.run(steps[:, t : t + 1], v)
    if module.per_channel:
        raise unsupported("per_channel: a threshold and a unit for each channel of LIF neurons")
    x, y = tape.input(neuron), tape.output(neuron)
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    conf = module.tau, module.v_th, module.reset, module.decay_input
    return [*sites, layers.lif(neuron, layer, x, np.stack(before), y, *conf)]


def _linear(
    tape: Tape, name: str, part: str, layer: int, events: Events | None = None
) -> list[Site]:
    weight, bias = tape.parameter(f"{name}.weight"), tape.bias(name)
    x = tape.input(name)
    return ops.linear(name, part, layer, weight, bias, x.reshape(len(x), -1), events)


def _front_end(tape: Tape) -> list[Site]:
    embed = tape.encoder.embed
    sites, events = [], None
    points = [*(f"embed.f1.{index}" for index in range(len(embed.f1))), "embed.f2"]
    for index, point in enumerate(points):
        name, norm, last = f"embed.convs.{index}", f"embed.norms.{index}", point == "embed.f2"
        inputs = events
        sites += _conv(tape, name, embed.layers[index], inputs)
        sites.append(_norm(tape, norm, 0))
        activation: Function | None = leaky_relu
        if last and embed.skip is not None:  # the sum comes before the point
            y = tape.output(norm)
            table = ops.lookup(y.reshape(len(y), -1), leaky_relu)
            sites.append(Site(f"{norm}.activation", "neuron", 0, ops.everywhere(table)))
            sites += _conv(tape, "embed.skip.conv", embed.layers[index], inputs)
            sites.append(_norm(tape, "embed.skip.norm", 0))
            y = tape.output("embed.skip.norm")
            sites.append(ops.add("embed.skip.add", "front end", 0, y.reshape(len(y), -1)))
            activation = None
        more, events, _ = _point(tape, point, 0, activation)
        sites += more
    return [*sites, *_linear(tape, "embed.out", "front end", 0, events)]


def _conv(tape: Tape, name: str, layer: tuple[int, int, int], events: Events | None) -> list[Site]:
    """Return the sites of a convolution of ``(kernel, stride, channels)`` over events, if any."""
    kernel, stride, _ = layer
    # (channels, T, bins), padded by the module
    maps = [x.transpose(1, 2, 0) for x in tape.inputs(name)]
    x = windows(maps, kernel, stride, 0, 0)
    counts = x.astype(np.int16) if events is not None and events.spiking else None
    weight, bias = tape.parameter(f"{name}.weight"), tape.parameter(f"{name}.bias")
    return layers.conv(name, "front end", weight, bias, x, stride, events is not None, counts)


def _self_attention(tape: Tape, name: str, layer: int, heads: int) -> list[Site]:
    sites, events, _ = _point(tape, f"{name}.f3", layer)
    for part in "qkv":
        sites += _linear(tape, f"{name}.linear_{part}", "qkv", layer, events)
    q, k, v = (tape.output(f"{name}.linear_{part}") for part in "qkv")
    q = q / np.sqrt(q.shape[1] / heads)
    p = attention.Probabilities(q, k, heads, tape.keys(), None)
    sites.append(attention.scores(name, layer, q, k, heads, tape.keys())[0])
    sites.append(attention.softmax(name, layer, p))
    sites.append(attention.context(name, layer, p, v, None, heads, tape.keys()))
    sites.append(_context_requantize(tape, name, layer, tape.input(f"{name}.f4")))
    more, events, _ = _point(tape, f"{name}.f4", layer)
    sites += [*more, *_linear(tape, f"{name}.linear_out", "attention output", layer, events)]
    return [*sites, _residual(tape, name, layer, tape.output(f"{name}.linear_out"))]


def _context_requantize(tape: Tape, name: str, layer: int, context: Array) -> Site:
    sums = np.round(context / max(np.abs(context).max(), 1e-12) * 2**28).astype(np.int64)
    return ops.requantize(f"{name}.context.requantize", "attention", layer, sums)


def _residual(tape: Tape, name: str, layer: int, y: Array) -> Site:
    return ops.add(f"{name}.residual", "residual", layer, y)


def _spiking_attention(tape: Tape, name: str, layer: int, heads: int) -> list[Site]:
    sites, events, _ = _point(tape, f"{name}.neuron_in", layer)
    spikes = []
    for part in "qkv":
        sites += _linear(tape, f"{name}.linear_{part}", "qkv", layer, events)
        more, _, y = _point(tape, f"{name}.neuron_{part}", layer)
        sites += more
        spikes.append(y)
    keys = tape.keys()
    q, k, v = spikes
    sites += attention.dense_products(name, layer, q, k, v, heads, keys)
    sites += attention.spike_products(name, layer, q, k, v, heads, keys)
    sites.append(_context_requantize(tape, name, layer, tape.input(f"{name}.neuron_out")))
    more, events, _ = _point(tape, f"{name}.neuron_out", layer)
    sites += [*more, *_linear(tape, f"{name}.linear_out", "attention output", layer, events)]
    if isinstance(tape.modules[f"{name}.norm_out"], MaskedBatchNorm):
        sites.append(_batch_norm(tape, f"{name}.norm_out", layer, tape.input(f"{name}.norm_out")))
    return [*sites, _residual(tape, name, layer, tape.output(f"{name}.norm_out"))]


def _feed_forward(tape: Tape, name: str, layer: int) -> list[Site]:
    sites = _linear(tape, f"{name}.linear_in", "feed-forward", layer)
    more, events, _ = _point(tape, f"{name}.f8", layer, silu)
    sites += [*more, *_linear(tape, f"{name}.linear_out", "feed-forward", layer, events)]
    return [*sites, _residual(tape, name, layer, tape.output(f"{name}.linear_out"))]


def _mamba(tape: Tape, name: str, layer: int) -> list[Site]:
    sites, events, _ = _point(tape, f"{name}.f5", layer)
    sites += _linear(tape, f"{name}.in_proj", "in_proj", layer, events)
    more, y = _ssm(tape, f"{name}.ssm", layer)
    sites += more
    if tape.modules[name].ssm_reverse is not None:
        more, back = _ssm(tape, f"{name}.ssm_reverse", layer)
        ends = np.cumsum(tape.lengths)[:-1]
        y = 0.5 * (y + np.concatenate([part[::-1] for part in np.split(back, ends)]))
        sites += [*more, ops.add(f"{name}.average", "scan", layer, y)]
    more, events = _gate(tape, name, layer, y)
    sites += [*more, *_linear(tape, f"{name}.out_proj", "out_proj", layer, events)]
    return [*sites, _residual(tape, name, layer, tape.output(f"{name}.out_proj"))]


def _gate(tape: Tape, name: str, layer: int, y: Array) -> tuple[list[Site], Events | None]:
    """Return the sites of the gate with the neurons on it, and the events of its output."""
    f6, f7 = tape.modules[f"{name}.f6"], tape.modules[f"{name}.f7"]
    out = tape.input(f"{name}.out_proj")
    if isinstance(f6, NormedNeuron):
        gates, _, g = _point(tape, f"{name}.f6", layer)
        outputs, _, s = _point(tape, f"{name}.f7", layer)
        form = ops.of_kinds(dense=layers.gate(s, g), event=layers.gate_spikes(s, g))
        return [*gates, *outputs, Site(f"{name}.gate", "gate", layer, form)], _binary(out)
    sites, _, g = _point(tape, f"{name}.f6", layer, silu)
    dense = layers.gate(y, silu(tape.input(f"{name}.f6")))
    one_sided = [isinstance(f, FATReLU) and not f.two_sided for f in (f6, f7)]
    if all(one_sided):
        form = ops.of_kinds(dense=dense, event=layers.gate_events(y, g, _T(f7)))
        return [*sites, Site(f"{name}.gate", "gate", layer, form)], Events.of(out)
    if one_sided[0]:  # its events are of no use to a dense product
        rectified = ops.of_kinds(event=ops.relu(tape.input(f"{name}.f6"), _T(f6)))
        sites = [Site(s.name, s.part, layer, s.forms | rectified) for s in sites]
    form = ops.of_kinds(dense=dense, event=layers.gate(y, g))
    more, events, _ = _point(tape, f"{name}.f7", layer)
    return [*sites, Site(f"{name}.gate", "gate", layer, form), *more], events


def _binary(spikes: Array) -> Events:
    return Events(spikes.astype(np.int16), np.ones(len(spikes)), np.ones(spikes.shape[1]))


def _T(point: FATReLU) -> float:
    return float(point.T.detach())


def _ssm(tape: Tape, name: str, layer: int) -> tuple[list[Site], Array]:
    """Return the sites of one direction and its output ``(frames, E)``."""
    module = tape.modules[name]
    weight = tape.parameter(f"{name}.conv.weight")[:, 0].T
    taps = len(weight)
    maps = [x[:, None] for x in tape.inputs(f"{name}.conv")]
    x = windows(maps, taps, 1, taps - 1, 0)[:, :, 0]
    sites = layers.depthwise(f"{name}.conv", layer, weight, tape.parameter(f"{name}.conv.bias"), x)
    more, spikes, u = _point(tape, f"{name}.activation", layer, silu)
    sites += more
    more, events, _ = _point(tape, f"{name}.f9", layer)
    sites += [*more, *_linear(tape, f"{name}.x_proj", "x_proj", layer, events or spikes)]
    more, events, _ = _point(tape, f"{name}.f10", layer)
    sites += [*more, *_linear(tape, f"{name}.dt_proj", "dt_proj", layer, events)]
    steps = tape.output(f"{name}.dt_proj")
    table = ops.lookup(steps, softplus)
    sites.append(Site(f"{name}.softplus", "dt_proj", layer, ops.everywhere(table)))
    selected = []
    for point in ("f11_b", "f11_c"):
        more, _, values = _point(tape, f"{name}.{point}", layer)
        sites += more
        selected.append(values)
    A = -np.exp(module.A_log.detach().double().numpy())
    D = module.D.detach().double().numpy()
    B, C = selected
    scan = layers.Scan(u, softplus(steps), A, B, C, D, tape.keys())
    sites.append(scan.site(f"{name}.scan", layer))
    return sites, tape.output(name)
