"""Export encoder and CTC of a trained model as ONNX, in the form that sherpa-onnx loads.

Writes model.onnx, tokens.txt and export.json into --out, and model.int8.onnx with --int8. The
graph takes log-mel features of samples in the range of +-1 and normalises them itself. It is
compared with torch, on all utterances of --check_dir too; when more differs than rounding explains,
the command fails. Error rates of --check_dir are those of greedy CTC.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.export_onnx", description=__doc__)
    parser.add_argument(
        "--asr_exp", type=Path, required=True, help="exp/<asr_tag>, or a pack of it (.zip)"
    )
    parser.add_argument("--inference_asr_model", help="model file in asr_exp; the best by default")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--int8", action="store_true", help="also with weights in one byte")
    parser.add_argument(
        "--check_dir", type=Path, nargs="+", default=[], metavar="DIR", help="features of a set"
    )
    parser.add_argument(
        "--normalization",
        help="of the texts; if absent, what the model's decodings were scored under",
    )
    SpikeOptions.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export, check, and print what came out."""
    args = get_parser().parse_args(argv)
    execution = SpikeOptions.from_options(args)
    for folder in args.check_dir:
        if not folder.is_dir():
            raise UserError(f"--check_dir {folder}: no such folder", "such as dump/fbank/test")
    names = [folder.name for folder in args.check_dir]
    if len(set(names)) < len(names):
        raise UserError(f"--check_dir: two folders are named alike: {' '.join(sorted(names))}")
    import logging

    from espnet_spike.export.onnx_check import quantize
    from espnet_spike.export.onnx_graph import CTCGraph, export, import_extra

    import_extra("onnx")
    import_extra("onnxruntime")
    logging.getLogger().setLevel(logging.ERROR)  # ESPnet prints the model at length
    from espnet_spike import __version__
    from espnet_spike.data.feature_dir import FeatureDir
    from espnet_spike.data.feature_extractor import FeatureExtractor, hand_on
    from espnet_spike.export import onnx_check, sherpa
    from espnet_spike.export.onnx_graph import OnnxCTC
    from espnet_spike.results.normalization import find_normalization
    from espnet_spike.results.scoring import token_units
    from espnet_spike.tasks.loading import load_model, open_model
    from espnet_spike.utils.files import write_json, write_lines

    sets = {folder.name: FeatureDir.read(folder) for folder in args.check_dir}
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    with open_model(args.asr_exp) as folder:
        exp = folder.path
        normalization = find_normalization(exp, args.normalization) if sets else ""
        trained = load_model(folder, args.inference_asr_model, execution)
        options = trained.options
        cut_tokens = token_units(
            options.token_type, Path(options.bpemodel) if options.bpemodel else None
        )
        cut_tokens("")  # reads its file now: that of a pack will be gone
        hand_on(exp, out)
        try:
            feature_extractor = FeatureExtractor.find(exp)
        except UserError:
            feature_extractor = None  # features that were extracted elsewhere
    comment = f"espnet_spike {__version__}, encoder {options.encoder}"
    graph = CTCGraph(trained.model, options.input_size).eval()
    paths = {"onnx": out / "model.onnx"}
    export(graph, paths["onnx"], sherpa.metadata(comment))
    write_lines(out / "tokens.txt", sherpa.token_lines(options.token_list, options.token_type))
    exported = {"onnx": OnnxCTC(paths["onnx"])}
    largest = onnx_check.check_made_up(graph, exported["onnx"])
    print(f"made-up utterances: largest difference of a log-probability {largest:.1e}", flush=True)
    if args.int8:
        paths["int8"] = out / "model.int8.onnx"
        quantize(paths["onnx"], paths["int8"])
        exported["int8"] = OnnxCTC(paths["int8"])
    report = {
        "model": str(args.asr_exp),
        "checkpoint": trained.checkpoint.name,
        "encoder": options.encoder,
        "bytes": {name: path.stat().st_size for name, path in paths.items()},
        "made_up": {"largest": largest},
        "sets": {},
    }
    problems = []
    if sets:
        layers = CTCGraph(trained.model, options.input_size, layers=True).eval()
        layered_file = out / ".layers.onnx"
        try:
            export(layers, layered_file, {})
            layered = OnnxCTC(layered_file)
        finally:
            layered_file.unlink(missing_ok=True)
        print("| set | utterances | same result | all spikes equal | other spikes | largest diff |")
        print("|---|---:|---:|---:|---:|---:|")
        for folder, (name, data) in zip(args.check_dir, sets.items(), strict=True):
            found = onnx_check.compare(layers, layered, exported, data, trained.to_text)
            spikes = "– | –"
            if found.counts:
                spikes = f"{found.unflipped} | {found.flips / found.counts:.5%}"
            print(
                f"| {name} | {found.utterances} | {found.same} | {spikes} | {found.largest:.1e} |",
                flush=True,
            )
            if found.problem():
                problems.append(f"{name}: {found.problem()}")
            place = (folder, out / "check" / name)
            scores = onnx_check.score(found, *place, cut_tokens, options.token_list, normalization)
            errors = {
                graph_name: {metric: result[metric]["err"] for metric in ("wer", "cer", "ter")}
                for graph_name, result in scores.items()
            }
            report["sets"][name] = found.figures() | {"errors": errors}
        print(f"\n| greedy CTC, normalization {normalization} | WER | CER | TER | MB |")
        print("|---|---:|---:|---:|---:|")
        for name, figures in report["sets"].items():
            for graph_name, rates in figures["errors"].items():
                size = report["bytes"].get(graph_name)
                cells = [f"{rate:.2f}" for rate in rates.values()]
                cells.append(f"{size / 1e6:.2f}" if size else "")
                print(f"| {name}, {graph_name} | {' | '.join(cells)} |")
        print()
    write_json(out / "export.json", report, ensure_ascii=False)
    if problems:
        raise UserError(
            f"{paths['onnx']} does not agree with torch: {'; '.join(problems)}",
            f"{out / 'check'} has all hypotheses; tell us, with {out / 'export.json'}",
        )
    for path in paths.values():
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    rate = feature_extractor.fs if feature_extractor else "RATE"
    print(
        f"sherpa_onnx.OfflineRecognizer.from_zipformer_ctc({str(paths['onnx'])!r}, "
        f"{str(out / 'tokens.txt')!r}, sample_rate={rate}, feature_dim={options.input_size})"
    )
    if feature_extractor is None:
        print("it is not known what features the model was trained on: sherpa-onnx may differ")
    elif differences := sherpa.feature_differences(feature_extractor):
        print(f"features differ: {'; '.join(differences)} (conf/fbank_sherpa.yaml has the former)")


if __name__ == "__main__":
    run(main)
