import shutil
from pathlib import Path

import pytest

from espnet_spike.bin import prepare_data_dir
from espnet_spike.corpora import speechocean762
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from tests.helpers.corpora import corpus_dir

SETS = ("train", "dev", "test")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sets():
    return {name: DataDir.read(Path("data") / name) for name in SETS}


def test_the_real_files_pass_the_checks_of_stage_1(recipe, caplog):
    speechocean762.main(["--corpus_dir", str(corpus_dir("speechocean762"))])
    found = sets()
    assert len(found["train"].text) + len(found["dev"].text) == 780
    assert 78 <= len(found["dev"].text) < 100 and len(found["test"].text) == 400
    assert (found["train"].text | found["dev"].text)["000010011"] == "WE CALL IT BEAR"
    assert not set(found["train"].utt2spk.values()) & set(found["dev"].utt2spk.values())
    assert "test is not whole: 400 of 2500 utterances, 20 of 125 speakers" in caplog.text
    prepare_data_dir.main([f"data/{name}" for name in SETS])
    assert sets() == found


def test_the_official_lists_of_the_whole_corpus(recipe, caplog):
    """They have tabs, and the ending of the published files."""
    corpus = recipe / "speechocean762"
    for name in ("train", "test"):
        shutil.copytree(corpus_dir("speechocean762") / "official_full_lists" / name, corpus / name)
        for line in (corpus / name / "wav.scp").read_text().splitlines():
            path = corpus / line.split()[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    speechocean762.main(["--corpus_dir", str(recipe), "--valid_from_train", "0.05"])
    found = sets()
    assert len(found["train"].text) + len(found["dev"].text) == 2500 == len(found["test"].text)
    assert "not whole" not in caplog.text
    next((corpus / "WAVE").glob("*/*")).unlink()
    speechocean762.main(["--corpus_dir", str(recipe)])
    assert "no audio for 1 utterance" in caplog.text and "2499 of 2500" in caplog.text


def test_without_a_validation_set_nothing_is_written(recipe):
    with pytest.raises(UserError, match="no validation set dev") as caught:
        speechocean762.main(["--corpus_dir", str(recipe), "--valid_from_train", "0"])
    assert "--valid_from_train 0.05" in caught.value.hint
    with pytest.raises(UserError, match="no speechocean762 corpus"):
        speechocean762.main(["--corpus_dir", str(recipe)])
    assert not (recipe / "data").exists()
