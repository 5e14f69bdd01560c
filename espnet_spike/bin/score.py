"""Score decoded sets: word, character and token error rates with 95 % intervals."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.data.text_normalization import PROFILES
from espnet_spike.utils.cli import Parser, named_dirs, run
from espnet_spike.utils.files import plural


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.score", description=__doc__)
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        help="exp/<asr_tag>/<inference_tag>",
    )
    parser.add_argument("--token_type", required=True, help="bpe, char or word")
    parser.add_argument("--token_list", type=Path, required=True, help="tokens.txt of the model")
    parser.add_argument("--bpemodel", type=Path, help="SentencePiece model, for bpe")
    parser.add_argument(
        "--normalization",
        default="none",
        help=f"what is done to both texts before comparing: {', '.join(PROFILES)}",
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR", help="a set and its data folder")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Score every set, write the files beside the hypotheses, print a table."""
    args = get_parser().parse_args(argv)
    sets = named_dirs(args.sets)
    from espnet_spike.results.formatting import scored_of
    from espnet_spike.results.scoring import (
        interval_text,
        read_vocabulary,
        score_set,
        token_spelling,
        token_units,
    )

    cut_tokens = token_units(args.token_type, args.bpemodel)
    vocabulary = read_vocabulary(args.token_list)
    spelling = token_spelling(args.token_type, args.bpemodel)
    results = {
        name: score_set(
            *(name, data_dir, args.out / name, cut_tokens, vocabulary),
            *(args.normalization, spelling),
        )
        for name, data_dir in sets.items()
    }
    print(f"{args.out} (text normalization: {args.normalization})")
    width = max(len("set"), *map(len, results))
    utts = {name: scored_of(result) for name, result in results.items()}
    size = max(6, *map(len, utts.values()))
    head = "  WER %   CER %   TER %  S.Err %  blank  95 % interval of WER"
    print(f"{'set':{width}} {'utts':>{size}} {head}")
    for name, result in results.items():
        wer = result["wer"]
        cells = [wer["err"], result["cer"]["err"], result["ter"]["err"], wer["sentence_err"]]
        print(
            f"{name:{width}} {utts[name]:>{size}} "
            + " ".join(f"{cell:7.2f}" for cell in cells)
            + f"  {result['blank_hypotheses']:6d}  {interval_text(wer)}"
        )
    for name, result in results.items():
        if changed := result["unspellable_references"]:
            print(
                f"{name}: {changed} of {plural(result['utterances'], 'reference')} hold "
                f"characters that the "
                "sentencepiece model normalizes, so they are errors whatever is recognised; "
                "--normalization nmt_nfkc compares what it can spell, tokens learnt anew spell all"
            )


if __name__ == "__main__":
    run(main)
