"""Error rates of a trained model whose encoder runs in integers, beside those of its float one.

CTC is in float in both, and decoded greedily: what differs is the encoder alone. Texts are
normalised, cut and aligned as stage 11 does it (``results.scoring``).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import check_same_features
from espnet_spike.encoders.monitor import captured
from espnet_spike.errors import UserError
from espnet_spike.inference.ctc import collapse
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.results.scoring import align, character_units, normalized_pairs, word_units
from espnet_spike.simulator.integer.network import check, in_integers, measure
from espnet_spike.simulator.integer.registers import WARN_SHARE, Registers
from espnet_spike.tasks.loading import encoder_inputs, load_model, open_model
from espnet_spike.utils.files import name_some, plural, read_table


@dataclass(frozen=True)
class Decoded:
    """What greedy CTC makes of a set.

    Attributes:
        utterances: how many.
        words, characters: of the references, normalised.
        float_errors, integer_errors: words that are wrong.
        float_characters, integer_characters: characters that are wrong.
        differing: utterance -> reference, float hypothesis, integer hypothesis, where the two
            hypotheses differ.
        same_counts: share of spike counts that are equal.
        output_error: root mean square difference of the encoders' outputs, relative.
        normalization: of texts, before they are compared.
        saturated: layer -> share of its activations and of its sums that were larger than their
            registers, where there were any.
        saturated_activations, saturated_sums: such shares over all layers.
    """

    utterances: int
    words: int
    characters: int
    float_errors: int
    integer_errors: int
    float_characters: int
    integer_characters: int
    differing: dict[str, tuple[str, str, str]]
    same_counts: float
    output_error: float
    normalization: str
    saturated: dict[str, tuple[float, float]]
    saturated_activations: float
    saturated_sums: float

    @property
    def float_wer(self) -> float:
        """Word error rate of the float encoder, in percent."""
        return 100 * self.float_errors / self.words

    @property
    def integer_wer(self) -> float:
        """Word error rate of the encoder in integers, in percent."""
        return 100 * self.integer_errors / self.words

    @property
    def float_cer(self) -> float:
        """Character error rate of the float encoder, in percent."""
        return 100 * self.float_characters / self.characters

    @property
    def integer_cer(self) -> float:
        """Character error rate of the encoder in integers, in percent."""
        return 100 * self.integer_characters / self.characters

    def too_narrow(self) -> dict[str, float]:
        """Return the layers of which more saturates than ``WARN_SHARE``, and how much."""
        shares = {name: max(found) for name, found in self.saturated.items()}
        return {name: share for name, share in shares.items() if share > WARN_SHARE}


def decode_in_integers(
    asr_exp: Path,
    data: Path,
    calibration: Path,
    utterances: int,
    checkpoint: str | None = None,
    normalization: str = "none",
) -> Decoded:
    """Decode a set by both forms of a trained model's encoder.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        data: features and ``text`` of the set.
        calibration: features of utterances on which the ranges of activations are measured.
        utterances: how many of these.
        checkpoint: file name of the model; None for the best.
        normalization: a name in ``data.text_normalization.PROFILES``, as of stage 11.

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
    registers = Registers(ranges.sums)
    hyps: tuple[dict[str, str], dict[str, str]] = ({}, {})
    differing = {}
    same = total = 0
    squares = [0.0, 0.0]
    for utt, speech, lengths in _named(model, data, feats):
        want, counts = _encode(model, speech, lengths)
        with in_integers(model.encoder, ranges, registers):
            got, in_integer = _encode(model, speech, lengths)
        same += sum(int((in_integer[name] == counts[name]).sum()) for name in counts)
        total += sum(found.numel() for found in counts.values())
        squares[0] += float((got - want).square().sum())
        squares[1] += float(want.square().sum())
        said = [trained.to_text(collapse(model.ctc.argmax(xs.float())[0])[0]) for xs in (want, got)]
        for found, hyp in zip(hyps, said, strict=True):
            found[utt] = hyp
        if said[0] != said[1]:
            differing[utt] = (texts[utt], said[0], said[1])
    (words, float_errors, integer_errors), characters = (
        _errors(data, texts, hyps, normalization, *unit)
        for unit in (("wer", word_units), ("cer", character_units))
    )
    activations, sums = (
        sum(tally.beyond for tally in kind.values()) / max(sum(t.total for t in kind.values()), 1)
        for kind in (registers.activations, registers.accumulators)
    )
    return Decoded(
        len(feats),
        *(words, characters[0], float_errors, integer_errors, *characters[1:]),
        differing,
        same / max(total, 1),
        (squares[0] / max(squares[1], 1e-30)) ** 0.5,
        normalization,
        registers.saturating(),
        activations,
        sums,
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


def _errors(
    data: Path,
    texts: Mapping[str, str],
    hyps: tuple[dict[str, str], dict[str, str]],
    normalization: str,
    metric: str,
    cut: Callable[[str], list[str]],
) -> tuple[int, int, int]:
    """Return units of the references, and errors of each of two sets of hypotheses."""
    found = []
    for said in hyps:
        keys, refs, hypotheses = normalized_pairs(
            {utt: texts[utt] for utt in said}, said, normalization, data / "text", data
        )
        counts = align(
            *(metric, data, keys, keys),
            *([cut(text) for text in side] for side in (refs, hypotheses)),
        ).counts
        found.append((int(counts.lengths.sum()), int(counts.errors.sum())))
    (units, of_float), (_, of_integer) = found
    return units, of_float, of_integer
