import os
from pathlib import Path

import numpy as np
import pytest

from espnet_spike.data.ark import ArkReader, ArkWriter
from espnet_spike.data.feature_dir import FeatureDir, iter_rows, write_rows
from espnet_spike.errors import UserError


def make(frames):
    """Return a feature directory with utterances of the given number of frames."""
    return FeatureDir(
        feats={utt: f"a folder/f.ark:{n}" for n, utt in enumerate(frames)},
        shapes={utt: (length, 80) for utt, length in frames.items()},
        durations={utt: length / 100 for utt, length in frames.items()},
        text={utt: "ONE" for utt in frames},
        utt2spk={utt: utt[:1] for utt in frames},
    )


def test_a_directory_reads_back_as_written(tmp_path):
    data = make({"b2": 20, "a1": 10})
    data.write(tmp_path / "d")
    assert FeatureDir.read(tmp_path / "d") == data
    assert (tmp_path / "d/feats_shape").read_text() == "a1 10,80\nb2 20,80\n"
    assert (tmp_path / "d/spk2utt").read_text() == "a a1\nb b2\n"


def test_rows_make_the_same_directory_and_feats_scp_comes_last(tmp_path, monkeypatch):
    make({"a1": 10, "b2": 20}).write(tmp_path / "d")
    replace, placed = os.replace, []

    def note(source, target):
        placed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    assert write_rows(tmp_path / "e", iter_rows(tmp_path / "d")) == 2
    assert placed[-1] == "feats.scp" and len(placed) == 6
    tables = [{f.name: f.read_text() for f in (tmp_path / d).iterdir()} for d in "de"]
    assert tables[0] == tables[1]


def test_a_directory_without_features_is_not_read(tmp_path):
    with pytest.raises(UserError, match=r"no feats\.scp"):
        FeatureDir.read(tmp_path)


@pytest.mark.parametrize("name", ["feats_shape", "utt2dur", "text", "utt2spk"])
def test_tables_that_do_not_agree_are_named(tmp_path, name):
    make({"a1": 10, "b2": 20}).write(tmp_path)
    lines = (tmp_path / name).read_text().splitlines()
    (tmp_path / name).write_text(lines[0] + "\n")
    with pytest.raises(UserError, match=rf"feats\.scp and {name} differ, for example in b2"):
        FeatureDir.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("feats_shape", v) for v in ("10", "a,8", "-1,8", "10,0", "1_0,8", "1,2,3", "", "nan,8")),
        *(("utt2dur", v) for v in ("", "x", "nan", "inf", "-1", "7,8", "1e999", "1_0")),
    ],
)
def test_a_malformed_value_is_an_error_with_its_utterance(tmp_path, name, value):
    make({"a1": 10}).write(tmp_path)
    (tmp_path / name).write_text(f"a1 {value}\n")
    for read in (FeatureDir.read, lambda path: list(iter_rows(path))):
        with pytest.raises(UserError, match=rf"{name}: a1: '{value}' is no"):
            read(tmp_path)


def test_a_table_that_is_missing_is_named_with_the_stage_that_makes_it(tmp_path):
    FeatureDir(*({"u": value} for value in ("a.ark:3", (20, 4), 0.2, "x", "u"))).write(tmp_path)
    (tmp_path / "utt2dur").unlink()
    with pytest.raises(UserError, match="no utt2dur") as error:
        FeatureDir.read(tmp_path)
    assert "stage 3 (fbank) makes it" in str(error.value)


def test_a_subset_has_all_tables():
    assert make({"a1": 10, "b2": 20}).subset(["a1"]) == make({"a1": 10})


def test_archives_are_those_of_the_folders_own_recipe(tmp_path, monkeypatch):
    """Two recipes whose archives have the same names as seen from each."""
    for number, name in enumerate(("one", "two")):
        (tmp_path / name / "dump/test").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        with ArkWriter(Path("dump/test/feats.ark")) as ark:
            offset = ark.write("u", np.full((3, 2), number, dtype=np.float32))
        data = FeatureDir({"u": f"dump/test/feats.ark:{offset}"}, {"u": (3, 2)})
        data.durations, data.text, data.utt2spk = {"u": 1.0}, {"u": "A"}, {"u": "s"}
        data.write(Path("dump/test"))
        assert FeatureDir.read(Path("dump/test")) == data  # from the recipe: as it is written
    for number, name in enumerate(("one", "two")):
        for folder in (tmp_path / name / "dump/test", Path("..") / name / "dump/test"):
            with ArkReader() as reader:
                entry = FeatureDir.read(folder).feats["u"]
                assert reader.read("u", entry).tolist() == [[number] * 2] * 3
                (row,) = iter_rows(folder)
                assert reader.read("u", row.feats).tolist() == [[number] * 2] * 3
    (tmp_path / "one/dump/test/feats.ark").unlink()  # then it is missing, not the other's
    with ArkReader() as reader, pytest.raises(UserError):
        reader.read("u", FeatureDir.read(tmp_path / "one/dump/test").feats["u"])


@pytest.mark.parametrize("entry", ["", ".", ":5", "[0:1]"])
def test_an_entry_that_names_no_file_is_told_by_who_reads_it(tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    data = FeatureDir({"u": entry}, {"u": (3, 2)}, {"u": 1.0}, {"u": "A"}, {"u": "s"})
    data.write(tmp_path / "test")
    with ArkReader() as reader, pytest.raises(UserError, match=r"^u: "):
        reader.read("u", FeatureDir.read(Path("test")).feats["u"])
