"""Own data as people have it: real audio files of several formats, tables of several kinds."""

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_spike.bin import copy_feats, fbank, new_recipe, prepare_data_dir
from espnet_spike.corpora import own
from espnet_spike.corpora.own import import_set
from espnet_spike.data.audio import parse_source, read
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.errors import UserError
from espnet_spike.utils.files import read_table
from tests.helpers.data_dirs import make_data_dir, tone

TEXTS = ["Zwölf Boxkämpfer", "jagen Viktor quer", "über den großen", "Sylter Deich"]


@pytest.fixture
def audio(tmp_path, monkeypatch):
    """Four files: FLAC, Ogg, float WAV at 44.1 kHz, and a stereo one whose right side is silent."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my audio"
    folder.mkdir()
    for number, (name, rate) in enumerate(
        [("a 1.flac", 16000), ("b.ogg", 48000), ("c.wav", 44100), ("d.wav", 8000)]
    ):
        wave = tone(1.0 + number / 10, rate, number).astype(np.float64) / 32768
        if name == "d.wav":
            wave = np.stack([wave, np.zeros_like(wave)], axis=1)
        soundfile.write(folder / name, wave, rate, **({"subtype": "FLOAT"} if number == 2 else {}))
    return folder


NAMES = ["a 1.flac", "b.ogg", "c.wav", "d.wav"]


def write_csv(path, delimiter=",", header=("path", "sentence", "client_id")):
    rows = [
        header,
        *((n, f'"{t}"', f"s{i % 2}") for i, (n, t) in enumerate(zip(NAMES, TEXTS, strict=True))),
    ]
    path.write_text("\n".join(delimiter.join(row) for row in rows) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "jsonl.gz"])
def test_tables_of_any_kind_give_the_same(audio, kind):
    path = audio.parent / f"all.{kind}"
    if "json" in kind:
        rows = [
            {"audio_filepath": n, "text": t, "speaker": f"s{i % 2}", "duration": 1.0}
            for i, (n, t) in enumerate(zip(NAMES, TEXTS, strict=True))
        ]
        opener = gzip.open if kind.endswith("gz") else open
        with opener(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        write_csv(path, "," if kind == "csv" else "\t")
    data = import_set(path, audio, channel="1")
    assert data.text == dict(zip(["a_1", "b", "c", "d"], TEXTS, strict=True))
    assert data.utt2spk == {"a_1": "s0", "b": "s1", "c": "s0", "d": "s1"}
    assert data.wav["a_1"] == str(audio / "a 1.flac")


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


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (("clip", "text", "x"), "no column for audio; there are clip, text, x"),
        (("path", "said", "x"), "no column for text"),
    ],
)
def test_an_unknown_column_is_asked_for_and_can_be_named(audio, header, said):
    path = write_csv(audio / "all.csv", header=header)
    with pytest.raises(UserError, match=said) as caught:
        import_set(path, channel="mean")
    assert "--columns" in caught.value.hint
    columns = {"audio": header[0], "text": header[1]}
    assert len(import_set(path, columns=columns, channel="mean").text) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,text\nnone.wav,A\n", r"none\.wav is not there"),
        ("path,text\nb.ogg,A,B\n", "line 2: 2 columns are expected"),
        ("path,text\n", "holds no utterance"),
        ("path,text\nb.ogg,!?\n", "no utterance has words"),
        ("path,text,start,end\nb.ogg,A,one,2\n", "line 2: start, end"),
        ("id,path,text\nu,b.ogg,A\nu,c.wav,B\n", "two utterances are called u"),
    ],
)
def test_a_bad_table_is_refused_with_the_place(audio, content, said):
    (audio / "bad.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        import_set(audio / "bad.csv", normalization="upper")


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


def recording(audio, name, channels=(0,)):
    info = soundfile.info(audio / name)
    return {
        "id": name,
        "sources": [
            {"type": "file", "channels": list(channels), "source": str(audio / name)},
        ],
        "sampling_rate": info.samplerate,
        "num_samples": info.frames,
        "duration": info.duration,
        "channel_ids": list(channels),
    }


def supervision(name, start, duration, text, channel=0):
    keys = ("id", "recording_id", "start", "duration", "channel", "text", "speaker")
    return dict(
        zip(keys, (f"{name}-{start}", name, start, duration, channel, text, "s"), strict=True)
    )


def write_lines(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_lhotse_supervisions_and_cuts_give_the_same(audio):
    length = soundfile.info(audio / "c.wav").duration
    stereo = recording(audio, "d.wav", (0, 1))
    stereo["sources"][0]["source"] = str(audio.parent / "d.wav")
    (audio / "d.wav").rename(audio.parent / "d.wav")
    supervisions = [
        supervision("c.wav", 0, length, "whole"),
        supervision("b.ogg", 0.2, 0.5, "piece"),
        supervision("d.wav", 0, 0.5, "right", 1),
    ]
    recordings = [recording(audio, "c.wav"), recording(audio, "b.ogg"), stereo]
    write_lines(audio / "x_recordings_train.jsonl.gz", recordings)
    path = write_lines(audio / "x_supervisions_train.jsonl.gz", supervisions)
    data = import_set(path)
    assert set(data.text.values()) == {"whole", "piece", "right"}
    assert data.segments["b.ogg-0.2"].start == pytest.approx(0.2)
    assert data.segments["b.ogg-0.2"].end == pytest.approx(0.7)
    assert data.segments["c.wav-0"].end == -1
    cuts = []
    for row, rec in zip(supervisions, recordings, strict=True):
        cut = {"id": row["id"], "start": row["start"] / 2, "duration": row["duration"]}
        inside = row | {"start": row["start"] / 2}
        cuts.append(
            {**cut, "channel": row["channel"], "supervisions": [inside]}
            | {"recording": rec, "type": "MonoCut"}
        )
    again = import_set(write_lines(audio / "cuts.jsonl.gz", cuts))
    assert again == data
    value = data.wav[data.segments["d.wav-0"].recording]
    assert not read(parse_source(value, "d"), "d")[0].any()


def test_what_lhotse_has_and_we_cannot_is_said(audio):
    mixed = {"id": "m", "tracks": [], "type": "MixedCut"}
    with pytest.raises(UserError, match=r"line 1: cut m .*MixedCut"):
        import_set(write_lines(audio / "cuts.jsonl.gz", [mixed]))
    path = write_lines(audio / "supervisions.jsonl.gz", [supervision("c.wav", 0, 1, "A")])
    with pytest.raises(UserError, match=r"recordings are not beside it \(recordings\.jsonl\.gz\)"):
        import_set(path)
    perturbed = recording(audio, "c.wav") | {"transforms": [{"name": "Speed"}]}
    write_lines(audio / "recordings.jsonl.gz", [perturbed])
    with pytest.raises(UserError, match="is transformed"):
        import_set(path)


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
