import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_spike.bin import prepare_data_dir
from espnet_spike.corpora import aishell
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError

WORDS = "而 对 楼市 成交 抑制 作用 最 大 的 限 购"
SPEAKERS = {"train": ["S0002", "S0003", "S0004"], "dev": ["S0724"], "test": ["S0764"]}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Noise in the exact layout of the corpus, one file without a transcript."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = []
    for name, speakers in SPEAKERS.items():
        for speaker in speakers:
            folder = tmp_path / "data_aishell/wav" / name / speaker
            folder.mkdir(parents=True)
            for number in range(122, 125):
                utt = f"BAC009{speaker}W{number:04d}"
                wave = (rng.standard_normal(8000) * 1000).astype(np.int16)
                soundfile.write(folder / f"{utt}.wav", wave, 16000)
                lines.append(f"{utt} {WORDS}")
    lines.remove(f"BAC009S0002W0122 {WORDS}")
    transcript = tmp_path / "data_aishell" / aishell.TRANSCRIPT
    transcript.parent.mkdir()
    transcript.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "data_aishell"


def pack_speakers(corpus: Path) -> None:
    """Put each speaker into an archive of their own, as the corpus is published."""
    for folder in sorted((corpus / "wav").glob("*/S*")):
        with tarfile.open(corpus / "wav" / f"{folder.name}.tar.gz", "w:gz") as tar:
            tar.add(folder, f"{folder.parent.name}/{folder.name}")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        if not list(folder.parent.iterdir()):
            folder.parent.rmdir()


def sets():
    return {name: DataDir.read(Path("data") / name) for name in SPEAKERS}


def test_the_layout_is_read_and_spaces_between_words_go(corpus, caplog):
    aishell.main(["--corpus_dir", str(corpus.parent)])
    found = sets()
    assert [len(data.text) for data in found.values()] == [8, 3, 3]
    assert found["test"].text["BAC009S0764W0122"] == "而对楼市成交抑制作用最大的限购"
    assert found["test"].utt2spk["BAC009S0764W0122"] == "S0764"
    assert "no transcript for 1 file: BAC009S0002W0122" in caplog.text
    assert "dev is not whole: 3 of 14326 utterances, 1 of 40 speakers" in caplog.text
    prepare_data_dir.main([f"data/{name}" for name in SPEAKERS])
    assert sets() == found


def test_archives_of_speakers_are_unpacked_elsewhere(corpus):
    aishell.main(["--corpus_dir", str(corpus)])
    before = sets()
    pack_speakers(corpus)
    packed = sorted(path.name for path in (corpus / "wav").iterdir())
    assert packed == [f"{s}.tar.gz" for names in SPEAKERS.values() for s in names]
    aishell.main(["--corpus_dir", str(corpus)])
    assert sorted(path.name for path in (corpus / "wav").iterdir()) == packed
    for name, data in sets().items():
        assert data.text == before[name].text and data.utt2spk == before[name].utt2spk
        assert all(Path(path).is_file() for path in data.wav.values())
    aishell.main(["--corpus_dir", str(corpus)])


def test_a_missing_dev_set_is_an_error_that_shows_the_way(corpus):
    for file in (corpus / "wav/dev/S0724").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no validation set dev") as caught:
        aishell.main(["--corpus_dir", str(corpus)])
    assert "--valid_from_train 0.05" in caught.value.hint
    aishell.main(["--corpus_dir", str(corpus), "--valid_from_train", "0.05"])
    assert len(set(sets()["dev"].utt2spk.values())) == 1


def test_a_folder_that_is_no_aishell_is_refused(tmp_path):
    with pytest.raises(UserError, match="no AISHELL-1 corpus"):
        aishell.main(["--corpus_dir", str(tmp_path)])


def test_a_copy_without_a_test_set_says_what_can_be_decoded(corpus, caplog):
    aishell.main(["--corpus_dir", str(corpus)])
    assert "what can be decoded" not in caplog.text
    shutil.rmtree(corpus / "wav/test")
    aishell.main(["--corpus_dir", str(corpus)])
    assert f'{corpus}: no sets test; what can be decoded: --test_sets "dev"' in caplog.text
