"""Export of a trained experiment as ONNX, compared with torch on real features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_spike import __version__
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import FeatureExtractor, check_same_features, hand_on
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.experiment import left_out, name_within
from espnet_spike.export import onnx_check, sherpa
from espnet_spike.export.onnx_graph import CTCGraph, OnnxCTC, export, import_extra
from espnet_spike.results.experiments import find_normalization
from espnet_spike.results.scoring import token_units
from espnet_spike.tasks.loading import Trained, load_model, open_model
from espnet_spike.utils.files import write_json, write_lines

METRICS = ("wer", "cer", "ter")


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Attributes:
        paths: graphs by their name, ``onnx`` and maybe ``int8``.
        tokens: the token list.
        input_size: bins of the features.
        features: settings of the features that the model was trained on; None if not known.
        report: content of ``export.json``.
    """

    paths: Mapping[str, Path]
    tokens: Path
    input_size: int
    features: FeatureExtractor | None
    report: Mapping[str, Any]

    def usage(self) -> list[str]:
        """Return lines that say how sherpa-onnx loads the graph, and how its features differ."""
        lines = [f"{path}: {path.stat().st_size / 1e6:.2f} MB" for path in self.paths.values()]
        rate = self.features.fs if self.features else "RATE"
        lines.append(
            f"sherpa_onnx.OfflineRecognizer.from_zipformer_ctc({str(self.paths['onnx'])!r}, "
            f"{str(self.tokens)!r}, sample_rate={rate}, feature_dim={self.input_size})"
        )
        if self.features is None:
            lines.append(
                "it is not known what features the model was trained on: sherpa-onnx may differ"
            )
        elif differences := sherpa.feature_differences(self.features):
            lines.append(
                f"features differ: {'; '.join(differences)} (conf/fbank_sherpa.yaml has the former)"
            )
        return lines


def export_experiment(
    asr_exp: Path,
    out: Path,
    checkpoint: str | None = None,
    spike_options: SpikeOptions | None = None,
    int8: bool = False,
    check_dirs: Mapping[str, Path] | None = None,
    normalization: str | None = None,
    say: Callable[[str], None] = print,
) -> OnnxExport:
    """Write ``model.onnx``, ``tokens.txt`` and ``export.json``; compare the graph with torch.

    Args:
        asr_exp: the experiment, or a pack of it.
        out: the folder.
        checkpoint: model file in ``asr_exp``; the best one if None.
        spike_options: how the encoder runs; as it was trained if None.
        int8: also write ``model.int8.onnx``, with weights in one byte.
        check_dirs: features of sets by name, to compare and score on.
        normalization: of texts; that of the recipe if None.
        say: takes lines of tables as they come.

    Raises:
        UserError: a package is missing, the encoder cannot be exported, or more differs than
            rounding explains.
    """
    import_extra("onnx")
    import_extra("onnxruntime")
    sets = {name: FeatureDir.read(folder) for name, folder in (check_dirs or {}).items()}
    out.mkdir(parents=True, exist_ok=True)
    with open_model(asr_exp) as folder:
        check_same_features(folder.path, (check_dirs or {}).values())
        normalization = find_normalization(folder.path, normalization) if sets else ""
        trained = load_model(folder, checkpoint, spike_options)
        options = trained.options
        cut_tokens = token_units(
            options.token_type, Path(options.bpemodel) if options.bpemodel else None
        )
        cut_tokens("")  # reads its file now: that of a pack will be gone
        hand_on(folder.path, out)
        try:
            features = FeatureExtractor.find(folder.path)
        except UserError:
            features = None  # that were extracted elsewhere
    graph = CTCGraph(trained.model, options.input_size).eval()
    paths = {"onnx": out / "model.onnx"}
    comment = f"espnet_spike {__version__}, encoder {options.encoder}"
    export(graph, paths["onnx"], sherpa.metadata(comment))
    tokens = out / "tokens.txt"
    write_lines(tokens, sherpa.token_lines(options.token_list, options.token_type))
    exported = {"onnx": OnnxCTC(paths["onnx"])}
    if absent := left_out(vars(options), kept=["ctc"]):
        say(f"encoder and CTC; left out: {', '.join(absent)}")
    largest = onnx_check.check_made_up(graph, exported["onnx"])
    say(f"synthetic utterances: largest difference of a log-probability {largest:.1e}")
    if int8:
        paths["int8"] = out / "model.int8.onnx"
        onnx_check.quantize(paths["onnx"], paths["int8"])
        exported["int8"] = OnnxCTC(paths["int8"])
    report: dict[str, Any] = {
        "model": str(asr_exp),
        "checkpoint": name_within(asr_exp, trained.checkpoint),
        "encoder": options.encoder,
        "left_out": left_out(vars(options), kept=["ctc"]),
        "bytes": {name: path.stat().st_size for name, path in paths.items()},
        "made_up": {"largest": largest},
        "sets": {},
    }
    problems = []
    if check_dirs:
        say("| set | utterances | same result | all spikes equal | other spikes | largest diff |")
        say("|---|---:|---:|---:|---:|---:|")
        graphs = (*_with_layers(trained, out), exported)
        for name, folder in check_dirs.items():
            found = onnx_check.compare(*graphs, sets[name], trained.to_text)
            say(_comparison_row(name, found))
            if problem := found.problem():
                problems.append(f"{name}: {problem}")
            place = (folder, out / "check" / name)
            scores = onnx_check.score(found, *place, cut_tokens, options.token_list, normalization)
            errors = {
                graph_name: {metric: result[metric]["err"] for metric in METRICS}
                for graph_name, result in scores.items()
            }
            report["sets"][name] = found.figures() | {"errors": errors}
        say("\n".join([*_error_table(report, normalization), ""]))
    write_json(out / "export.json", report, ensure_ascii=False)
    if problems:
        raise UserError(
            f"{paths['onnx']} does not agree with torch: {'; '.join(problems)}",
            f"{out / 'check'} has all hypotheses; tell us, with {out / 'export.json'}",
        )
    return OnnxExport(paths, tokens, options.input_size, features, report)


def _with_layers(trained: Trained, out: Path) -> tuple[CTCGraph, OnnxCTC]:
    """Return torch's graph and the exported one with the outputs of their layers."""
    layers = CTCGraph(trained.model, trained.options.input_size, layers=True).eval()
    path = out / ".layers.onnx"
    try:
        export(layers, path, {})
        return layers, OnnxCTC(path)
    finally:
        path.unlink(missing_ok=True)


def _comparison_row(name: str, found: onnx_check.Agreement) -> str:
    spikes = "– | –"
    if found.counts:
        spikes = f"{found.unflipped} | {found.flips / found.counts:.5%}"
    return f"| {name} | {found.utterances} | {found.same} | {spikes} | {found.largest:.1e} |"


def _error_table(report: Mapping[str, Any], normalization: str) -> list[str]:
    lines = [
        f"\n| greedy CTC, normalization {normalization} | WER | CER | TER | MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, figures in report["sets"].items():
        for graph_name, rates in figures["errors"].items():
            size = report["bytes"].get(graph_name)
            cells = [f"{rate:.2f}" for rate in rates.values()]
            cells.append(f"{size / 1e6:.2f}" if size else "")
            lines.append(f"| {name}, {graph_name} | {' | '.join(cells)} |")
    return lines
