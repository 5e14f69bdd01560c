import os
import shutil
from pathlib import Path

import pytest

from espnet_spike.utils import markers
from espnet_spike.utils.markers import (
    LATER_RESULTS,
    FileState,
    Marker,
    Record,
    fingerprint,
    missing,
)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What commands make: files, a folder, a link."""
    monkeypatch.chdir(tmp_path)
    for name in ("exp/1epoch.pth", "exp/config.yaml", "dump/feats.scp", "dump/data/feats.1.ark"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}\n")
    (tmp_path / "exp/x.ave.pth").symlink_to("1epoch.pth")
    return tmp_path


def outputs(folder):
    return [folder / "exp/*.pth", folder / "exp/config.yaml", folder / "dump"]


def test_the_fingerprint_ignores_what_does_not_change_the_output():
    command = ["fbank", "--nj", "2", "a", "b"]
    assert fingerprint(command, []) == fingerprint(["fbank", "--nj", "8", "a", "b"], [])
    assert fingerprint(command, []) == fingerprint(["fbank", "--nj=8", "a", "b"], [])
    assert fingerprint(command, []) != fingerprint(["fbank", "--nj", "2", "a", "c"], [])
    assert fingerprint(["x", "--c", "1"], [], frozenset({"--c"})) == fingerprint(["x"], [])


def test_a_later_result_in_an_input_folder_makes_it_no_other_input(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "text").write_text("a")
    before = fingerprint(["x"], [folder])
    (folder / "count.json").write_text("{}")
    (folder / "neurobench.json").write_text("{}")
    assert fingerprint(["x"], [folder]) == before
    (folder / "other.json").write_text("{}")
    assert fingerprint(["x"], [folder]) != before


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": 1', '{"command": "x"}', "\xff"])
def test_a_damaged_marker_or_record_is_none(tmp_path, content):
    (tmp_path / "x.json").write_text(content, encoding="latin-1")
    assert Marker.read(tmp_path / "x.json") is None
    assert Record.read(tmp_path / "x.json") is None


def test_every_file_of_the_outputs_is_recorded(made):
    (made / "dump/logdir").mkdir()
    for later in ("dump/count.json", "dump/logdir/1.log", "dump/.hidden"):
        (made / later).write_text("")
    record = Record.take(made, outputs(made))
    assert {os.path.relpath(name, made) for name in record.files} == {
        *("exp/1epoch.pth", "exp/x.ave.pth", "exp/config.yaml"),
        *("dump/feats.scp", "dump/data/feats.1.ark"),
    }
    record.write(made / "record.json")
    assert Record.read(made / "record.json") == record
    assert record.difference() == ""


@pytest.mark.parametrize("change", ["delete", "cut", "other"])
@pytest.mark.parametrize(
    "name", ["exp/1epoch.pth", "exp/config.yaml", "dump/feats.scp", "dump/data/feats.1.ark"]
)
def test_a_file_that_is_gone_cut_or_another_is_a_difference(made, name, change):
    record = Record.take(made, outputs(made))
    path = made / name
    text = path.read_text()
    if change == "delete":
        path.unlink()
    else:
        path.write_text(text[:-1] if change == "cut" else text.swapcase())
    assert name in record.difference() or "x.ave.pth" in record.difference()
    assert (record.difference(made / "dump") == "") == name.startswith("exp")


def test_a_copy_is_no_difference(made):
    record = Record.take(made, outputs(made))
    content = (made / "dump/feats.scp").read_bytes()
    (made / "dump/feats.scp").unlink()
    (made / "dump/feats.scp").write_bytes(content)
    os.utime(made / "dump/feats.scp", ns=(0, 0))
    assert record.difference() == ""


def test_large_files_are_known_by_parts_of_them(made, monkeypatch):
    monkeypatch.setattr(markers, "HASHED_BY_CONTENT", 5)
    monkeypatch.setattr(markers, "SAMPLE", 2)
    path = made / "exp/config.yaml"
    for place in (0, 5, 9):
        path.write_bytes(b"0123456789")
        state = FileState.of(path)
        path.write_bytes(b"0123456789")
        os.utime(path, ns=(0, 0))
        assert state.holds(path)
        changed = bytearray(b"0123456789")
        changed[place] = 0
        path.write_bytes(changed)
        os.utime(path, ns=(0, 0))
        assert not state.holds(path)


def test_missing_outputs_are_named(made):
    assert missing(outputs(made)) == []
    (made / "exp/1epoch.pth").unlink()  # the link dangles
    shutil.rmtree(made / "dump")
    assert missing(outputs(made)) == [str(made / "exp/*.pth"), str(made / "dump")]


def test_what_has_no_content_is_no_output_to_vouch_for(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / "file").touch()
    assert list(Record.take(tmp_path, [tmp_path]).files) == [str(tmp_path / "file")]


def test_a_command_in_place_leaves_what_is_known_of_later_results(tmp_path, monkeypatch):
    """Scoring again in the folder of a set: its count is still vouched for by who counted."""
    monkeypatch.chdir(tmp_path)
    folder = Path("exp/test")
    folder.mkdir(parents=True)
    for name in ("result.json", "old.txt", *LATER_RESULTS):
        (folder / name).write_text("1")
    counted = Record.take(Path("exp"), [folder / name for name in LATER_RESULTS])
    scored = Record.take(Path("exp"), [folder / "result.json", folder / "old.txt"])
    (folder / "result.json").write_text("2")
    (folder / "old.txt").unlink()
    again = Record.take(Path("exp"), [folder])
    assert counted.updated(again, [folder]) == counted
    assert scored.updated(again, [folder]) == again
    (folder / "neurobench.json").unlink()
    assert "neurobench.json is missing" in counted.updated(again, [folder]).difference()
