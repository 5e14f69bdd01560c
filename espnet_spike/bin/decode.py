"""Decode test sets by joint CTC/attention beam search, batched, in several processes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, Parser, named_dirs, run, str2bool
from espnet_spike.utils.cluster import add_cluster_options, cluster_of
from espnet_spike.utils.resources import config_file


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.decode", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument("--lm_exp", type=Path, help="folder of a language model, for fusion")
    parser.add_argument("--ngram_file", type=Path, help="token n-gram, for fusion; needs KenLM")
    parser.add_argument("--inference_config", type=config_file, help="YAML of the beam search")
    parser.add_argument(
        "--inference_args", default="", help="ESPnet options that override it, in one string"
    )
    parser.add_argument(
        "--inference_asr_model",
        help="model file in asr_exp, or several in one string, each of which decodes into a "
        "folder of its own, OUTPUT_DIR_asr_model_NAME; the best one when not given",
    )
    parser.add_argument("--inference_lm", help="model file in lm_exp; the best one when not given")
    parser.add_argument(
        "--nj", old=["--inference_nj"], type=COUNT, default=1, help="processes at most"
    )
    add_cluster_options(parser)
    parser.add_argument("--gpu_inference", type=str2bool, default=False, help="decode on the GPU")
    parser.add_argument(
        "--output_dir",
        old=["--out"],
        dest="out",
        type=Path,
        required=True,
        help="exp/<asr_tag>/<inference_tag>",
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR", help="a set and its features")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Decode every set and print how long it took."""
    args = get_parser().parse_args(argv)
    sets = named_dirs(args.sets)
    from dataclasses import replace

    from espnet_spike.inference.decode import (
        bound_search,
        decode,
        decodings,
        fit_beam,
        make_plan,
        read_settings,
        time_lines,
    )

    settings = read_settings(args.inference_config, args.inference_args)
    models = decodings(args.inference_asr_model, args.out)
    settings = replace(settings, lm=args.inference_lm or settings.lm)
    settings = bound_search(settings, args.asr_exp, args.inference_args)
    settings = fit_beam(settings, args.asr_exp)
    cluster = cluster_of(args)
    plans = [
        make_plan(
            args.asr_exp,
            args.lm_exp,
            replace(settings, asr_model=model or settings.asr_model),
            out,
            sets,
            args.nj,
            args.gpu_inference,
            args.utterances_per_task if cluster else None,
            args.ngram_file,
        )
        for model, out in models
    ]
    for plan in plans:
        few = f" ({args.nj} would not pay)" if len(plan.runs) < args.nj else ""
        print(
            f"decoding {', '.join(sets)} with {plan.asr_file}: jobs {len(plan.runs)}{few}, "
            f"threads per job {plan.threads}, batch size {settings.batch_size}",
            flush=True,
        )
        records = decode(plan, cluster)
        if len(plans) > 1:
            print(f"written: {plan.out}")
        print("\n".join(time_lines(records, args.asr_exp)), flush=True)


if __name__ == "__main__":
    run(main)
