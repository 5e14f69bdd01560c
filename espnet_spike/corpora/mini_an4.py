"""mini_an4: the eight utterances of CMU's AN4 that the espnet wheel carries.

Run in the recipe folder: ``../../.venv/bin/python -m espnet_spike.corpora.mini_an4``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.corpora.an4 import FOLDERS, find_corpus, read_transcripts
from espnet_spike.corpora.download import extract
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run
from espnet_spike.utils.files import plural

logger = logging.getLogger("mini_an4")

# The corpus has no development set. This utterance is taken out of the training set for it: all
# its letters occur in the four that stay, and both longer ones stay.
DEV = "an152-mwhw-b"


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description="Prepare mini_an4: data/train, data/dev and data/test.")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--downloads", type=Path, default=Path("downloads"), help="extract here")
    parser.add_argument(
        "--corpus_dir",
        type=Path,
        help="an AN4 folder (with etc/ and wav/) instead of the archive in the espnet package",
    )
    return parser


def find_archive() -> Path:
    """Return the path of the archive inside the installed espnet package.

    Raises:
        UserError: espnet is not installed, or this version has no such archive.
    """
    from importlib.util import find_spec

    spec = find_spec("egs3")
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "mini_an4" / "esp2_asr" / "downloads.tar.gz"
        if path.is_file():
            return path
    raise UserError(
        "the installed espnet has no egs3/mini_an4/esp2_asr/downloads.tar.gz",
        "install espnet==202611, or give --corpus_dir",
    )


def prepare(an4: Path, data_dir: Path) -> dict[str, DataDir]:
    """Write ``train``, ``dev`` and ``test`` under ``data_dir``.

    Utterance ids begin with the speaker: ``an251-fash-b`` becomes ``fash-an251-b``.
    """
    sets: dict[str, DataDir] = {"train": DataDir(), "dev": DataDir(), "test": DataDir()}
    for part, folder in FOLDERS.items():
        transcripts = read_transcripts(an4 / "etc" / f"an4_{part}.transcription")
        audio = {path.stem: path for path in sorted((an4 / "wav" / folder).glob("*/*.sph"))}
        for name in sorted(set(audio) - set(transcripts)):
            logger.info("%s has no transcript and is left out", audio[name])
        for name, words in transcripts.items():
            if name not in audio:
                raise UserError(f"{an4}: no audio for {name}", "is the copy complete?")
            session, speaker, microphone = name.split("-")
            utt = f"{speaker}-{session}-{microphone}"
            target = sets["dev" if name == DEV else part]
            target.wav[utt] = str(audio[name])
            target.text[utt] = words
            target.utt2spk[utt] = speaker
    for name, data in sets.items():
        data.write(data_dir / name)
        logger.info("%s: %s", data_dir / name, plural(len(data.text), "utterance"))
    logger.info(
        "%s: the corpus has no development set; %s was taken out of the training set for it, "
        "so its speaker is known from training",
        data_dir / "dev",
        DEV,
    )
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    an4 = args.corpus_dir
    if an4 is None:
        extract(find_archive(), args.downloads, members="downloads/an4/", strip=1)
        an4 = args.downloads / "an4"
    prepare(find_corpus(an4), args.data_dir)


if __name__ == "__main__":
    run(main)
