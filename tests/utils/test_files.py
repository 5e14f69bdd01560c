import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.utils import files
from espnet_spike.utils.files import last_lines, read_table, write_table

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
