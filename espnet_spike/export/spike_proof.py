"""Prove on real utterances that a spiking encoder computes with 0/1 spikes what counts compute.

Three forms of one trained encoder run on every utterance, in float64:

1. *integer*: counts times their unit, as in training;
2. *binary*: T slots of 0/1 spikes, cut from the counts;
3. *fire*: membranes that fire and are reset slot by slot (``nn.ops.imls.integrate_and_fire``).

A neuron that runs over frames emits one spike a frame at most: its first two forms are one, and its
third is a membrane that is carried from frame to frame (``nn.ops.lif.fire_frames``).

All spike counts have to be equal and so have the outputs, and in forms 2 and 3 a guard looks at
every operation: what meets weights is 0 or 1, and real values are no gates, but for what a layer
says is real-valued, which is named (``spike_guard``).

What is kept from one utterance to the next may be the same mistake in all forms. So each form
encodes two utterances again at the end, one of the second half and then the first: after others
than the first time, and with the same bits as a result. A copy that has encoded nothing does so
with the first of these, for what the very first utterance of all may have fixed.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import check_same_features
from espnet_spike.encoders.monitor import captured
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.export.reparameterize import (
    DOUBLE_TOLERANCE,
    Proof,
    count_flips,
    difference,
    encode,
)
from espnet_spike.export.spike_guard import guarded
from espnet_spike.inference.ctc import collapse
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.tasks.loading import encoder_inputs, load_model, open_model

FORMS = ("binary", "fire")
Encoded = tuple[Tensor, dict[str, Tensor]]
"""Output and spike counts, see ``encode``."""


@dataclass
class SpikeProof(Proof):
    """How far the forms on spikes are from counts; see ``Proof`` for the form ``binary``.

    Attributes:
        longest: frames of the longest utterance, behind the front end.
        fire: largest difference of the output of the form ``fire`` in float64.
        fire_flips: its spike counts that differ.
        products: products with weights that read nothing but 0/1 spikes.
        analog: the weights that read the features.
        real: the weights that meet real values by design, and are not claimed as spikes'.
        selects: scans that read nothing but 0/1 spikes.
        violations: what read anything else -> how often.
        repeated: how often an utterance was encoded again, after others than the first time.
        changed: form -> how often that gave another result.
    """

    longest: int = 0
    fire: float = 0.0
    fire_flips: int = 0
    products: int = 0
    analog: tuple[str, ...] = ()
    real: tuple[str, ...] = ()
    selects: int = 0
    violations: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    changed: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the three forms are one function, and two of them compute with spikes."""
        fires = self.fire <= DOUBLE_TOLERANCE and self.fire_flips == 0
        watched = self.products > 0 and not self.violations
        return self.holds_in_double and fires and watched and self.repeated > 0 and not self.changed

    def failures(self) -> list[str]:
        """Return what does not hold, in words."""
        found = []
        for form, off, flips in (
            ("binary", self.double, self.double_flips),
            ("fire", self.fire, self.fire_flips),
        ):
            if flips or off > DOUBLE_TOLERANCE:
                found.append(
                    f"{form}: spikes give another result than counts ({flips} counts, {off:.2g})"
                )
        found += [f"{what} ({times} times)" for what, times in self.violations.items()]
        if not self.products:
            found.append("no product was seen")
        found += [
            f"{form}: another result after other utterances, so something is kept ({times} times)"
            for form, times in self.changed.items()
        ]
        if not self.repeated:
            found.append("no utterance was encoded again")
        return found


def prove_spikes(
    asr_exp: Path,
    checkpoint: str | None,
    data_dirs: Mapping[str, Path],
    utterances: int | None = None,
) -> dict[str, SpikeProof]:
    """Compare a trained encoder that computes with counts with itself computing with 0/1 spikes.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        checkpoint: file name of the model there; None for the best.
        data_dirs: name -> feature directory.
        utterances: how many of each, the first ones; None for all.

    Returns:
        Set name -> how far the forms are apart.

    Raises:
        UserError: the encoder has no binary form, the forms are not the same function, or one of
            them reads what is no spike.
    """
    with open_model(asr_exp) as opened:
        check_same_features(opened.path, data_dirs.values())
        trained = load_model(opened, checkpoint)
    model, path = trained.model, trained.checkpoint
    forms = in_forms(model.encoder)
    proofs = {}
    for name, folder in data_dirs.items():
        total = len(list(FeatureDir.read(folder).feats)[:utterances])
        inputs = encoder_inputs(model, folder, utterances)
        with tqdm(inputs, name, total, unit="utt", leave=False) as bar:
            proof = proofs[name] = prove(model, forms, bar)
        if not proof.holds:
            raise UserError(
                f"{path}: no proof on {name}: {'; '.join(proof.failures())}: "
                f"{json.dumps(asdict(proof))}",
                "please report this",
            )
    return proofs


def in_forms(encoder: nn.Module) -> dict[str, nn.Module]:
    """Return a trained encoder in float64: form -> a copy of it that runs so.

    Raises:
        UserError: it does not spike.
    """
    forms = {"integer": copy.deepcopy(encoder).double()}
    for form in FORMS:
        forms[form] = copy.deepcopy(forms["integer"])
        SpikeOptions(spike_mode=form).apply(forms[form])
    return forms


@torch.no_grad()
def prove(model: Any, forms: Mapping[str, nn.Module], inputs: Any) -> SpikeProof:
    """Run the forms of an encoder on its inputs.

    Args:
        model: the trained ESPnet model, fp32.
        forms: of `in_forms`.
        inputs: of the encoder, one utterance each.

    Raises:
        UserError: there is no input, or neurons do not round yet.
    """
    proof = SpikeProof()
    single = copy.deepcopy(forms["binary"]).float()
    unused = copy.deepcopy(forms["integer"])
    flips = total = same = 0
    kept: list[tuple[Tensor, Tensor, dict[str, Encoded]]] = []
    for speech, lengths in inputs:
        proof.utterances += 1
        expected, counts = encode(forms["integer"], speech.double(), lengths)
        if any(
            getattr(neuron, "warm", False) for neuron in named_neurons(forms["integer"]).values()
        ):
            raise UserError(
                "its neurons do not round yet, so there are no spikes to prove",
                "train for more updates than warm_start_steps",
            )
        results = {"integer": (expected, counts)}
        proof.longest = max(proof.longest, expected.shape[1])
        off, flipped = {}, {}
        for form in FORMS:
            got, got_counts = results[form] = _watched(forms[form], speech.double(), lengths, proof)
            off[form], flipped[form] = difference(got, expected), count_flips(got_counts, counts)
        if proof.utterances.bit_count() == 1:  # the last power of two is in the second half
            kept = [*kept[:1], (speech.double(), lengths, results)]
        proof.double, proof.fire = max(proof.double, off["binary"]), max(proof.fire, off["fire"])
        proof.double_flips += flipped["binary"]
        proof.fire_flips += flipped["fire"]
        theirs, their_counts = encode(model.encoder, speech, lengths)
        ours, our_counts = encode(single, speech, lengths)
        proof.fp32 = max(proof.fp32, difference(ours, theirs))
        flips += count_flips(our_counts, their_counts)
        total += sum(found.numel() for found in our_counts.values())
        same += model.ctc is None or _greedy(model, ours) == _greedy(model, theirs)
    if not proof.utterances:
        raise UserError("no utterance is long enough for the encoder")
    proof.fp32_flips = flips / max(total, 1)
    proof.same_ctc = same / proof.utterances
    again = [(form, forms[form], utterance) for utterance in kept[::-1] for form in forms]
    again += [("integer", unused, utterance) for utterance in kept[1:]]
    for form, encoder, (speech, lengths, results) in again:
        proof.repeated += 1
        if not _identical(encode(encoder, speech, lengths), results[form]):
            proof.changed[form] = proof.changed.get(form, 0) + 1
    return proof


def _identical(got: Encoded, expected: Encoded) -> bool:
    """Tell whether two results are equal to the bit, output and counts."""
    (xs, counts), (ys, others) = got, expected
    same = all(torch.equal(counts[name], others[name]) for name in others)
    return same and torch.equal(xs, ys) and set(counts) == set(others)


def _watched(
    encoder: nn.Module, speech: Tensor, lengths: Tensor, proof: SpikeProof
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what ``encode`` returns, with a guard on every product."""

    def counts_of(_: str, neuron: Any, args: tuple, y: Any) -> Tensor:
        return neuron.spike_counts(args, y)[0]

    with captured(named_neurons(encoder), counts_of) as counts:
        out, guard = guarded(encoder, speech, lengths)
    for what, times in guard.violations.items():
        proof.violations[what] = proof.violations.get(what, 0) + times
    proof.products += sum(guard.products.values())
    proof.analog = guard.analog
    proof.real = tuple(sorted(guard.real.union(proof.real)))
    proof.selects += guard.selects
    xs = out[0]
    return (xs[0] if isinstance(xs, tuple) else xs), counts


def _greedy(model: Any, xs: Tensor) -> list[int]:
    return collapse(model.ctc.argmax(xs)[0])[0]
