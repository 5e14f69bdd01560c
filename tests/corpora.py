"""Where the development corpora lie, for tests that want real speech beyond mini_an4."""

import os
from pathlib import Path

import pytest

ROOT = Path(
    os.environ.get("ESPNET_SPIKE_CORPORA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def corpus_dir(name: str) -> Path:
    """Return the folder of a development corpus, or skip the test when it is absent.

    Users have no such folder and need none; ``ESPNET_SPIKE_CORPORA`` names another place.
    """
    path = ROOT / name
    if not path.is_dir():
        pytest.skip(f"development corpus absent: {name}")
    return path
