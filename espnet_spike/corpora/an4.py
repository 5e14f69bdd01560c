"""AN4 (Carnegie Mellon, 1991): spelled names, numbers and dates, 16 kHz, about 50 minutes.

The corpus has 948 training and 130 test utterances and no development set: some training speakers
become ``dev``. In place of the audio its 13 mel cepstra, which Carnegie Mellon distributes too,
can be read from Kaldi data directories ``train`` and ``test`` (``--feats_type extracted``).

Run in the recipe folder: ``../../.venv/bin/python -m espnet_spike.corpora.an4``.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.corpora.download import Archive, obtain
from espnet_spike.corpora.own import import_set
from espnet_spike.corpora.sets import (
    collect,
    corpus_parser,
    divide,
    find_files,
    no_valid_set,
    write_sets,
)
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import read_lines

# its home; no check sum is published
ARCHIVE = Archive("https://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz", expansion=2.0)
FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = corpus_parser("Prepare AN4: data/train, data/dev and data/test.", 0.1)
    parser.add_argument("--sha256", help="of the archive; without https it is needed")
    return parser


def find_corpus(corpus_dir: Path) -> Path:
    """Return the folder of audio or features: ``corpus_dir`` or ``an4`` in it.

    Raises:
        UserError: it is not there.
    """
    for folder in (corpus_dir, corpus_dir / "an4"):
        if (folder / "etc").is_dir() or has_features(folder):
            return folder
    raise UserError(
        f"{corpus_dir}: no AN4 corpus",
        "the folder must hold etc/ and wav/, or train/ and test/ with a feats.scp each",
    )


def has_features(an4: Path) -> bool:
    """Return whether the sets are Kaldi data directories with features."""
    return all((an4 / name / "feats.scp").is_file() for name in FOLDERS)


def read_transcripts(path: Path) -> dict[str, str]:
    """Read ``<s> WORDS </s> (utterance)`` lines into utterance -> words."""
    transcripts = {}
    for line in read_lines(path):
        match = re.fullmatch(r"(?:<s>)?(.*?)(?:</s>)?\s*\((\S+)\)", line.strip())
        if not match:
            raise UserError(f"{path}: expected '<s> WORDS </s> (utterance)', got '{line}'")
        transcripts[match[2]] = " ".join(match[1].split())
    return transcripts


def read_set(an4: Path, name: str) -> DataDir:
    """Read ``train`` or ``test``; utterance ids begin with the speaker: ``fash-an251-b``."""

    def speaker_first(table: dict[str, str]) -> dict[str, str]:
        return {"{1}-{0}-{2}".format(*utt.split("-")): value for utt, value in table.items()}

    texts = speaker_first(read_transcripts(an4 / "etc" / f"an4_{name}.transcription"))
    audio = speaker_first(find_files(an4 / "wav" / FOLDERS[name], [".sph"]))
    return collect(name, texts, audio, {utt: utt.split("-")[0] for utt in texts})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not args.valid_from_train:
        raise no_valid_set("dev", "the corpus has none")
    if args.corpus_dir is None:
        obtain(ARCHIVE, args.mirror, args.downloads, args.downloads / "an4", 1, args.sha256)
    an4 = find_corpus(args.corpus_dir or args.downloads / "an4")
    if has_features(an4):
        sets = {name: import_set(an4 / name) for name in FOLDERS}
    else:
        sets = {name: read_set(an4, name) for name in FOLDERS}
    divide(sets, "train", "dev", args.valid_from_train)
    write_sets(sets, args.data_dir)


if __name__ == "__main__":
    run(main)
