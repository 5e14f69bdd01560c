"""Make a recipe for your own data: egs/NAME, ready to run."""

from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, NATURAL, POSITIVE, Parser, run
from espnet_spike.utils.resources import need_checkout


def get_parser() -> Parser:
    """Return the parser of the command line."""
    from espnet_spike.corpora.own import add_options

    parser = Parser(
        prog="espnet_spike.bin.new_recipe",
        description=f"{__doc__} A SOURCE is a Kaldi data directory (feats.scp alone will do), a "
        "table of audio files and transcripts (.csv, .tsv, .jsonl), or a lhotse manifest (cuts, or "
        "supervisions with the recordings beside them; .jsonl.gz).",
    )
    parser.add_argument("name", help="of the recipe; the folder egs/NAME is made")
    parser.add_argument("--train", type=Path, required=True, metavar="SOURCE", help="to train on")
    parser.add_argument("--valid", type=Path, metavar="SOURCE", help="to choose the best epoch by")
    parser.add_argument(
        "--test", action="append", default=[], metavar="NAME=SOURCE", help="to decode and score"
    )
    parser.add_argument("--token_type", choices=["bpe", "char", "word"], help="modelling unit")
    parser.add_argument("--nbpe", type=COUNT, help="size of the sentencepiece vocabulary")
    parser.add_argument(
        "--encoder", default="iml_spikeformer", help="what is trained; its size follows the data"
    )
    parser.add_argument(
        "--budget", type=POSITIVE, metavar="MINUTES", help="of training here; takes updates away"
    )
    parser.add_argument(
        "--trial_updates",
        type=NATURAL,
        default=20,
        help="updates on noise by which the minutes of the training are measured; 0: they are not",
    )
    parser.add_argument(
        "--features",
        choices=["mel", "cepstra", "other"],
        help="of features that come without audio: log mel or cepstra, without deltas or pitch; or "
        "of another kind, whose frequencies are neither masked nor warped. When not given, they "
        "are told by their statistics, and what is not certain is other",
    )
    parser.add_argument("--egs", type=Path, help="folder of the recipes; egs of the checkout")
    add_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_spike.advice.new_recipe import CHANNEL, TEMPLATE, RecipeRequest, make_recipe
    from espnet_spike.corpora.own import parse_pairs

    tests = {name: Path(source) for name, source in parse_pairs(args.test, "--test").items()}
    request = RecipeRequest(
        args.name,
        args.train,
        args.valid,
        tests,
        args.token_type,
        args.nbpe,
        args.audio_dir,
        parse_pairs(args.columns, "--columns"),
        args.channel or CHANNEL,
        args.normalization,
        args.valid_from_train,
        args.encoder,
        args.budget,
        args.trial_updates,
        args.features,
    )
    recipes = need_checkout("new_recipe") / "egs"
    recipe = make_recipe(request, recipes / TEMPLATE, args.egs or recipes)
    print(f"made {recipe.folder}")
    for what, figure in recipe.sized.lines():
        print(f"  {what:<21} {figure}")
    print(f"next: ./run.sh --recipe {args.name}")


if __name__ == "__main__":
    run(main)
