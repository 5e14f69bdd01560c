"""What a trained model does with one utterance: features, spikes of every layer, times of words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import forced_align

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.monitor import LayerSpikes, layer_spikes
from espnet_spike.encoders.spike_options import Execution
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.neurons.base import named_neurons

SECONDS = 4.0  # how long the utterance is that is looked for


@dataclass(frozen=True)
class Word:
    """A word of the hypothesis and when it was said, in seconds from the start."""

    text: str
    start: float
    end: float


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
    asr_exp: Path,
    checkpoint: Path,
    data: FeatureDir,
    utt: str,
    hypothesis: Sequence[int] | None,
    execution: Execution | None = None,
) -> Recording:
    """Encode an utterance as it is decoded and keep what the layers emit.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        checkpoint: its model file.
        data: the features.
        utt: which utterance.
        hypothesis: ids of the recognised tokens; None where they are not known.
        execution: how the encoder runs.

    Raises:
        UserError: the encoder cannot run so.
    """
    from espnet_spike.tasks.asr import SpikeASRTask

    model, args = SpikeASRTask.build_model_from_file(
        str(asr_exp / "config.yaml"), str(checkpoint), "cpu"
    )
    model.eval()
    (execution or Execution()).apply(model.encoder)
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
        frames = token_frames(log_probs[0], hypothesis)
        step = data.durations[utt] / xs.shape[1]
        words = None if frames is None else word_times(tokens, frames, step, args.token_type)
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


def token_frames(log_probs: Tensor, tokens: Sequence[int]) -> list[tuple[int, int]] | None:
    """Return first and last frame of each token on the best CTC path that spells ``tokens``.

    Args:
        log_probs: ``(N, vocabulary)``; blank is 0.
        tokens: without blanks.

    Returns:
        None where they do not fit into N frames.
    """
    repeats = sum(a == b for a, b in pairwise(tokens))
    if len(tokens) + repeats > len(log_probs):
        return None
    if not tokens:
        return []
    path = forced_align(log_probs[None].float(), torch.tensor([list(tokens)]))[0][0].tolist()
    spans: list[tuple[int, int]] = []
    before = 0
    for frame, token in enumerate(path):
        if token and token == before:
            spans[-1] = (spans[-1][0], frame)
        elif token:
            spans.append((frame, frame))
        before = token
    return spans


def word_times(
    tokens: Sequence[str], frames: Sequence[tuple[int, int]], step: float, token_type: str
) -> list[Word]:
    """Return the words that tokens spell, from the first frame of the first to the last one.

    CTC emits a token in a frame or two somewhere within its sound: times are rough.

    Args:
        tokens: of the hypothesis.
        frames: first and last frame of each.
        step: seconds between frames.
        token_type: ``bpe``, ``char`` or ``word``.
    """
    words: list[Word] = []
    fresh = True
    for token, (first, last) in zip(tokens, frames, strict=True):
        if token == "<space>":
            fresh = True
            continue
        if token_type == "word" or (token_type == "bpe" and token.startswith("▁")):
            fresh = True
        text = token.removeprefix("▁") if token_type == "bpe" else token
        end = (last + 1) * step
        if fresh or not words:
            words.append(Word(text, first * step, end))
        else:
            words[-1] = Word(words[-1].text + text, words[-1].start, end)
        fresh = False
    return [word for word in words if word.text]
