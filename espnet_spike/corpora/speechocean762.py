"""speechocean762 (Zhang et al. 2021, openslr.org/101): English read by Mandarin speakers, 16 kHz.

Half of the speakers are children. The corpus has Kaldi tables in ``train/`` and ``test/``, whose
paths begin at the corpus folder, 2500 utterances of 125 speakers each, and no development set:
some training speakers become ``dev``.

Run in the recipe folder: ``../../.venv/bin/python -m espnet_spike.corpora.speechocean762``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.corpora.download import Archive, obtain
from espnet_spike.corpora.sets import collect, corpus_parser, divide, no_valid_set, write_sets
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import name_some, read_table

logger = logging.getLogger("speechocean762")

ARCHIVE = Archive("101/speechocean762.tar.gz", expansion=1.6)  # no check sum is published
UTTERANCES, SPEAKERS = 2500, 125  # of each set


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = corpus_parser("Prepare speechocean762: data/train, data/dev and data/test.", 0.1)
    parser.add_argument("--sha256", help="of the archive; without https it is needed")
    return parser


def find_corpus(corpus_dir: Path) -> Path:
    """Return the folder with ``train/`` and ``test/``: ``corpus_dir`` or one inside it.

    Raises:
        UserError: it is not there.
    """
    for folder in (corpus_dir, corpus_dir / "speechocean762"):
        if (folder / "train" / "wav.scp").is_file() and (folder / "test" / "wav.scp").is_file():
            return folder
    raise UserError(
        f"{corpus_dir}: no speechocean762 corpus",
        "the folder must hold WAVE/, train/wav.scp and test/wav.scp",
    )


def read_set(corpus: Path, name: str) -> DataDir:
    """Read a set; list what is missing or smaller than published.

    Raises:
        UserError: an utterance without a speaker, or no audio at all.
    """
    texts = read_table(corpus / name / "text")
    speakers = read_table(corpus / name / "utt2spk")
    unknown = sorted(texts.keys() - speakers.keys())
    if unknown:
        raise UserError(f"{corpus / name}/utt2spk: no speaker for {name_some(unknown)}")
    paths = {utt: corpus / path for utt, path in read_table(corpus / name / "wav.scp").items()}
    audio = {utt: str(path) for utt, path in paths.items() if path.is_file()}
    data = collect(name, texts, audio, speakers)
    counts = len(data.text), len(set(data.utt2spk.values()))
    if counts != (UTTERANCES, SPEAKERS):
        logger.warning(
            "%s is not whole: %d of %d utterances, %d of %d speakers",
            *(name, counts[0], UTTERANCES, counts[1], SPEAKERS),
        )
    return data


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not args.valid_from_train:
        raise no_valid_set("dev", "the corpus has none")
    if args.corpus_dir is None:
        target = args.downloads / "speechocean762"
        obtain(ARCHIVE, args.mirror, args.downloads, target, 1, args.sha256)
    corpus = find_corpus(args.corpus_dir or args.downloads / "speechocean762")
    sets = {name: read_set(corpus, name) for name in ("train", "test")}
    divide(sets, "train", "dev", args.valid_from_train)
    write_sets(sets, args.data_dir)


if __name__ == "__main__":
    run(main)
