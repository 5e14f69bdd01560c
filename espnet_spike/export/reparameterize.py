"""Turn a trained encoder into its inference form, and prove on real utterances that it is one.

Merging matrices changes nothing but the order of sums. A spiking network rounds, though: one count
that flips in fp32 changes what follows. So the proof has three parts: every merged layer on the
same input in fp32, before the next neuron; the whole encoder in float64, where all counts have to
be equal; and, as a figure and no condition, the whole encoder in fp32.
"""

import copy
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.data.feature_extractor import hand_on
from espnet_spike.encoders.monitor import captured
from espnet_spike.errors import UserError
from espnet_spike.experiment import keep_files, read_config
from espnet_spike.inference.ctc import collapse
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.tasks.loading import encoder_inputs, load_model
from espnet_spike.utils.files import replacing_bytes, write_json
from espnet_spike.utils.yaml import write_config

LAYER_TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-9
PROOF = "reparameterize.json"


@dataclass
class Proof:
    """How far the inference form is from the trained one; differences are relative.

    Attributes:
        utterances: how many were encoded.
        layer_fp32: largest difference of a merged layer on the same input, before the next neuron.
        double: largest difference of the encoder's output in float64.
        double_flips: spike counts that differ in float64.
        fp32: largest difference of the encoder's output in fp32; a figure, not a condition.
        fp32_flips: share of spike counts that differ in fp32; likewise.
        same_ctc: share of utterances with the same greedy CTC result in fp32; likewise.
    """

    utterances: int = 0
    layer_fp32: float = 0.0
    double: float = 0.0
    double_flips: int = 0
    fp32: float = 0.0
    fp32_flips: float = 0.0
    same_ctc: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether the two forms are the same function."""
        return self.layer_fp32 <= LAYER_TOLERANCE and self.holds_in_double

    @property
    def holds_in_double(self) -> bool:
        """Whether the encoder's outputs and all spike counts are equal in float64."""
        return self.double <= DOUBLE_TOLERANCE and self.double_flips == 0


def reparameterize(
    asr_exp: Path, checkpoint: str | None, data: Path, out: Path, fold_qk: bool, utterances: int
) -> Proof:
    """Write an experiment folder with the inference form of a trained model.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        checkpoint: file name of the model there; None for the best.
        data: feature directory whose first utterances prove it.
        out: folder to write: ``config.yaml``, the model under its name, ``reparameterize.json``.
        fold_qk: merge W_Q and W_K too.
        utterances: how many utterances to encode.

    Raises:
        UserError: the encoder has no inference form, or the proof does not hold; nothing is
            written then.
    """
    config = read_config(asr_exp)
    trained = load_model(asr_exp, checkpoint)
    model, path = trained.model, trained.checkpoint
    if not hasattr(model.encoder, "reparameterize"):
        raise UserError(f"encoder: {config['encoder']} has no inference form")
    double = copy.deepcopy(model.encoder).double()
    merged = copy.deepcopy(double)
    merged.reparameterize(fold_qk)
    proof = prove(model, double, merged, encoder_inputs(model, data, utterances))
    if not proof.holds:
        raise UserError(
            f"{path}: the inference form differs: {json.dumps(asdict(proof))}",
            "nothing was written; please report this",
        )
    model.encoder = merged.float()
    config["encoder_conf"] = {
        **config["encoder_conf"],
        "reparameterized": True,
        "fold_qk": fold_qk,
    }
    out.mkdir(parents=True, exist_ok=True)
    with replacing_bytes(out / path.name) as file:
        torch.save(model.state_dict(), file)
    write_config(out / "config.yaml", config)
    hand_on(asr_exp, out)
    keep_files(out, config)
    write_json(out / PROOF, asdict(proof))
    return proof


@torch.no_grad()
def prove(
    model: Any,
    double: nn.Module,
    merged: nn.Module,
    inputs: Iterable[tuple[Tensor, Tensor]],
) -> Proof:
    """Compare the trained encoder with its inference form.

    Args:
        model: the trained ESPnet model, fp32.
        double: its encoder in float64.
        merged: the inference form of ``double``.
        inputs: of the encoder, one utterance each.
    """

    def greedy(xs: Tensor) -> list[int]:
        return collapse(model.ctc.argmax(xs)[0])[0]

    trained, single = model.encoder, copy.deepcopy(merged).float()
    proof = Proof()
    flips = total = same = 0
    for speech, lengths in inputs:
        proof.utterances += 1
        proof.layer_fp32 = max(proof.layer_fp32, *layer_differences(trained, single, speech))
        ours, our_counts = encode(merged, speech.double(), lengths)
        theirs, their_counts = encode(double, speech.double(), lengths)
        proof.double = max(proof.double, difference(ours, theirs))
        proof.double_flips += count_flips(our_counts, their_counts)
        ours, our_counts = encode(single, speech, lengths)
        theirs, their_counts = encode(trained, speech, lengths)
        proof.fp32 = max(proof.fp32, difference(ours, theirs))
        flips += count_flips(our_counts, their_counts)
        total += sum(counts.numel() for counts in our_counts.values())
        if model.ctc is not None:
            same += greedy(ours) == greedy(theirs)
        else:
            same += 1
    if not proof.utterances:
        raise UserError("no utterance is long enough for the encoder")
    proof.fp32_flips = flips / max(total, 1)
    proof.same_ctc = same / proof.utterances
    return proof


def difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value; of what is no number, inf."""
    found = (got - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return float(found.nan_to_num(nan=torch.inf, posinf=torch.inf))


def count_flips(got: dict[str, Tensor], expected: dict[str, Tensor]) -> int:
    """Return how many spike counts differ."""
    return sum(int((got[name] != expected[name]).sum()) for name in expected)


def encode(encoder: nn.Module, speech: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the encoder's output and the spike counts of every neuron, by name."""

    def counts_of(_: str, neuron: Any, args: tuple, y: Any) -> Tensor:
        return neuron.spike_counts(args, y)[0]

    with captured(named_neurons(encoder), counts_of) as counts:
        xs = encoder(speech, lengths)[0]
    return (xs[0] if isinstance(xs, tuple) else xs), counts


def neuron_inputs(module: nn.Module) -> AbstractContextManager[dict[str, tuple]]:
    """Collect the arguments of every neuron inside ``module``, by name, within the context."""
    return captured(named_neurons(module), lambda _name, _neuron, args, _out: args)


def layer_differences(trained: Any, merged: Any, speech: Tensor) -> list[float]:
    """Return the difference of each attention in fp32 on the trained model's own input.

    What is compared is the input of the neurons right behind the merged matrices.
    """
    attention = {str(number): block.attn for number, block in enumerate(trained.encoders)}
    with captured(attention, lambda _name, _attention, args, _out: args) as blocks:
        trained(speech, torch.tensor([speech.shape[1]]))
    differences = []
    for args, theirs, ours in zip(blocks.values(), trained.encoders, merged.encoders, strict=True):
        with neuron_inputs(theirs.attn) as expected:
            theirs.attn(*args)
        with neuron_inputs(ours.attn) as got:
            ours.attn(*args)
        spiking_qk = any(name.startswith("neuron_q") for name in expected)
        behind = ("neuron_q", "neuron_k", "neuron_v") if spiking_qk else ("neuron_v", "neuron_out")
        differences += [
            difference(got[name][0], expected[name][0])
            for name in expected
            if name.startswith(behind)
        ]
    return differences or [0.0]
