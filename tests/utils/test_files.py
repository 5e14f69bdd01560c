"""Files are complete or not there, read with checks; digests are those that results hold."""

import ast
import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import espnet_spike
from espnet_spike.errors import UserError
from espnet_spike.utils import files
from espnet_spike.utils.files import (
    fitting_name,
    last_lines,
    new_folder,
    plural,
    present,
    read_table,
    replacing,
    write_bytes,
    write_table,
)

keys = st.text(
    st.characters(min_codepoint=33, exclude_categories=("Z", "C")), min_size=1, max_size=8
).filter(lambda key: len(key.split()) == 1 and not key.startswith("\ufeff"))


words = st.lists(keys, min_size=1, max_size=4).map(" ".join)


@given(st.dictionaries(keys, words, max_size=8))
@settings(deadline=None)
def test_a_written_table_reads_back(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("table") / "text"
    write_table(path, table)
    assert read_table(path) == table


@given(st.sets(keys, max_size=10))
@settings(deadline=None)
def test_tables_are_in_the_byte_order_of_kaldi(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("table") / "text"
    write_table(path, dict.fromkeys(names, "x"))
    lines = path.read_bytes().splitlines()
    assert lines == sorted(lines)


def test_the_order_is_that_of_sort_in_the_c_locale(tmp_path):
    path = tmp_path / "text"
    write_table(path, dict.fromkeys(["a-10", "a_1", "B", "é", "a-1", "語"], "x"))
    done = subprocess.run(["sort", "-c", path], env={"LC_ALL": "C"}, check=False)
    assert done.returncode == 0


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    (tmp_path / "text").write_bytes("a fine\nb caf\xe9\n".encode("latin1"))
    with pytest.raises(UserError, match=r"text, line 2: not UTF-8"):
        read_table(tmp_path / "text")


def test_a_key_given_twice_is_an_error(tmp_path):
    (tmp_path / "text").write_text("a one\na two\n")
    with pytest.raises(UserError, match=r"a is given twice"):
        read_table(tmp_path / "text")


def test_windows_line_ends_tabs_blank_lines_and_a_byte_order_mark_do_no_harm(tmp_path):
    (tmp_path / "text").write_bytes("\ufeffa\tONE  TWO \r\n\r\nb  \t THREE\r\nc\r\n".encode())
    assert read_table(tmp_path / "text") == {"a": "ONE  TWO", "b": "THREE", "c": ""}


def test_a_key_with_unicode_white_space_is_an_error(tmp_path):
    (tmp_path / "text").write_text("a\u3000b ONE\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"white space"):
        read_table(tmp_path / "text")


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "text"
    write_table(path, {"a": "old"})

    class Bad:
        def __str__(self):
            raise ValueError("no")

    with pytest.raises(ValueError):
        write_table(path, {"a": Bad()})
    assert read_table(path) == {"a": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["text"]


def test_last_lines_of_a_long_file(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff" * 1_000_000 + b"\n" + b"".join(b"%d\n" % i for i in range(50)))
    assert last_lines(path, 3) == "47\n48\n49"


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3)


CONFIGS = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    VALUES | st.dictionaries(st.text("de", min_size=1, max_size=2), VALUES, max_size=2),
    max_size=4,
)


@settings(deadline=None)
@given(CONFIGS, CONFIGS)
def test_flat_configurations_differ_exactly_where_nested_ones_do(a, b):
    a, b = json.loads(json.dumps(a)), json.loads(json.dumps(b))
    assert (files.flatten(a) == files.flatten(b)) == (a == b)


PACKAGE = Path(espnet_spike.__file__).parent


class Stop(Exception):
    """What ends a writer before its end."""


def write_half(opened, content):
    with opened as file:
        if isinstance(file, Path):
            file.write_bytes(content)
        else:
            file.write(content)
            file.flush()
        raise Stop


@pytest.mark.parametrize(
    ("opener", "content"),
    [
        (files.replacing, b"half"),
        (files.replacing_text, "half"),
        (files.replacing_bytes, b"half"),
    ],
)
def test_an_error_leaves_the_old_file_and_nothing_else(opener, content, tmp_path):
    path = tmp_path / "table.scp"
    for before in (False, True):
        with pytest.raises(Stop):
            write_half(opener(path), content)
        assert path.exists() is before
        path.write_bytes(b"old")
    assert [file.name for file in tmp_path.iterdir()] == ["table.scp"]
    assert path.read_bytes() == b"old"


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "list"
    path.write_text("old\n")

    def lines():
        for number in range(3):
            assert path.read_text() == "old\n"
            (left,) = tmp_path.glob(files.LEFTOVERS)  # in the same folder: the rename is atomic
            assert left != path
            yield str(number)

    files.write_lines(path, lines())
    assert path.read_text() == "0\n1\n2\n"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_name(tmp_path):
    path = tmp_path / "list"
    with files.replacing_text(path) as one, files.replacing_text(path) as other:
        one.write("one")
        other.write("the other")
    assert path.read_text() == "one"  # the one that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "recipes" / "own"
    with pytest.raises(Stop), files.new_folder(path) as folder:
        (folder / "run.sh").write_text("half")
        raise Stop
    assert not any((tmp_path / "recipes").iterdir())
    with files.new_folder(path) as folder:
        (folder / "run.sh").write_text("whole")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["run.sh"]
    with pytest.raises(OSError, match="not empty"), files.new_folder(path):
        pass  # never in place of what somebody else has made
    assert list((tmp_path / "recipes").iterdir()) == [path]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, '{\n "wer": {\n  "\\u6c34": [\n   1,\n   2\n  ]\n },\n "cer": null\n}\n'),
        (
            {"ensure_ascii": False},
            '{\n "wer": {\n  "水": [\n   1,\n   2\n  ]\n },\n "cer": null\n}\n',
        ),
        (
            {"sort_keys": True},
            '{\n "cer": null,\n "wer": {\n  "\\u6c34": [\n   1,\n   2\n  ]\n }\n}\n',
        ),
        (
            {"indent": None, "ensure_ascii": False},
            '{"wer": {"水": [1, 2]}, "cer": null}\n',
        ),
    ],
)
def test_json_bytes(layout, expected, tmp_path):
    content = {"wer": {"水": [1, 2]}, "cer": None}
    files.write_json(tmp_path / "result.json", content, **layout)
    assert (tmp_path / "result.json").read_bytes() == expected.encode()
    assert files.read_json(tmp_path / "result.json") == content


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"wer": 1})
    with pytest.raises(TypeError, match="set"):
        files.write_json(path, {"wer": {1}})
    assert json.loads(path.read_text()) == {"wer": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_digests(tmp_path):
    path = tmp_path / "model"
    path.write_bytes("水".encode() * 10**5)
    assert files.file_digest(path) == hashlib.sha256("水".encode() * 10**5).hexdigest()
    assert files.text_digest("水") == hashlib.sha256("水".encode()).hexdigest()
    assert files.digest("ab", "c") != files.digest("a", "bc")
    assert files.digest("水") == files.digest("水".encode())


# who renames otherwise, and why
RENAMES = {
    "corpora/download.py": "what has arrived stays under its name for the next try",
    "utils/archives.py": "a folder, not a file",
    "export/pack.py": "ESPnet packs into a folder, from which the archive is checked",
    "inference/decode.py": "of two attempts the first to end gives the folder its name",
    "tasks/trainer.py": "the checkpoint of the epoch before is kept",
    "training/resume.py": "the checkpoint of the epoch before takes the place of a damaged one",
    "utils/files.py": "here",
}


def test_nobody_writes_and_renames_by_hand():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            of_os = (owner, name) in {("os", "replace"), ("os", "rename"), ("shutil", "move")}
            # a path's own; those of a string and of a data class take more arguments
            of_path = name in ("rename", "replace") and len(node.args) == 1 and not node.keywords
            if of_os or (of_path and owner != "os"):
                found.add(str(path.relative_to(PACKAGE)))
    assert found == set(RENAMES)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (plural(1, "set"), "1 set"),
        (plural(0, "set"), "0 sets"),
        (plural(2, "entry", "entries"), "2 entries"),
        (plural(1, "entry", "entries"), "1 entry"),
    ],
)
def test_counts_have_their_nouns(shown, text):
    assert shown == text


@pytest.mark.parametrize("letter", ["a", "é", "語", "𝄞"])
def test_names_that_are_too_long_are_cut_between_characters_and_stay_different(tmp_path, letter):
    first, second = 300 * letter, 299 * letter + "z"
    names = [fitting_name(name, ".json") for name in (first, second)]
    assert len(set(names)) == 2
    for name in names:
        assert 240 < len(os.fsencode(name)) <= 255 and name.endswith(".json")
        assert set(name.split("~")[0]) == {letter}
        (tmp_path / name).touch()
    assert fitting_name(251 * "a", ".srt") == 251 * "a" + ".srt"


def test_a_file_of_the_longest_name_is_written(tmp_path):
    path = tmp_path / ("語" * 85)  # 255 bytes
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x" and list(tmp_path.iterdir()) == [path]
    with new_folder(tmp_path / ("é" * 127)) as folder:
        (folder / "x").touch()
    too_long = tmp_path / (256 * "a")
    with pytest.raises(OSError, match="too long") as caught:
        with replacing(too_long):
            raise AssertionError("no work is done that cannot be kept")
    assert caught.value.errno == errno.ENAMETOOLONG and str(too_long) in str(caught.value.filename)


NOUNS = (
    "speaker utterance file set word token layer epoch job line recording point update step frame "
    "error folder row model parameter worker channel second sentence reference neuron sample "
    "operation thread machine experiment checkpoint seed core character task segment piece "
    "transcript letter"
).split()
COUNTED = re.compile(rf" ({'|'.join(NOUNS)})s\b")


def counts_without_plural(path):
    """Yield f-strings with a plain figure before a noun in the plural, and such logging texts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for figure, text in itertools.pairwise(node.values):
                if isinstance(figure, ast.FormattedValue) and isinstance(text, ast.Constant):
                    shown = ast.unparse(figure.value)
                    if COUNTED.match(str(text.value)) and not figure.format_spec:
                        yield f"{{{shown}}}{str(text.value)[:12]}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(rf"%d (?:{'|'.join(NOUNS)})s\b.{{,12}}", node.value)


# figures that are never one, and names before a noun that they do not count
ALWAYS_MANY = {
    "advice/doubts.py",  # sentences on updates, pieces and words that are few or many
    "advice/sizing.py",
    "advice/measure.py",
    "corpora/aishell.py",  # parts of corpora
    "corpora/librispeech.py",
    "corpora/speechocean762.py",
    "corpora/own.py",  # several channels
    "corpora/manifests.py",  # bounds and frames of kernels
    "data/fbank.py",
    "data/ark.py",
    "data/audio.py",
    "data/containers.py",
    "inference/decode.py",  # tokens of a vocabulary
    "inference/speech2text.py",
    "results/bootstrap.py",
    "results/markdown.py",
    "tasks/loaders.py",  # of several processes
    "tasks/config.py",
    "tasks/loading.py",
    "training/asr.py",
    "training/sparsify.py",
    "utils/archives.py",
}


def test_counts_are_written_with_plural():
    root = Path(espnet_spike.__file__).parent
    found = {
        path.relative_to(root).as_posix(): wrong
        for path in sorted(root.rglob("*.py"))
        if (wrong := [*counts_without_plural(path)])
    }
    assert {name: wrong for name, wrong in found.items() if name not in ALWAYS_MANY} == {}


def test_a_file_is_there_or_its_name_is_free(tmp_path):
    (tmp_path / "x").touch()
    (tmp_path / "link").symlink_to("x")
    assert present(tmp_path / "x") and present(tmp_path / "link")
    assert not present(tmp_path / "y") and not present(tmp_path / "none/y")
    assert not present(tmp_path / "x/y")  # a part of the path is a file
    with pytest.raises(UserError, match=r"'a\\x00b' cannot be the name of a file"):
        present(Path("a\0b"))


def test_what_is_there_and_is_no_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x"
    for put, said in {
        path.mkdir: "is a folder",
        lambda: path.symlink_to("x"): "symbolic links",
        lambda: path.symlink_to("nothing"): "is a link to nothing",
        lambda: path.symlink_to("/dev/null/x"): "is a link to nothing",
        lambda: os.mkfifo(path): "no regular file",
    }.items():
        put()
        with pytest.raises(UserError, match=rf"/x .*{said}") as caught:
            present(path)
        assert caught.value.hint
        path.rmdir() if path.is_dir() else path.unlink()
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # who runs the tests may be root
    with pytest.raises(UserError, match="no permission"):
        present(path)
