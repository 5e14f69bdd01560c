"""An exported graph against the model it came from, on synthetic and on real utterances.

In fp32 both round differently, and a rounding can flip a spike count, which changes what follows:
a flip in an early layer is thousands in later ones. So the greedy CTC results have to be equal, but
for a share of ``MAX_OTHER``, and the spike counts, but for ``MAX_FLIPS`` (both ours). Reported are
the utterances with every spike count equal and the largest difference of a log-probability.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError
from espnet_spike.export.onnx_graph import LEVEL_OFFSET, CTCGraph, OnnxCTC, import_extra
from espnet_spike.inference.ctc import best_path
from espnet_spike.results.scoring import score_set
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import plural, replacing, write_table

CLOSE = 1e-3
"""Difference of log-probabilities that rounding alone does not reach in the middle."""
MAX_OTHER = 0.01
MAX_FLIPS = 0.01
MADE_UP = ((1, [40]), (3, [133, 90, 57]), (2, [61, 61]))
"""Batches of synthetic utterances, by their frames; the graph is traced with another one."""


@dataclass
class Agreement:
    """A graph against its model on a set.

    Attributes:
        utterances: compared.
        same: of them with the same greedy CTC result.
        unflipped: of them with equal spike counts in all layers.
        unexplained: of the unflipped with another greedy CTC result.
        largest: difference of a log-probability.
        counts: spike counts compared, one for every neuron and frame.
        flips: of them that differ.
        texts: by ``torch`` and the names of the graphs, utterance -> greedy CTC result.
    """

    utterances: int = 0
    same: int = 0
    unflipped: int = 0
    unexplained: int = 0
    largest: float = 0.0
    counts: int = 0
    flips: int = 0
    texts: dict[str, dict[str, str]] = field(default_factory=dict)

    def problem(self) -> str:
        """Return what is more than rounding explains, or an empty string.

        A spike count that rounding flipped changes others behind it, and where a model is unsure
        the result, too; without a flip the result stays.
        """
        if self.unexplained > max(1, MAX_OTHER * self.unflipped):
            alike = " with equal spikes" if self.counts else ""
            return (
                f"{self.unexplained} of {plural(self.unflipped, 'utterance')}{alike} have "
                f"another greedy CTC "
                "result"
            )
        if not self.counts and self.largest > 10 * CLOSE:
            return f"log-probabilities differ by {self.largest:.2g}"
        if self.flips > max(1, MAX_FLIPS * self.counts):
            return f"{self.flips} of {self.counts} spike counts differ"
        return ""

    def figures(self) -> dict[str, float | int]:
        """Return the figures as plain numbers."""
        names = ("utterances", "same", "unflipped", "unexplained", "largest", "counts", "flips")
        return {name: getattr(self, name) for name in names}


@torch.no_grad()
def check_made_up(graph: CTCGraph, exported: OnnxCTC) -> float:
    """Compare batches of other sizes and lengths than the one that was traced.

    Returns:
        the largest difference of a log-probability.

    Raises:
        UserError: something was traced as a constant, or the numbers differ.
    """
    largest = 0.0
    for size, frames in MADE_UP:
        generator = torch.Generator().manual_seed(size)
        lengths = torch.tensor(frames)
        x = torch.randn(size, max(frames), graph.input_size, generator=generator)
        x = 3 * x + 12 - LEVEL_OFFSET
        expected, olens = graph(x.clone(), lengths)[:2]
        name = f"{type(graph.model.encoder).__name__} cannot be exported: the graph"
        hint = "one of its operations depends on the length in a way that a trace does not record"
        try:
            found, found_olens = exported(x.numpy(), frames)[:2]
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):  # its errors share no base
                raise
            raise UserError(f"{name} takes no batch {frames}: {error}", hint) from None
        if not np.array_equal(found_olens, olens.numpy()) or found.shape != expected.shape:
            raise UserError(f"{name} gives other lengths for a batch {frames}", hint)
        for n, length in enumerate(olens.tolist()):
            difference = np.abs(found[n, :length] - expected[n, :length].numpy())
            if np.median(difference) > CLOSE:
                raise UserError(f"{name} differs by {np.median(difference):.2g} at {frames}", hint)
            largest = max(largest, float(difference.max()))
    return largest


@torch.no_grad()
def compare(
    graph: CTCGraph,
    layered: OnnxCTC,
    graphs: Mapping[str, OnnxCTC],
    data: FeatureDir,
    to_text: Callable[[Sequence[int]], str],
) -> Agreement:
    """Run a set, one utterance at a time.

    Args:
        graph: with ``layers``.
        layered: its export.
        graphs: exports without layers by name; the first is what has to agree.
        data: features of samples in the range of int16.
        to_text: makes a text of tokens.
    """
    found = Agreement(texts={name: {} for name in ("torch", *graphs)})
    first = next(iter(graphs))
    with ArkReader() as reader:
        for utt in sorted(data.feats):
            features = reader.read(utt, data.feats[utt]).astype(np.float32)
            x, lengths = features[None] - np.float32(LEVEL_OFFSET), [len(features)]
            expected, olens, *layers = graph(torch.from_numpy(x.copy()), torch.tensor(lengths))
            expected = expected[0, : int(olens[0])].numpy()
            ids = {"torch": best_path(expected)}
            for name, exported in graphs.items():
                log_probs, found_olens = exported(x, lengths)
                log_probs = log_probs[0, : found_olens[0]]
                ids[name] = best_path(log_probs)
                if name == first:
                    difference = np.abs(log_probs - expected).max(initial=0.0)
            found.utterances += 1
            found.same += ids[first] == ids["torch"]
            found.largest = max(found.largest, float(difference))
            flips = 0
            for name, ours, theirs in zip(
                graph.layer_names, layers, layered(x, lengths)[2:], strict=True
            ):
                if name.startswith("spikes"):
                    found.counts += theirs.size
                    flips += int((ours.numpy() != theirs).sum())
            found.flips += flips
            found.unflipped += flips == 0
            found.unexplained += flips == 0 and ids[first] != ids["torch"]
            for name, tokens in ids.items():
                found.texts[name][utt] = to_text(tokens)
    return found


def score(
    agreement: Agreement,
    data_dir: Path,
    out: Path,
    cut_tokens: Callable[[str], list[str]],
    vocabulary: Sequence[str],
    normalization: str,
) -> dict[str, dict[str, Any]]:
    """Score the greedy CTC results; return what ``score_set`` does, by graph.

    Args:
        agreement: with the texts.
        data_dir: the set, with references.
        out: gets a folder for each graph.
        cut_tokens, vocabulary, normalization: see ``score_set``.
    """
    results = {}
    for name, texts in agreement.texts.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "text", texts)
        results[name] = score_set(
            data_dir.name, data_dir, folder, cut_tokens, frozenset(vocabulary), normalization
        )
    return results


def quantize(source: Path, target: Path) -> None:
    """Write a graph whose weight matrices are int8, and what they multiply is made so on the way.

    The matrices of linear layers only: convolutions and products of two activations stay fp32.
    """
    import_extra("onnx")
    quantization = import_extra("onnxruntime.quantization")
    # onnxruntime recommends a preparation for models of another kind
    with replacing(target) as temporary, quiet(logging.WARNING):
        quantization.quantize_dynamic(
            source,
            temporary,
            op_types_to_quantize=["MatMul"],
            weight_type=quantization.QuantType.QInt8,
        )
