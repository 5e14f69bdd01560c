import gzip
import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from espnet_spike.bin import prepare_data_dir
from espnet_spike.corpora import download, librispeech
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table
from tests.helpers.corpora import corpus_dir

ALL = [*librispeech.TRAIN["960"], *librispeech.DEV, *librispeech.TEST]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_corpus(folder, parts=ALL, readers=2):
    """Write empty files in the layout of the corpus."""
    for number, part in enumerate(parts):
        for reader in range(readers):
            reader = str(100 * (number + 1) + reader)
            chapter = folder / part / reader / "7"
            chapter.mkdir(parents=True)
            utts = [f"{reader}-7-{n:04d}" for n in range(3)]
            for utt in utts:
                (chapter / f"{utt}.flac").touch()
            lines = [f"{utt} IT'S {part.upper()}" for utt in utts]
            (chapter / f"{reader}-7.trans.txt").write_text("\n".join(lines) + "\n")
    return folder


def sets():
    return {folder.name: DataDir.read(folder) for folder in Path("data").iterdir()}


def test_the_real_files_pass_the_checks_of_stage_1(recipe, caplog):
    corpus = corpus_dir("LibriSpeech")
    librispeech.main(
        ["--corpus_dir", str(corpus), "--train_subset", "100", "--valid_from_train", "0.05"]
    )
    found = sets()
    assert found.keys() == {"train_100", "dev", "test_clean", "test_other"}
    assert len(found["train_100"].text) + len(found["dev"].text) == 193
    assert len(found["test_other"].text) == 100 and len(found["test_clean"].text) == 4
    assert found["test_clean"].text["1089-134691-0000"] == "HE COULD WAIT NO LONGER"
    assert found["test_clean"].utt2spk["1089-134691-0000"] == "1089"
    assert "193 of 28539 utterances, 72 of 251 speakers" in caplog.text
    assert "dev-clean is missing" in caplog.text
    assert '--test_sets "test_clean test_other"' in caplog.text
    speakers = [set(data.utt2spk.values()) for data in found.values()]
    assert sum(map(len, speakers)) == len(set().union(*speakers))
    prepare_data_dir.main([f"data/{name}" for name in found])
    assert sets() == found


def test_the_sets_of_the_whole_corpus(recipe):
    corpus = make_corpus(recipe / "LibriSpeech")
    librispeech.main(["--corpus_dir", str(recipe)])
    found = sets()
    assert {name: len(data.text) for name, data in found.items()} == {
        **{"train_960": 18, "dev": 12, "dev_clean": 6, "dev_other": 6},
        **{"test_clean": 6, "test_other": 6},
    }
    assert found["dev"].text == found["dev_clean"].text | found["dev_other"].text
    assert found["train_960"].wav["100-7-0000"] == str(
        corpus / "train-clean-100/100/7/100-7-0000.flac"
    )
    librispeech.main(["--corpus_dir", str(recipe), "--train_subset", "100"])
    assert len(sets()["train_100"].text) == 6


@pytest.mark.parametrize(
    ("missing", "options", "said", "hint"),
    [
        (["train-other-500"], [], "without train-other-500", "--train_subset 100"),
        (["train-clean-100"], ["--train_subset", "100"], "without train-clean-100", "download"),
        (["dev-clean", "dev-other"], [], "no validation set dev", "--valid_from_train 0.05"),
        (ALL, [], "no part of LibriSpeech", "test-clean"),
    ],
)
def test_what_cannot_be_done_without_is_named(recipe, missing, options, said, hint):
    make_corpus(recipe / "corpus", [part for part in ALL if part not in missing])
    (recipe / "corpus").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=said) as caught:
        librispeech.main(["--corpus_dir", "corpus", *options])
    assert hint in caught.value.hint
    assert not (recipe / "data").exists()


def test_a_dev_set_can_come_from_the_training_set(recipe):
    make_corpus(recipe / "corpus", ALL, readers=5)
    librispeech.main(["--corpus_dir", "corpus", "--valid_from_train", "0.1"])
    found = sets()
    assert len(found["dev"].text) == 6 and len(found["train_960"].text) == 39
    assert len(found["dev_clean"].text) == 15


def test_a_part_is_downloaded_verified_and_unpacked(recipe, monkeypatch):
    make_corpus(recipe / "src" / "LibriSpeech")
    archives = {}
    for part in ALL:
        with tarfile.open(recipe / "archive", "w:gz") as tar:
            tar.add(recipe / "src/LibriSpeech" / part, f"LibriSpeech/{part}")
        archives[f"http://mirror/12/{part}.tar.gz"] = (recipe / "archive").read_bytes()
        md5 = hashlib.md5((recipe / "archive").read_bytes()).hexdigest()
        monkeypatch.setitem(librispeech.PARTS, part, librispeech.Part(md5, 6, 2))
    shutil.rmtree(recipe / "src")
    asked = []

    def fetch(url, part):
        asked.append(url)
        part.write_bytes(archives[url])
        return url

    monkeypatch.setattr(download, "_fetch", fetch)
    librispeech.main(["--mirror", "http://mirror"])
    assert len(sets()["train_960"].text) == 18 and len(asked) == 7
    librispeech.main(["--mirror", "http://mirror"])
    assert len(asked) == 7


def test_the_text_for_language_models_gets_keys(recipe):
    make_corpus(recipe / "corpus")
    with gzip.open(recipe / "corpus" / librispeech.LM_TEXT.name, "wt") as file:
        file.write("A  BOOK\n\n\nANOTHER\n")
    librispeech.main(["--corpus_dir", "corpus", "--lm_text", "true"])
    table = read_table(recipe / "data/lm_text/text")
    assert table == {"lm-00000000": "A  BOOK", "lm-00000001": "ANOTHER"}
    (recipe / "corpus" / librispeech.LM_TEXT.name).write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        librispeech.main(["--corpus_dir", "corpus", "--lm_text", "true"])
