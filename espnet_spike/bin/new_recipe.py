"""Make a recipe for your own data: egs/NAME, ready to run."""

import argparse
import logging
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import new_folder
from espnet_spike.utils.resources import need_checkout

logger = logging.getLogger("new_recipe")
TEMPLATE = "TEMPLATE"
SHARE = 0.1  # of the training speakers, when no validation set is given
# pieces of the sentencepiece vocabulary by words of training text
VOCABULARY = ((5_000, 50), (50_000, 200), (500_000, 1000), (10**12, 5000))


def get_parser() -> argparse.ArgumentParser:
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
    parser.add_argument("--nbpe", type=int, help="size of the sentencepiece vocabulary")
    parser.add_argument("--egs", type=Path, help="folder of the recipes; egs of the checkout")
    add_options(parser)
    return parser


def choose_tokens(texts: Sequence[str]) -> tuple[str, int]:
    """Return unit and vocabulary size: characters where words are not parted by spaces."""
    words = sum(len(text.split()) for text in texts)
    letters = Counter(c for text in texts for c in text if not c.isspace())
    ideographs = sum(count for c, count in letters.items() if "\u2e80" <= c <= "\u9fff")
    size = next(pieces for limit, pieces in VOCABULARY if words < limit)
    return ("char" if ideographs > sum(letters.values()) / 2 else "bpe"), size


def fill(folder: Path, values: Mapping[str, str]) -> None:
    """Replace ``@name@`` in the files of a new recipe; in scripts also the quotes around it."""
    for path in (folder / "run.sh", folder / "local/data.sh", folder / "README.md"):
        text = path.read_text(encoding="utf-8")
        for name, value in values.items():
            quoted = value if name in ("sources", "name") else shlex.quote(value)
            text = text.replace(f'"@{name}@"', quoted).replace(f"@{name}@", value)
        path.write_text(text, encoding="utf-8")


def source_words(args: argparse.Namespace, sets: Mapping[str, Path]) -> list[str]:
    """Return the options of ``espnet_spike.corpora.own`` that read the sources again."""
    words: list[str] = []
    for name, source in sets.items():
        words += ["--set", f"{name}={source.absolute()}"]
    if args.audio_dir is not None:
        words += ["--audio_dir", str(args.audio_dir.absolute())]
    if args.columns:
        words += ["--columns", *args.columns]
    if args.channel:
        words += ["--channel", args.channel]
    if args.valid_from_train:
        words += ["--valid_from_train", str(args.valid_from_train)]
    return [*words, "--normalization", args.normalization]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the sources once, to see that they can be used, then write the recipe."""
    args = get_parser().parse_args(argv)
    from espnet_spike.corpora.own import import_set, parse_pairs
    from espnet_spike.corpora.sets import divide

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", args.name) or args.name == TEMPLATE:
        raise UserError(f"{args.name!r} is no name for a recipe", "letters, digits, - and _")
    recipes = need_checkout("new_recipe") / "egs"
    target = (args.egs or recipes) / args.name
    if target.exists():
        raise UserError(f"{target} exists", "choose another name, or remove it")
    tests = {name: Path(source) for name, source in parse_pairs(args.test, "--test").items()}
    for name in tests:
        if name in ("train", "dev") or not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"--test {name}=...: choose another name for the set")
    sets = {"train": args.train, **({"dev": args.valid} if args.valid else {}), **tests}
    if args.valid and args.valid_from_train:
        raise UserError(
            f"--valid {args.valid} and --valid_from_train {args.valid_from_train:g}",
            "give one of the two: where to take the validation set from",
        )
    if not args.valid and not args.valid_from_train:
        args.valid_from_train = SHARE
    columns = parse_pairs(args.columns, "--columns")
    data = {}
    for name, source in sets.items():
        data[name] = import_set(source, args.audio_dir, columns, args.channel, args.normalization)
        speakers = len(set(data[name].utt2spk.values()))
        logger.info("%s: %d utterances, %d speakers", source, len(data[name].text), speakers)
    kinds = {"fbank" if tables.wav else "extracted" for tables in data.values()}
    if len(kinds) > 1:
        raise UserError("some sets have audio, others features alone", "they have to be alike")
    token_type, nbpe = choose_tokens(list(data["train"].text.values()))
    if args.valid_from_train:
        divide(data, "train", "dev", args.valid_from_train)
    words = source_words(args, sets)
    with new_folder(target) as staging:
        shutil.copytree(recipes / TEMPLATE, staging, dirs_exist_ok=True)
        values = {
            "sources": shlex.join(words),
            "test_sets": " ".join(tests) or "dev",
            "feats_type": kinds.pop(),
            "token_type": args.token_type or token_type,
            "nbpe": str(args.nbpe or nbpe),
            "normalization": args.normalization,
            "name": args.name,
            "summary": "\n".join(
                f"* `{name}`: {len(tables.text)} utterances" for name, tables in data.items()
            ),
        }
        fill(staging, values)
    logger.info("made %s: %s, %s", target, values["token_type"], values["feats_type"])
    if not tests:
        logger.warning("no --test NAME=SOURCE: the validation set is decoded, which flatters")
    print(f"next: ./run.sh --recipe {args.name}")


if __name__ == "__main__":
    run(main)
