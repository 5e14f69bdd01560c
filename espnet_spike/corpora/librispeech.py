"""LibriSpeech (Panayotov et al. 2015, openslr.org/12): read English, 16 kHz FLAC.

====================================  =============================================================
set                                   parts of the corpus
====================================  =============================================================
``train_960``                         train-clean-100, train-clean-360, train-other-500
``train_100``                         train-clean-100
``dev``                               dev-clean and dev-other, or some speakers of the training set
``dev_clean``, ``dev_other``          the part of that name
``test_clean``, ``test_other``        the part of that name
====================================  =============================================================

Run in the recipe folder: ``../../.venv/bin/python -m espnet_spike.corpora.librispeech``.
"""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.corpora.download import Archive, download, obtain
from espnet_spike.corpora.sets import (
    collect,
    corpus_parser,
    divide,
    join,
    no_valid_set,
    tell_absent,
    write_sets,
)
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.archives import open_gzip_text
from espnet_spike.utils.cli import Parser, run, str2bool
from espnet_spike.utils.files import present, read_lines, write_lines

logger = logging.getLogger("librispeech")


@dataclass(frozen=True)
class Part:
    """A part of the corpus as published.

    Attributes:
        md5: of its archive, from openslr.org/12.
        utterances, speakers: how many there are.
        sha256: of its archive, from torchaudio (``datasets/librispeech.py``); may be empty.
    """

    md5: str
    utterances: int
    speakers: int
    sha256: str = ""

    @property
    def checksum(self) -> str:
        """As `Archive` takes it."""
        return f"md5:{self.md5}" + (f" sha256:{self.sha256}" if self.sha256 else "")


PARTS = {
    "train-clean-100": Part(
        "2a93770f6d5c6c964bc36631d331a522",
        28539,
        251,
        "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    ),
    "train-clean-360": Part(
        "c0e676e450a7ff2f54aeade5171606fa",
        104014,
        921,
        "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    ),
    "train-other-500": Part(
        "d1a0fd59409feb2c614ce4d30c387708",
        148688,
        1166,
        "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
    ),
    "dev-clean": Part(
        "42e2234ba48799c1f50f24a7926300a1",
        2703,
        40,
        "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    ),
    "dev-other": Part(
        "c8d0bcc9cca99d4f8b62fcc847357931",
        2864,
        33,
        "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    ),
    "test-clean": Part(
        "32fa31d27d2e1cad72775fee3f4849a9",
        2620,
        40,
        "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    ),
    "test-other": Part(
        "fb5a50374b501bb3bac4815ee91d3135",
        2939,
        33,
        "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    ),
}
# the text of the books on Gutenberg that are not in the corpus, normalised (openslr.org/11)
LM_TEXT = Archive("11/librispeech-lm-norm.txt.gz", "md5:c83c64c726a1aedfe65f80aa311de402")
TRAIN = {
    "960": ("train-clean-100", "train-clean-360", "train-other-500"),
    "100": ("train-clean-100",),
}
DEV = ("dev-clean", "dev-other")
TEST = ("test-clean", "test-other")


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = corpus_parser("Prepare LibriSpeech: data/train_960 or train_100, dev, test sets.")
    parser.add_argument(
        "--train_subset", choices=sorted(TRAIN), default="960", help="hours of training speech"
    )
    parser.add_argument(
        "--lm_text",
        type=str2bool,
        default=False,
        help="also data/lm_text/text, from librispeech-lm-norm.txt.gz, for language models",
    )
    return parser


def prepare_lm_text(source: Path, target: Path) -> None:
    """Give each line of the compressed text a key, as in Kaldi's ``text``; blank lines go.

    Raises:
        UserError: the file is damaged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_gzip_text(source) as file:
            lines = (line.strip() for line in file)
            write_lines(
                target, (f"lm-{n:08d} {line}" for n, line in enumerate(filter(None, lines)))
            )
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{source} cannot be read: {error}", "remove it to fetch it again"
        ) from error


def find_lm_text(corpus_dir: Path | None, downloads: Path, mirror: str) -> Path:
    """Return the compressed text: from beside or inside the corpus, or downloaded."""
    for folder in (corpus_dir, corpus_dir.parent) if corpus_dir is not None else ():
        if present(folder / LM_TEXT.name):
            return folder / LM_TEXT.name
    hint = f"choose another --mirror, or put {LM_TEXT.name} into --corpus_dir"
    path = downloads / LM_TEXT.name
    return download(LM_TEXT.url(mirror), path, hint, checksum=LM_TEXT.checksum)


def fetch(parts: Sequence[str], downloads: Path, mirror: str) -> Path:
    """Download and unpack the parts that are not there yet; return the corpus folder."""
    corpus = downloads / "LibriSpeech"
    for part in parts:
        archive = Archive(f"12/{part}.tar.gz", PARTS[part].checksum)
        obtain(archive, mirror, downloads, corpus, strip=1)
    return corpus


def find_corpus(corpus_dir: Path) -> Path:
    """Return the folder that holds the parts: ``corpus_dir`` or ``LibriSpeech`` in it.

    Raises:
        UserError: no part is there.
    """
    for folder in (corpus_dir, corpus_dir / "LibriSpeech"):
        if any((folder / part).is_dir() for part in PARTS):
            return folder
    raise UserError(
        f"{corpus_dir}: no part of LibriSpeech in it", f"it holds folders such as {', '.join(TEST)}"
    )


def read_part(folder: Path) -> DataDir:
    """Read ``<reader>/<chapter>/<reader>-<chapter>.trans.txt`` and the FLAC files beside it.

    The speaker is the reader, whatever the chapter, so that intervals over speakers are right.

    Raises:
        UserError: no transcript at all, or a malformed one.
    """
    texts, audio, speakers = {}, {}, {}
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        for line in read_lines(transcript):
            utt, space, words = line.partition(" ")
            if not space or utt.count("-") != 2:
                raise UserError(f"{transcript}: expected 'reader-chapter-number WORDS', got {line}")
            texts[utt] = words
            speakers[utt] = utt.split("-")[0]
        audio |= {path.stem: str(path) for path in transcript.parent.glob("*.flac")}
    return collect(folder.name, texts, audio, speakers)


def read_parts(corpus: Path, wanted: Sequence[str]) -> dict[str, DataDir]:
    """Read the parts that are there; list those that are missing or smaller than published."""
    found = {}
    for part in wanted:
        if not (corpus / part).is_dir():
            logger.warning("%s: %s is missing", corpus, part)
            continue
        data = found[part] = read_part(corpus / part)
        counts = len(data.text), len(set(data.utt2spk.values()))
        whole = PARTS[part]
        if counts != (whole.utterances, whole.speakers):
            logger.warning(
                "%s is not whole: %d of %d utterances, %d of %d speakers",
                part,
                *(counts[0], whole.utterances, counts[1], whole.speakers),
            )
    return found


def compose(parts: dict[str, DataDir], train_subset: str, share: float) -> dict[str, DataDir]:
    """Return the sets out of the parts that are there.

    Raises:
        UserError: a training part or the validation set is missing.
    """
    missing = [part for part in TRAIN[train_subset] if part not in parts]
    if missing:
        smaller = train_subset == "960" and TRAIN["100"][0] in parts
        raise UserError(
            f"train_{train_subset} cannot be made without {', '.join(missing)}",
            "give --train_subset 100" if smaller else "download it, or give another --corpus_dir",
        )
    train = f"train_{train_subset}"
    sets = {train: join(parts[part] for part in TRAIN[train_subset])}
    if share:
        divide(sets, train, "dev", share)
    elif any(part in parts for part in DEV):
        sets["dev"] = join(parts[part] for part in DEV if part in parts)
    else:
        raise no_valid_set("dev", f"{' and '.join(DEV)} are missing")
    for part in (*DEV, *TEST):
        if part in parts:
            sets[part.replace("-", "_")] = parts[part]
    tell_absent("LibriSpeech", sets, [part.replace("-", "_") for part in (*DEV, *TEST)])
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    wanted = (*TRAIN[args.train_subset], *DEV, *TEST)
    if args.corpus_dir is None:
        corpus = fetch(wanted, args.downloads, args.mirror)
    else:
        corpus = find_corpus(args.corpus_dir)
    if args.lm_text:
        text = find_lm_text(args.corpus_dir, args.downloads, args.mirror)
        prepare_lm_text(text, args.data_dir / "lm_text" / "text")
    sets = compose(read_parts(corpus, wanted), args.train_subset, args.valid_from_train)
    write_sets(sets, args.data_dir)


if __name__ == "__main__":
    run(main)
