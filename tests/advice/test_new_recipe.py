"""Recipes for own data: made, run to features, and refused."""

import re
import shlex
from pathlib import Path

import pytest

from espnet_spike.advice.new_recipe import RecipeRequest, decisions, fill
from espnet_spike.bin import copy_feats, fbank, new_recipe, prepare_data_dir
from espnet_spike.corpora import own
from espnet_spike.corpora.own import import_set
from espnet_spike.data.audio import AudioInfo
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table
from espnet_spike.utils.yaml import read_yaml
from tests.helpers.data_dirs import make_data_dir
from tests.helpers.tables import write_csv


def data_words(recipe):
    """Return the arguments of the recipe's stage 1."""
    line = (recipe / "local/data.sh").read_text().splitlines()[-1]
    return shlex.split(line.removesuffix('"$@"'))[4:]


def test_a_new_recipe_prepares_its_data(audio, monkeypatch, capsys):
    """What a new user does with a table: make the recipe, look at it, run stage 1 and features."""
    path = write_csv(audio / "it's mine.csv")
    arguments = ["mine", "--train", str(path), "--test", f"test={path}", "--channel", "mean"]
    arguments += ["--trial_updates", "0"]
    new_recipe.main([*arguments, "--egs", "egs", "--normalization", "upper"])
    out = capsys.readouterr().out
    assert "./run.sh --recipe mine" in out and "iml_spikeformer, 0." in out
    recipe = Path("egs/mine").absolute()
    assert not list(Path("egs").glob(".*"))
    script = (recipe / "run.sh").read_text()
    assert "@" not in script.replace('"$@"', "").replace("${BASH_SOURCE[0]}", "")
    # the files have four sampling rates
    assert "--feats_type fbank --fs 16000 --token_type bpe --nbpe 30" in script
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
    new_recipe.main(
        [
            "ark",
            "--train",
            str(only),
            "--egs",
            "egs",
            "--token_type",
            "char",
            "--trial_updates",
            "0",
            "--features",
            "other",
        ]
    )
    assert "80 dims, of a kind that is not known (said by --features)" in (
        Path("egs/ark/README.md").read_text()
    )
    assert "--feats_type extracted --fs '' --token_type char" in Path("egs/ark/run.sh").read_text()
    assert "--speed_perturb_factors" not in Path("egs/ark/README.md").read_text()  # needs audio
    config = read_yaml(Path("egs/ark/conf/train_iml_spikeformer_sized.yaml"))
    assert config["spike_meta"] == {"vocab_size": 9, "input_size": 80}
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
        (["mine", "--encoder", "spikeformr"], "--encoder spikeformr"),
        (["mine", "--budget", "5", "--trial_updates", "0"], "has to be measured"),
        (["mine", "--normalization", "uper"], "did you mean 'upper'"),
        (["mine", "--features", "mel"], "--features mel, but the sets have audio"),
        (["mine", "--valid", "dev.csv", "--valid_from_train", "0.2"], "--valid dev.csv and"),
    ],
)
def test_a_recipe_that_cannot_be_made_leaves_nothing(audio, arguments, said):
    write_csv(audio / "all.csv")
    given = [] if "--train" in arguments else ["--train", str(audio / "all.csv")]
    with pytest.raises(UserError, match=said):
        new_recipe.main([*arguments, *given, "--egs", "egs", "--channel", "1"])
    assert not Path("egs").exists() or not list(Path("egs").iterdir())


def test_what_is_decided_is_said():
    request = RecipeRequest("mine", Path("train.csv"))
    headers = {"a": AudioInfo(16000, 1, 1), "b": AudioInfo(8000, 1, 2)}
    said = decisions(request, headers)
    assert len(said) == 2 and "8000 Hz (1): all are brought to 16000 Hz" in said[0]
    assert said[1].startswith("1 file with channels that hold the same")
    assert not decisions(request, {"a": AudioInfo(8000, 1, 1)})


def test_a_value_that_looks_like_a_place_stays_as_it_is(tmp_path):
    (tmp_path / "local").mkdir()
    for name in ("run.sh", "local/data.sh", "README.md"):
        (tmp_path / name).write_text('echo "@path@" @name@ "@other@" @path@ me@here.org\n')
    values = {"path": "/a/@name@/it's @path@", "name": '"@path@"'}
    fill(tmp_path, values)
    text = (tmp_path / "run.sh").read_text()
    assert shlex.split(text.split(' "@path@" ')[0])[1] == values["path"]
    assert text.endswith(
        """'"'"'s @path@' "@path@" "@other@" /a/@name@/it's @path@ me@here.org\n"""
    )


def test_the_template_has_names_to_fill_in(root):
    assert re.search(r"@\w+@", (root / "egs/TEMPLATE/run.sh").read_text())
