"""What a report on an experiment is made of, read from its folder and its sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.experiment import Epochs, read_epochs
from espnet_spike.results.experiments import (
    RESULTS,
    Experiment,
    experiment_results,
    read_decodes,
    read_results,
    read_trained,
)
from espnet_spike.results.scoring import Score, align, read_pairs, word_units
from espnet_spike.utils.files import present, read_table


@dataclass
class Material:
    """Everything a page is made of.

    Attributes:
        experiment: the experiment and its scored decodings.
        results: what ``results.json`` would hold.
        tag: the decoding that the page is about.
        sets: name -> features, of the sets it is about.
        scores: set -> its word alignments.
        counts: set -> its ``count.json``; only sets that have been counted.
        epochs: of the training.
        simulate: core -> its simulated cycles, from ``results.json``.
    """

    experiment: Experiment
    results: dict[str, Any]
    tag: str
    sets: dict[str, Path]
    scores: dict[str, Score] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    epochs: Epochs = field(default_factory=list)
    simulate: dict[str, Any] = field(default_factory=dict)

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return self.experiment.config["encoder"]

    @property
    def decodes(self) -> dict[str, dict[str, Any]]:
        """What was decoded and scored under the tag, by set."""
        return self.experiment.decodes[self.tag]


def gather(
    asr_exp: Path, tag: str, sets: Mapping[str, Path], corpus_dir: Path | None = None
) -> Material:
    """Read all that lies in the folder of an experiment.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        tag: name of the decoding's folder.
        sets: name -> features.
        corpus_dir: shown as ``<corpus_dir>`` wherever it stands.

    Raises:
        UserError: no model, or no scored set.
    """
    config = read_trained(asr_exp)
    decodes = read_decodes(asr_exp)
    absent = [name for name in sets if name not in decodes.get(tag, {})]
    if absent:
        raise UserError(
            f"{asr_exp / tag}: not scored: {', '.join(absent)}", "decode and score first (stage 11)"
        )
    for scored, entries in decodes.items():  # one order on the whole page
        order = [name for name in (*sets, *entries) if name in entries]
        decodes[scored] = {name: entries[name] for name in order}
    experiment = Experiment(asr_exp, config, decodes)
    found = Material(experiment, experiment_results(experiment, corpus_dir), tag, dict(sets))
    found.epochs = read_epochs(asr_exp)
    if present(asr_exp / RESULTS):
        found.simulate = read_results(asr_exp).get("simulate", {})
    for name, folder in sets.items():
        found.scores[name] = word_score(folder, asr_exp / tag / name, decodes[tag][name]["result"])
        if count := decodes[tag][name].get("count"):
            found.counts[name] = count
    return found


def word_score(data_dir: Path, set_dir: Path, result: Mapping[str, Any]) -> Score:
    """Align the words of a scored set again."""
    keys, refs, hyps = read_pairs(data_dir / "text", set_dir / "text", result["normalization"])
    utt2spk = read_table(data_dir / "utt2spk")
    speakers = [utt2spk[key] for key in keys]
    return align("wer", set_dir, keys, speakers, [*map(word_units, refs)], [*map(word_units, hyps)])
