"""Decode the audio of a set with sherpa-onnx and compare with what stage 10 said.

Reads what export_onnx wrote. The texts and their scores go to --out; the comparison says how many
utterances sherpa-onnx and each --decode_dir word alike. Searches differ (sherpa-onnx takes the best
token of each frame), and features where the model was not trained with conf/fbank_sherpa.yaml.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.decode_sherpa", description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="of export_onnx")
    parser.add_argument("--int8", action="store_true", help="take model.int8.onnx")
    parser.add_argument(
        "--data_dir", type=Path, required=True, metavar="DIR", help="such as data/test"
    )
    parser.add_argument(
        "--decode_dir",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders with the text of the same set, such as exp/asr_X/decode_asr/test",
    )
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets the texts",
    )
    parser.add_argument(
        "--normalization",
        help="of the texts, before comparing; if absent, what the export and --decode_dir were "
        "scored under",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Decode, score, compare."""
    args = get_parser().parse_args(argv)
    from espnet_spike.utils.files import present, read_table, write_table

    model = args.onnx / ("model.int8.onnx" if args.int8 else "model.onnx")
    for path in (model, args.onnx / "tokens.txt"):
        if not present(path):
            option = " --int8" if args.int8 else ""
            raise UserError(
                f"{path}: missing", f"export_onnx --output_dir {args.onnx}{option} makes it"
            )
    from espnet_spike.data.feature_extractor import FeatureExtractor
    from espnet_spike.data.kaldi_dir import DataDir
    from espnet_spike.data.text_normalization import profile
    from espnet_spike.export import sherpa
    from espnet_spike.results.experiments import find_normalization
    from espnet_spike.results.scoring import check_same_keys, error_rates

    normalization = find_normalization(args.onnx / "check", args.normalization, args.decode_dir)
    normalize = profile(normalization)
    data = DataDir.read(args.data_dir)
    if not data.wav:
        raise UserError(f"{args.data_dir}/wav.scp: missing", "sherpa-onnx decodes audio")
    others = {folder: read_table(folder / "text") for folder in args.decode_dir}
    for folder, texts in others.items():
        check_same_keys(data.text, texts, args.data_dir / "text", folder / "text")
    fs = FeatureExtractor.find(args.onnx).fs
    said = sherpa.decode(model, args.onnx / "tokens.txt", data, fs)
    args.out.mkdir(parents=True, exist_ok=True)
    write_table(args.out / "text", said)
    print(f"| normalization {normalization} | WER | CER | same text |\n|---|---:|---:|---:|")
    for name, texts in {f"sherpa-onnx, {model.name}": said, **others}.items():
        wer, cer = error_rates(data.text, texts, normalize)
        same = sum(normalize(texts[utt]) == normalize(said[utt]) for utt in said)
        print(f"| {name} | {wer:.2f} | {cer:.2f} | {same} of {len(said)} |")


if __name__ == "__main__":
    run(main)
