"""Record what a trained model does with one utterance."""

from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.monitor import layer_spikes
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.inference.ctc import align, held, timed_words, writes_spaces
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.results.recording import DecodedUtterance, LayerSpikes, Recording
from espnet_spike.tasks.loading import load_model


def record_decoded(decoded: DecodedUtterance) -> Recording:
    """Record an utterance as it was decoded, and keep the recording beside the decoding."""
    found = record(
        *(decoded.checkpoint, decoded.data, decoded.utt, decoded.hypothesis),
        decoded.spike_options,
    )
    decoded.keep(found)
    return found


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
    if model.frontend is not None:  # what is shown of audio is what the encoder gets of it
        with torch.no_grad():
            features = model.frontend(speech, torch.tensor([speech.shape[1]]))[0][0].numpy()
    with torch.no_grad(), layer_spikes(model.encoder) as layers:
        xs, _ = model.encode(speech, torch.tensor([speech.shape[1]]))
        xs = xs[0] if isinstance(xs, tuple) else xs
        log_probs = None if model.ctc is None else model.ctc.log_softmax(xs)
    words = None
    if hypothesis is not None and log_probs is not None:
        tokens = [args.token_list[i] for i in hypothesis]
        spans = align(log_probs[0].numpy(), hypothesis)
        step = data.durations[utt] / xs.shape[1]
        if spans is not None:
            spaces = writes_spaces(args.token_list, args.token_type)
            words = timed_words(tokens, spans, step, args.token_type, spaces)
            words = held(words, data.durations[utt])
    decays = {
        name: module.log_gamma.detach().numpy()
        for name, module in model.encoder.named_modules()
        if isinstance(module, DecayMask) and module.mode != "none"
    }
    return Recording(
        utt,
        data.durations[utt],
        features,
        [LayerSpikes(name, *spikes) for name, spikes in layers.items()],
        not named_neurons(model.encoder) and bool(layers),
        words,
        decays,
        xs.shape[1],
    )
