from pathlib import Path

import kaldiio
import numpy as np
import pytest

from espnet_spike.corpora import an4, mini_an4
from espnet_spike.corpora.download import extract
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """The eight utterances in the espnet wheel, which lie as in the corpus."""
    monkeypatch.chdir(tmp_path)
    extract(mini_an4.find_archive(), tmp_path / "copy", members="downloads/an4/", strip=1)
    return tmp_path / "copy"


def test_the_layout_is_read(corpus, caplog):
    an4.main(["--corpus_dir", str(corpus), "--valid_from_train", "0.2"])
    found = {name: DataDir.read(Path("data") / name) for name in ("train", "dev", "test")}
    assert len(found["train"].text) + len(found["dev"].text) == 5
    assert found["test"].text["fcaw-cen8-b"] == "ELEVEN TWENTY SEVEN FIFTY SEVEN"
    assert found["test"].utt2spk["fcaw-cen8-b"] == "fcaw"
    assert not set(found["train"].utt2spk.values()) & set(found["dev"].utt2spk.values())
    assert "no transcript for 1 file" in caplog.text


def test_features_in_kaldi_directories_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, speakers in {"train": "abcd", "test": "xy"}.items():
        folder = tmp_path / "cepstra" / name
        folder.mkdir(parents=True)
        utts = [f"{speaker}{number}-b" for speaker in speakers for number in range(2)]
        rows = {utt: np.full((3, 13), number, "float32") for number, utt in enumerate(utts)}
        kaldiio.save_ark(str(folder / "feats.ark"), rows, scp=str(folder / "feats.scp"))
        (folder / "text").write_text("".join(f"{utt} YES\n" for utt in utts))
        (folder / "utt2spk").write_text("".join(f"{utt} {utt[0]}\n" for utt in utts))
    an4.main(["--corpus_dir", str(tmp_path / "cepstra"), "--valid_from_train", "0.25"])
    found = {name: DataDir.read(Path("data") / name) for name in ("train", "dev", "test")}
    assert {name: len(data.feats) for name, data in found.items()} == {
        "train": 6,
        "dev": 2,
        "test": 4,
    }
    assert len(set(found["dev"].utt2spk.values())) == 1
    assert not found["test"].wav


def test_a_folder_that_is_no_an4_is_refused(tmp_path):
    with pytest.raises(UserError, match="no AN4 corpus"):
        an4.main(["--corpus_dir", str(tmp_path)])
    with pytest.raises(UserError, match="no validation set"):
        an4.main(["--corpus_dir", str(tmp_path), "--valid_from_train", "0"])
