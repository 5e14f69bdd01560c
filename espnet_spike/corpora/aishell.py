"""AISHELL-1 (Bu et al. 2017, openslr.org/33): read Mandarin, 16 kHz, 178 hours.

The corpus holds ``wav/{train,dev,test}/S0002/BAC009S0002W0122.wav``, as published one
``wav/S0002.tar.gz`` a speaker, and ``transcript/aishell_transcript_v0.8.txt``. The spaces between
the words of the transcripts are removed: characters are recognised, and CER is what is published.

Run in the recipe folder: ``../../.venv/bin/python -m espnet_spike.corpora.aishell``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.corpora.download import Archive, extract, obtain
from espnet_spike.corpora.sets import (
    collect,
    corpus_parser,
    divide,
    find_files,
    no_valid_set,
    tell_absent,
    write_sets,
)
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import read_table

logger = logging.getLogger("aishell")

ARCHIVE = Archive("33/data_aishell.tgz", "md5:2f494334227864a8a8fec932999db9d8", expansion=1.2)
TRANSCRIPT = Path("transcript/aishell_transcript_v0.8.txt")
SETS = {"train": (120098, 340), "dev": (14326, 40), "test": (7176, 20)}  # utterances, speakers


def get_parser() -> Parser:
    """Return the command's parser."""
    return corpus_parser("Prepare AISHELL-1: data/train, data/dev and data/test.")


def find_corpus(corpus_dir: Path) -> Path:
    """Return the folder with ``transcript/`` and ``wav/``: ``corpus_dir`` or one inside it.

    Raises:
        UserError: it is not there.
    """
    for folder in (corpus_dir, corpus_dir / "data_aishell"):
        if (folder / TRANSCRIPT).is_file() and (folder / "wav").is_dir():
            return folder
    raise UserError(
        f"{corpus_dir}: no AISHELL-1 corpus", f"the folder must hold wav/ and {TRANSCRIPT}"
    )


def read_transcripts(path: Path) -> dict[str, str]:
    """Return utterance -> characters; the spaces between words go."""
    return {utt: "".join(words.split()) for utt, words in read_table(path).items()}


def unpack_speakers(wav: Path, target: Path) -> None:
    """Unpack the archives of speakers that do not lie beside them unpacked, each to a folder."""
    archives = sorted(wav.glob("S[0-9]*.tar.gz"))
    there = {folder.name for folder in wav.glob("*/S[0-9]*") if folder.is_dir()}
    for archive in archives:
        speaker = archive.name.removesuffix(".tar.gz")
        if speaker not in there:
            extract(archive, target / speaker)


def set_of(path: str) -> str:
    """Return the set that a file belongs to, from ``.../train/S0002/x.wav``."""
    return Path(path).parts[-3]


def read_sets(corpus: Path, unpacked: Path) -> dict[str, DataDir]:
    """Read the sets that are there; list what is missing or smaller than published.

    Args:
        corpus: folder with ``transcript/`` and ``wav/``.
        unpacked: where archives of speakers are unpacked when they lie packed in ``corpus``.

    Raises:
        UserError: no audio, or none with a transcript.
    """
    texts = read_transcripts(corpus / TRANSCRIPT)
    unpack_speakers(corpus / "wav", unpacked)
    audio = find_files(corpus / "wav", [".wav"])
    if unpacked.is_dir():
        audio |= find_files(unpacked, [".wav"])
    if not audio:
        raise UserError(f"{corpus}/wav: no audio", "is the copy complete?")
    sets = {}
    for name, (utterances, speakers) in SETS.items():
        own = {utt: path for utt, path in audio.items() if set_of(path) == name}
        if not own:
            logger.warning("%s: %s is missing", corpus, name)
            continue
        told = {utt: texts[utt] for utt in own if utt in texts}
        owners = {utt: Path(path).parent.name for utt, path in own.items()}
        data = sets[name] = collect(name, told, own, owners)
        counts = len(data.text), len(set(data.utt2spk.values()))
        if counts != (utterances, speakers):
            logger.warning(
                "%s is not whole: %d of %d utterances, %d of %d speakers",
                *(name, counts[0], utterances, counts[1], speakers),
            )
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.corpus_dir is None:
        obtain(ARCHIVE, args.mirror, args.downloads, args.downloads / "data_aishell", strip=1)
    corpus = find_corpus(args.corpus_dir or args.downloads / "data_aishell")
    sets = read_sets(corpus, args.downloads / "aishell_speakers")
    if "train" not in sets:
        raise UserError(f"{corpus}: no training set", "wav/train, or the archives of its speakers")
    divide(sets, "train", "dev", args.valid_from_train)
    if "dev" not in sets:
        raise no_valid_set("dev", f"{corpus}/wav/dev is missing")
    tell_absent(corpus, sets, ["dev", "test"])
    write_sets(sets, args.data_dir)


if __name__ == "__main__":
    run(main)
