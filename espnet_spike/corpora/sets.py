"""What the corpora have in common: options, tables from files, a validation set out of training."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from espnet_spike.corpora.download import MIRRORS
from espnet_spike.data.kaldi_dir import DataDir, speakers_to_utterances
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import SHARE, Parser
from espnet_spike.utils.files import name_some, plural

logger = logging.getLogger("data")


def corpus_parser(description: str, valid_from_train: float = 0.0) -> Parser:
    """Return a parser with the options of every corpus that can be downloaded."""
    parser = Parser(description=description)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--downloads", type=Path, default=Path("downloads"), help="download here")
    parser.add_argument("--corpus_dir", type=Path, help="a copy of the corpus, not a download")
    parser.add_argument(
        "--mirror", default="main", help=f"where from: {', '.join(MIRRORS)} or an address"
    )
    parser.add_argument(
        "--valid_from_train",
        type=SHARE,
        default=valid_from_train,
        help="take this share of the training utterances, by whole speakers, as validation set",
    )
    return parser


def collect(
    name: str, texts: Mapping[str, str], audio: Mapping[str, str], speakers: Mapping[str, str]
) -> DataDir:
    """Return the tables of the utterances that have both a transcript and audio; list the others.

    Args:
        name: of the part, for messages.
        texts: utterance -> transcript.
        audio: utterance -> file.
        speakers: utterance -> speaker, of all utterances with a transcript.

    Raises:
        UserError: no utterance has both.
    """
    silent, untold = sorted(texts.keys() - audio.keys()), sorted(audio.keys() - texts.keys())
    if silent:
        lost = plural(len(silent), "utterance")
        logger.warning("%s: no audio for %s: %s", name, lost, name_some(silent))
    if untold:
        lost = plural(len(untold), "file")
        logger.warning("%s: no transcript for %s: %s", name, lost, name_some(untold))
    keys = sorted(texts.keys() & audio.keys())
    if not keys:
        raise UserError(
            f"{name}: no utterance has both audio and a transcript", "is the copy complete?"
        )
    return DataDir(
        wav={utt: audio[utt] for utt in keys},
        text={utt: texts[utt] for utt in keys},
        utt2spk={utt: speakers[utt] for utt in keys},
        dropped=dict.fromkeys(silent, "no audio"),
    )


def find_files(folder: Path, endings: Iterable[str]) -> dict[str, str]:
    """Return name without ending -> path of the files below a folder that end so, in any case.

    Raises:
        UserError: two files share a name, which has to tell the utterance.
    """
    endings = tuple(endings)
    found = {}
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            stem, dot, ending = name.rpartition(".")
            if dot and f".{ending.lower()}" in endings and not name.startswith("."):
                path = os.path.join(root, name)
                if stem in found and not os.path.samefile(found[stem], path):
                    raise UserError(
                        f"{path}: {found[stem]} has the same name, {stem}",
                        "each utterance needs a name of its own: remove or rename one",
                    )
                found[stem] = path
    return found


def join(parts: Iterable[DataDir]) -> DataDir:
    """Return the utterances of several directories as one.

    Raises:
        UserError: an utterance is in two of them.
    """
    joined = DataDir()
    for part in parts:
        twice = joined.text.keys() & part.text.keys()
        if twice:
            raise UserError(f"utterances in two parts of the corpus: {name_some(sorted(twice))}")
        for name in ("wav", "feats", "segments", "text", "utt2spk", "utt2speed", "dropped"):
            getattr(joined, name).update(getattr(part, name))
    return joined


def split_off(data: DataDir, share: float) -> tuple[DataDir, DataDir]:
    """Take whole speakers out of a set until they have ``share`` of its utterances.

    The speakers come in the order of a hash of their names, so the choice is the same everywhere
    and changes little when speakers are added.

    Where one speaker is all there is, utterances are taken in the order of such a hash.

    Returns:
        What stays, what was taken; no speaker is in both, where there are several.

    Raises:
        UserError: ``share`` is no share, or one utterance is all there is.
    """
    if not 0 < share < 1:
        raise UserError(f"--valid_from_train {share:g}", "give a share between 0 and 1")
    spk2utt = speakers_to_utterances(data.utt2spk)
    if len(data.utt2spk) < 2:
        raise UserError(
            f"the training set has {plural(len(data.utt2spk), 'utterance')}",
            "a validation set needs one of its own",
        )
    if len(spk2utt) < 2:
        spk2utt = {utt: [utt] for utt in data.utt2spk}
    order = sorted(spk2utt, key=lambda name: hashlib.sha256(name.encode()).digest())
    taken: list[str] = []
    for speaker in order[:-1]:
        if len(taken) >= share * len(data.utt2spk):
            break
        taken += spk2utt[speaker]
    kept = data.subset(set(data.utt2spk) - set(taken))
    kept.dropped = data.dropped
    return kept, data.subset(taken)


def divide(sets: dict[str, DataDir], train: str, valid: str, share: float) -> None:
    """Put a share of ``sets[train]`` into ``sets[valid]``, in place; say so. 0 does nothing."""
    if not share:
        return
    sets[train], sets[valid] = split_off(sets[train], share)
    shared = set(sets[train].utt2spk.values()) & set(sets[valid].utt2spk.values())
    if shared:
        logger.warning(
            "%s: the training set has one speaker, %s: %s taken out of it; error "
            "rates of another speaker will be higher",
            *(valid, min(shared), plural(len(sets[valid].text), "utterance")),
        )
        return
    logger.info(
        "%s: %s taken out of the training set (--valid_from_train %g)",
        valid,
        plural(len(set(sets[valid].utt2spk.values())), "speaker"),
        share,
    )


def tell_absent(corpus: Path | str, sets: Mapping[str, DataDir], tests: Sequence[str]) -> None:
    """Warn of test sets that could not be made, and name the option that leaves them out."""
    absent = [name for name in tests if name not in sets]
    if absent:
        there = " ".join(name for name in tests if name in sets)
        logger.warning(
            '%s: no sets %s; what can be decoded: --test_sets "%s"',
            *(corpus, ", ".join(absent), there or "dev"),
        )


def no_valid_set(name: str, missing: str) -> UserError:
    """Return the error of a corpus without a validation set."""
    return UserError(
        f"no validation set {name}: {missing}",
        "fetch it, or take a twentieth of the training speakers for it: --valid_from_train 0.05",
    )


def write_sets(sets: Mapping[str, DataDir], data_dir: Path) -> None:
    """Write the data directories and say how large they are."""
    for name, data in sets.items():
        data.write(data_dir / name)
        logger.info(
            "%s: %s, %s",
            data_dir / name,
            plural(len(data.text), "utterance"),
            plural(len(set(data.utt2spk.values())), "speaker"),
        )
