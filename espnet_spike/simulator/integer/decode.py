"""Word error rates of a trained model whose encoder runs in integers, beside its float one.

CTC is in float in both, and decoded greedily: what differs is the encoder alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import torch

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import check_same_features
from espnet_spike.encoders.monitor import captured
from espnet_spike.errors import UserError
from espnet_spike.inference.ctc import collapse
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.simulator.integer.network import check, in_integers, measure
from espnet_spike.tasks.loading import encoder_inputs, load_model, open_model
from espnet_spike.utils.files import name_some, plural, read_table


@dataclass(frozen=True)
class Decoded:
    """What greedy CTC makes of a set.

    Attributes:
        utterances: how many.
        words: of the references.
        float_errors, integer_errors: words that are wrong.
        differing: utterance -> reference, float hypothesis, integer hypothesis, where the two
            hypotheses differ.
        same_counts: share of spike counts that are equal.
        output_error: root mean square difference of the encoders' outputs, relative.
    """

    utterances: int
    words: int
    float_errors: int
    integer_errors: int
    differing: dict[str, tuple[str, str, str]]
    same_counts: float
    output_error: float

    @property
    def float_wer(self) -> float:
        """Word error rate of the float encoder, in percent."""
        return 100 * self.float_errors / self.words

    @property
    def integer_wer(self) -> float:
        """Word error rate of the encoder in integers, in percent."""
        return 100 * self.integer_errors / self.words


def decode_in_integers(
    asr_exp: Path, data: Path, calibration: Path, utterances: int, checkpoint: str | None = None
) -> Decoded:
    """Decode a set by both forms of a trained model's encoder.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        data: features and ``text`` of the set.
        calibration: features of utterances on which the ranges of activations are measured.
        utterances: how many of these.
        checkpoint: file name of the model; None for the best.

    Raises:
        UserError: the encoder cannot run in integers, the model has no CTC, features are others or
            have no text, or utterances are too short.
    """
    with open_model(asr_exp) as opened:
        check_same_features(opened.path, [data, calibration])
        trained = load_model(opened, checkpoint)
    model = trained.model
    check(model.encoder)
    if model.ctc is None:
        raise UserError(f"{asr_exp}: the model has no CTC", "its ctc_weight is 0")
    texts = read_table(data / "text")
    feats = list(FeatureDir.read(data).feats)
    if blank := [utt for utt in feats if not texts.get(utt, "-").strip()]:
        raise UserError(f"{data / 'text'}: no words of {name_some(blank)}")
    ranges = measure(model.encoder, encoder_inputs(model, calibration, utterances))
    refs: list[str] = []
    hyps: tuple[list[str], list[str]] = ([], [])
    differing = {}
    same = total = 0
    squares = [0.0, 0.0]
    for utt, speech, lengths in _named(model, data, feats):
        want, counts = _encode(model, speech, lengths)
        with in_integers(model.encoder, ranges):
            got, in_integer = _encode(model, speech, lengths)
        same += sum(int((in_integer[name] == counts[name]).sum()) for name in counts)
        total += sum(found.numel() for found in counts.values())
        squares[0] += float((got - want).square().sum())
        squares[1] += float(want.square().sum())
        said = [trained.to_text(collapse(model.ctc.argmax(xs.float())[0])[0]) for xs in (want, got)]
        refs.append(texts[utt])
        for found, hyp in zip(hyps, said, strict=True):
            found.append(hyp)
        if said[0] != said[1]:
            differing[utt] = (texts[utt], said[0], said[1])
    of_float, of_integer = (_errors(refs, found) for found in hyps)
    return Decoded(
        len(refs),
        sum(len(ref.split()) for ref in refs),
        of_float,
        of_integer,
        differing,
        same / max(total, 1),
        (squares[0] / max(squares[1], 1e-30)) ** 0.5,
    )


def _named(model: Any, data: Path, feats: list[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and input of every utterance.

    Raises:
        UserError: one is too short for the encoder.
    """
    inputs = list(encoder_inputs(model, data))
    if len(inputs) != len(feats):
        short = plural(len(feats) - len(inputs), "utterance")
        raise UserError(
            f"{data}: {short} too short for the encoder", "take them out of the set before"
        )
    for utt, (speech, lengths) in zip(feats, inputs, strict=True):
        yield utt, speech, lengths


@torch.no_grad()
def _encode(model: Any, speech: Any, lengths: Any) -> tuple[Any, dict[str, Any]]:
    """Return the encoder's output ``(1, N, D)`` and the spike counts of every neuron."""

    def counts_of(_: str, neuron: Any, args: tuple, y: Any) -> Any:
        return neuron.spike_counts(args, y)[0]

    with captured(named_neurons(model.encoder), counts_of) as counts:
        xs = model.encoder(speech, lengths)[0]
    return (xs[0] if isinstance(xs, tuple) else xs), counts


def _errors(refs: list[str], hyps: list[str]) -> int:
    found = jiwer.process_words(refs, hyps)
    return found.substitutions + found.deletions + found.insertions
