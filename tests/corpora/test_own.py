"""Own data as people have it: real audio files of several formats, tables of several kinds."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from espnet_spike.bin import copy_feats, fbank, new_recipe, prepare_data_dir
from espnet_spike.corpora import own
from espnet_spike.corpora.own import import_set
from espnet_spike.data.audio import parse_source, read
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table
from tests.helpers.data_dirs import make_data_dir
from tests.helpers.tables import NAMES, write_csv


def test_a_stereo_file_needs_a_choice(audio):
    (audio / "d.wav").rename(audio.parent / "d.wav")
    path = write_csv(audio.parent / "all.csv")
    for name in NAMES[:3]:
        (audio / name).rename(audio.parent / name)
    with pytest.raises(UserError, match=r"d: .*d\.wav has 2 channels") as caught:
        import_set(path)
    assert "--channel 1" in caught.value.hint

    def level(channel):
        data = import_set(path, channel=channel)
        wave, _ = read(parse_source(data.wav["d"], "d"), "d")
        return float(np.abs(wave).mean()) if np.any(wave) else 0.0

    assert level("2") == 0.0 and level("1") == pytest.approx(2 * level("mean"), rel=0.01)
    with pytest.raises(UserError, match="there is no channel 3"):
        import_set(path, channel="3")
    with pytest.raises(UserError, match="--channel left"):
        import_set(path, channel="left")


def test_pieces_of_files_become_segments(audio):
    rows = "path,text,offset,duration\nc.wav,eins,0.1,0.4\nc.wav,zwei,0.5,0.5\nb.ogg,drei,,\n"
    (audio / "pieces.csv").write_text(rows)
    data = import_set(audio / "pieces.csv")
    assert data.segments["c-0000100"] == Segment("rec000001", 0.1, 0.5)
    assert data.segments["b"] == Segment("rec000002", 0.0, -1.0)
    data.write(Path("data/x"))
    prepare_data_dir.main(["data/x"])
    assert DataDir.read(Path("data/x")).text == {
        "c-0000100": "eins",
        "c-0000500": "zwei",
        "b": "drei",
    }


def data_words(recipe):
    """Return the arguments of the recipe's stage 1."""
    line = (recipe / "local/data.sh").read_text().splitlines()[-1]
    return shlex.split(line.removesuffix('"$@"'))[4:]


def test_a_new_recipe_prepares_its_data(audio, monkeypatch, capsys):
    """What a new user does with a table: make the recipe, look at it, run stage 1 and features."""
    path = write_csv(audio / "it's mine.csv")
    arguments = ["mine", "--train", str(path), "--test", f"test={path}", "--channel", "mean"]
    new_recipe.main([*arguments, "--egs", "egs", "--normalization", "upper"])
    assert "./run.sh --recipe mine" in capsys.readouterr().out
    recipe = Path("egs/mine").absolute()
    assert not list(Path("egs").glob(".*"))
    script = (recipe / "run.sh").read_text()
    assert "@" not in script.replace('"$@"', "").replace("${BASH_SOURCE[0]}", "")
    assert "--feats_type fbank --token_type bpe --nbpe 50" in script
    assert "--normalization upper" in script
    monkeypatch.chdir(recipe)
    own.main(data_words(recipe))
    sets = {name: DataDir.read(Path("data") / name) for name in ("train", "dev", "test")}
    assert (
        sets["test"].text["c"] == "ÜBER DEN GROSSEN" or sets["test"].text["c"] == "ÜBER DEN GROẞEN"
    )
    assert len(sets["train"].text) == len(sets["dev"].text) == 2
    prepare_data_dir.main(["data/train", "data/dev", "data/test"])
    Path("fbank.yaml").write_text("num_mel_bins: 80\n")
    fbank.main(["--config", "fbank.yaml", "--fs", "16000", "data/test", "dump/test"])
    frames = {
        utt: int(v.split(",")[0]) for utt, v in read_table(Path("dump/test/feats_shape")).items()
    }
    assert frames == pytest.approx({"a_1": 98, "b": 108, "c": 118, "d": 128}, abs=1)


def test_kaldi_directories_also_with_features_alone(audio, monkeypatch):
    data = make_data_dir(Path("kaldi/data/train").absolute(), {"u1": 1.0, "u2": 1.2, "u3": 0.8})
    data.wav = {
        utt: str(Path(path).relative_to(Path("kaldi").absolute())) for utt, path in data.wav.items()
    }
    data.write(Path("kaldi/data/train"))
    found = import_set(Path("kaldi/data/train"))
    assert found.text == data.text and all(Path(path).is_absolute() for path in found.wav.values())

    Path("fbank.yaml").write_text("num_mel_bins: 80\n")
    monkeypatch.chdir("kaldi")
    fbank.main(["--config", "../fbank.yaml", "data/train", "dump/train"])
    feats = read_table(Path("dump/train/feats.scp"))
    monkeypatch.chdir("..")
    only = Path("kaldi/data/feats")
    DataDir(feats=feats, text=data.text, utt2spk=data.utt2spk).write(only)
    new_recipe.main(["ark", "--train", str(only), "--egs", "egs", "--token_type", "char"])
    assert "--feats_type extracted --token_type char" in Path("egs/ark/run.sh").read_text()
    monkeypatch.chdir("egs/ark")
    own.main(data_words(Path()))
    prepare_data_dir.main(["data/train", "data/dev"])
    copy_feats.main(["data/train", "dump/train"])
    before = read_table(audio.parent / "kaldi/dump/train/feats_shape")
    after = read_table(Path("dump/train/feats_shape"))
    assert after and after.items() <= before.items()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["TEMPLATE"], "is no name for a recipe"),
        (["a/b"], "is no name for a recipe"),
        (["mine", "--test", "train=all.csv"], "choose another name"),
        (["mine", "--train", "all.txt"], "no such file"),
        (["mine", "--normalization", "uper"], "did you mean 'upper'"),
        (["mine", "--valid", "dev.csv", "--valid_from_train", "0.2"], "--valid dev.csv and"),
    ],
)
def test_a_recipe_that_cannot_be_made_leaves_nothing(audio, arguments, said):
    write_csv(audio / "all.csv")
    given = [] if "--train" in arguments else ["--train", str(audio / "all.csv")]
    with pytest.raises(UserError, match=said):
        new_recipe.main([*arguments, *given, "--egs", "egs", "--channel", "1"])
    assert not Path("egs").exists() or not list(Path("egs").iterdir())


def test_a_validation_set_at_hand_is_not_replaced_by_a_part_of_the_training_set(audio):
    path = write_csv(audio / "all.csv")
    words = ["--set", f"train={path}", "--set", f"dev={path}", "--channel", "1"]
    with pytest.raises(UserError, match=r"--set dev=.* and --valid_from_train 0\.5"):
        own.main([*words, "--valid_from_train", "0.5"])
    assert not Path("data").exists()


def test_writing_without_spaces_is_recognised_by_characters(root):
    assert new_recipe.choose_tokens(["而对楼市成交 abc"]) == ("char", 50)
    assert new_recipe.choose_tokens(["the cat"] * 60_000)[0] == "bpe"
    assert re.search(r"@\w+@", (root / "egs/TEMPLATE/run.sh").read_text())
