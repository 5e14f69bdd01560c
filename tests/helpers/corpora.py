"""Where the development corpora lie, for tests that want real speech beyond mini_an4."""

import os
from pathlib import Path

import pytest

ROOT = Path(
    os.environ.get("ESPNET_SPIKE_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "data")
)


def corpus_dir(name: str) -> Path:
    """Return the folder of a development corpus, or skip the test when it is absent.

    Users have no such folder and need none; ``ESPNET_SPIKE_CORPORA`` names another place.
    """
    path = ROOT / name
    if not path.is_dir():
        pytest.skip(f"development corpus absent: {name}")
    return path


def small_librispeech(target: Path) -> Path:
    """Lay out 16 training and 4 test utterances of the real corpus, as links to them."""
    corpus = corpus_dir("LibriSpeech")
    transcripts = sorted((corpus / "train-clean-100").glob("*/*/*.trans.txt"))
    transcripts = [t for t in transcripts if len(list(t.parent.glob("*.flac"))) == 1][:16]
    transcripts += sorted((corpus / "test-clean").glob("*/*/*.trans.txt"))
    for transcript in transcripts:
        folder = target / transcript.parent.relative_to(corpus)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(transcript.parent)
    return target


def small_speechocean762(target: Path) -> Path:
    """Lay out 20 training utterances of ten speakers and 6 test utterances of three, as links."""
    corpus = corpus_dir("speechocean762")
    target.mkdir(parents=True, exist_ok=True)
    (target / "WAVE").symlink_to(corpus / "WAVE")
    for name, utterances in (("train", 20), ("test", 6)):
        speakers: dict[str, list[str]] = {}
        for line in (corpus / name / "utt2spk").read_text().splitlines():
            utt, speaker = line.split()
            speakers.setdefault(speaker, []).append(utt)
        chosen = [utt for utts in speakers.values() for utt in utts[:2]][:utterances]
        (target / name).mkdir()
        for table in ("text", "utt2spk", "wav.scp"):
            lines = (corpus / name / table).read_text().splitlines()
            kept = [line for line in lines if line.split()[0] in chosen]
            (target / name / table).write_text("\n".join(kept) + "\n")
    return target
