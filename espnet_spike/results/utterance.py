"""What a trained model does with one utterance: features, spikes of every layer, times of words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.monitor import LayerSpikes, layer_spikes
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.inference.ctc import Word, align, timed_words
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.tasks.loading import load_model

SECONDS = 4.0  # how long the utterance is that is looked for


@dataclass(frozen=True)
class Recording:
    """One utterance in a trained encoder.

    Attributes:
        utt: its key.
        seconds: of audio.
        features: ``(F, D)``, as the model gets them.
        layers: spikes, in the order of the forward pass; empty without spiking neurons.
        events: the layers hold values that are not zero behind a FATReLU, not spikes.
        words: of the hypothesis; None where CTC cannot tell their times.
        log_gammas: layer -> natural logarithm of the decay per head ``(H,)``, for decay masks.
        frames: length of the encoder's output.
    """

    utt: str
    seconds: float
    features: np.ndarray
    layers: list[LayerSpikes] = field(default_factory=list)
    events: bool = False
    words: list[Word] | None = None
    log_gammas: dict[str, np.ndarray] = field(default_factory=dict)
    frames: int = 0


def choose_utterance(durations: dict[str, float], seconds: float = SECONDS) -> str:
    """Return the utterance whose duration is nearest to ``seconds``."""
    return min(sorted(durations), key=lambda utt: abs(durations[utt] - seconds))


def record(
    checkpoint: Path,
    data: FeatureDir,
    utt: str,
    hypothesis: Sequence[int] | None,
    execution: SpikeOptions | None = None,
) -> Recording:
    """Encode an utterance as it is decoded and keep what the layers emit.

    Args:
        checkpoint: model file, in the folder of its experiment.
        data: the features.
        utt: which utterance.
        hypothesis: ids of the recognised tokens; None where they are not known.
        execution: how the encoder runs.

    Raises:
        UserError: the encoder cannot run so.
    """
    trained = load_model(checkpoint, spike_options=execution)
    model, args = trained.model, trained.options
    with ArkReader() as reader:
        features = reader.read(utt, data.feats[utt]).copy()
    speech = torch.from_numpy(features)[None].float()
    for module in model.encoder.modules():
        if hasattr(module, "pieces_from"):
            module.pieces_from = speech.shape[1] + 1  # in one piece, so that each layer runs once
    with torch.no_grad(), layer_spikes(model.encoder) as layers:
        xs, _ = model.encode(speech, torch.tensor([speech.shape[1]]))
        xs = xs[0] if isinstance(xs, tuple) else xs
        log_probs = None if model.ctc is None else model.ctc.log_softmax(xs)
    words = None
    if hypothesis is not None and log_probs is not None:
        tokens = [args.token_list[i] for i in hypothesis]
        spans = align(log_probs[0].numpy(), hypothesis)
        step = data.durations[utt] / xs.shape[1]
        words = None if spans is None else timed_words(tokens, spans, step, args.token_type)
    decays = {
        name: module.log_gamma.detach().numpy()
        for name, module in model.encoder.named_modules()
        if isinstance(module, DecayMask) and module.mode != "none"
    }
    return Recording(
        utt,
        data.durations[utt],
        features,
        list(layers.values()),
        not named_neurons(model.encoder) and bool(layers),
        words,
        decays,
        xs.shape[1],
    )
