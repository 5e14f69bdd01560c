"""Untrained SpeechMamba encoders of any size and sparsity, recorded on noise.

What a kernel costs follows from sizes and numbers of events, not from what a network has learnt. So
a model too large to train here is simulated with drawn parameters, and with thresholds that make
every point as sparse as the published models are on average (Ahmed et al., 2026, arXiv 2606.01135,
Table I). That all points are equally sparse is ours: the paper gives the mean alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
    backbone_of,
)
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import FATReLU
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.simulator.record import Recording, record_encoder
from espnet_spike.tasks.build import INPUT_SIZE
from espnet_spike.tasks.config import read_training_config

# model, as ``results.json`` names it -> share of zeros; as published
SHARES = {"dense": 0.0, "naive": 0.20, "E": 0.62, "E, optimized": 0.64, "S": 0.72}
NAIVE_POINTS = tuple(f"F{number}" for number in range(1, 9))
HALVINGS = 24


def read_backbone(config: Path | None) -> tuple[dict[str, Any], int]:
    """Return the options of a SpeechMamba backbone, and the feature dimension.

    Args:
        config: YAML of a training with one of the SpeechMamba encoders; None for the published
            backbone, which the encoders' defaults are.

    Raises:
        UserError: the YAML has another encoder.
    """
    if config is None:
        return {}, INPUT_SIZE
    options, meta = read_training_config(config)
    if "speech_mamba" not in str(options.get("encoder")):
        raise UserError(
            f"{config}: encoder {options.get('encoder')} has no SpeechMamba backbone",
            "give a YAML of speech_mamba, event_speech_mamba or spiking_speech_mamba",
        )
    return backbone_of(options.get("encoder_conf") or {}), meta.get("input_size", INPUT_SIZE)


def make_encoder(model: str, backbone: Mapping[str, Any], input_size: int) -> nn.Module:
    """Return a new encoder.

    Args:
        model: a name in ``SHARES``.
        backbone: its options.
        input_size: feature dimension.
    """
    if model == "dense":
        return SpeechMambaEncoder(input_size, **backbone)
    if model == "S":
        return SpikingSpeechMambaEncoder(input_size, **backbone)
    points = {
        "naive": {"fat_points": NAIVE_POINTS, "fat_two_sided": NAIVE_POINTS},
        "E": {"fat_points": "e"},
        "E, optimized": {"fat_points": "optimized"},
    }[model]
    return EventSpeechMambaEncoder(input_size, fat_learn=False, **points, **backbone)


def record_untrained(
    model: str, backbone: Mapping[str, Any], input_size: int, frames: int, seed: int = 0
) -> Recording:
    """Record the blocks of an untrained encoder on noise, as sparse as ``SHARES`` says.

    The front end runs and is left out of the recording: beside a few blocks it would count for more
    than in the whole encoder.

    Args:
        model: a name in ``SHARES``.
        backbone: its options.
        input_size: feature dimension.
        frames: of its output.
        seed: of parameters and noise.
    """
    torch.manual_seed(seed)
    encoder: Any = make_encoder(model, backbone, input_size).eval()
    length = frames * encoder.subsampling_factor
    noise = torch.randn(1, length, input_size), torch.tensor([length])
    with torch.no_grad(), thresholds_set(encoder, SHARES[model]):
        encoder(*noise)
    recording = record_encoder(encoder, [noise])
    return replace(recording, sites=[site for site in recording.sites if site.layer > 0])


@contextmanager
def thresholds_set(encoder: nn.Module, share: float) -> Iterator[None]:
    """Within the context, let every point choose its threshold when its input first reaches it.

    So points are set in the order of the network, each with the points before it set. A batch norm
    takes the statistics of its input. A point whose input has more zeros keeps them.

    Args:
        encoder: its points and neurons are changed in place.
        share: of zeros wanted at each.
    """
    set_of = {FATReLU: set_point, FrameLIF: set_neuron}

    def before(module: Any, args: tuple) -> None:
        x = args[0].detach().float()
        if isinstance(module, MaskedBatchNorm):
            module.running_mean.copy_(x.flatten(0, -2).mean(0))
            module.running_var.copy_(x.flatten(0, -2).var(0))
        else:
            set_of[type(module)](module, x, share)

    kinds = (*set_of, MaskedBatchNorm)
    handles = [m.register_forward_pre_hook(before) for m in encoder.modules() if type(m) in kinds]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def set_point(point: FATReLU, x: Tensor, share: float) -> None:
    """Give a FATReLU the threshold below which a share of its inputs ``x`` lies."""
    if point.activation is not None:
        x = point.activation(x)
    values = (x.abs() if point.two_sided else x).flatten()
    T = values.kthvalue(min(int(share * len(values)) + 1, len(values))).values
    point.set_T(max(float(T), 0.0))


def set_neuron(neuron: FrameLIF, x: Tensor, share: float) -> None:
    """Give a LIF neuron the threshold with which it is silent for a share of neurons and frames."""
    low, high = 0.0, max(float(x.abs().max()) * neuron.tau, 1e-6)
    for _ in range(HALVINGS):
        neuron.v_th = (low + high) / 2
        silent = 1 - float(neuron.run(x, neuron.initial_state(x))[0].mean())
        low, high = (low, neuron.v_th) if silent > share else (neuron.v_th, high)
