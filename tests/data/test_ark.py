import ast
import io
import os
import pickle
import re
import struct

import kaldiio
import numpy as np
import omniio.tools.kaldi as omniio_kaldi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from espnet_spike.data.ark import ArkReader, ArkWriter, FeatureTable, parse_entry, read_entry
from espnet_spike.errors import UserError

matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1e6, 1e6, width=32),
)


def write(path, table, method=None):
    with ArkWriter(path, method) as writer:
        return {key: f"{path}:{writer.write(key, matrix)}" for key, matrix in table.items()}


def read(entries):
    with ArkReader() as reader:
        return {utt: reader.read(utt, entry) for utt, entry in entries.items()}


@given(st.dictionaries(st.sampled_from("abcdé語"), matrices, min_size=1))
@settings(max_examples=40, deadline=None)
def test_matrices_read_back_as_written(tmp_path_factory, table):
    entries = write(tmp_path_factory.mktemp("ark") / "f.ark", table)
    for utt, matrix in read(entries).items():
        np.testing.assert_array_equal(matrix, table[utt])


@pytest.mark.parametrize(("method", "error"), [(None, 0.0), (3, 1e-3), (2, 0.3)])
def test_espnets_reader_gets_the_same_from_a_path_with_spaces(tmp_path, method, error):
    folder = tmp_path / "a folder [1] with: spaces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    table = {f"utt{n}": rng.normal(size=(50, 8)).astype(np.float32) for n in range(3)}
    entries = write(folder / "f.ark", table, method)
    ours = read(entries)
    for utt, matrix in table.items():
        np.testing.assert_allclose(ours[utt], matrix, atol=error)
    scp = tmp_path / "feats.scp"
    scp.write_text("".join(f"{utt} {entry}\n" for utt, entry in entries.items()))
    theirs = omniio_kaldi.load_scp(str(scp))
    for utt in table:
        np.testing.assert_array_equal(theirs[utt], ours[utt])


def test_many_files_can_be_read_in_turn(tmp_path):
    entries = {}
    for number in range(40):
        matrix = np.full((2, 3), number, np.float32)
        entries |= write(tmp_path / f"{number}.ark", {f"utt{number:02d}": matrix})
    got = read(entries | dict(reversed(entries.items())))
    assert [matrix[0, 0] for matrix in got.values()] == list(range(40))


def test_a_range_of_rows_is_understood(tmp_path):
    matrix = np.arange(20, dtype=np.float32).reshape(10, 2)
    entries = write(tmp_path / "f.ark", {"a": matrix})
    np.testing.assert_array_equal(read({"a": entries["a"] + "[2:4]"})["a"], matrix[2:5])


def test_every_truncation_names_the_utterance(tmp_path):
    path = tmp_path / "f.ark"
    entries = write(path, {"first": np.ones((4, 3)), "last": np.ones((4, 3), np.float32)})
    whole = path.read_bytes()
    offset = int(entries["last"].rpartition(":")[2])
    for length in range(offset, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"last: .*f.ark"):
            read(entries)


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_garbage_is_either_a_finite_matrix_or_an_error_that_names_the_utterance(
    tmp_path_factory, content
):
    path = tmp_path_factory.getbasetemp() / "garbage.ark"
    path.write_bytes(content)
    try:
        matrix = read({"utt": f"{path}:0"})["utt"]
    except UserError as error:
        assert error.message.startswith("utt: ")
    else:
        assert np.isfinite(matrix).all()


@given(st.integers(0, 10**6), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_one_changed_byte_is_either_a_finite_matrix_or_an_error(tmp_path_factory, place, byte):
    path = tmp_path_factory.getbasetemp() / "changed.ark"
    entries = write(path, {"utt": np.ones((4, 3), np.float32)})
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content)
    try:
        assert np.isfinite(read(entries)["utt"]).all()
    except UserError as error:
        assert error.message.startswith("utt: ")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(tmp_path, bad):
    matrix = np.zeros((5, 4), np.float32)
    matrix[3, 2] = bad
    with pytest.raises(UserError, match=r"utt: .*not finite"):
        read(write(tmp_path / "f.ark", {"utt": matrix}))


@pytest.mark.parametrize("rows", [1, 3, 5, 300])
@pytest.mark.parametrize("method", [None, 1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_those_of_kaldiio_to_the_bit(tmp_path, rows, method, dtype):
    rng = np.random.default_rng(rows)
    table = {f"utt{n}": rng.uniform(0, 1, (rows, 7)).astype(dtype) for n in range(3)}
    for utt, entry in write(tmp_path / "f.ark", table, method).items():
        ours, theirs = read({utt: entry})[utt], kaldiio.load_mat(entry)
        assert (ours.dtype, ours.strides) == (theirs.dtype, theirs.strides)
        np.testing.assert_array_equal(ours, theirs)


def test_text_is_read_as_kaldiio_does(tmp_path):
    path, scp = tmp_path / "f.ark", tmp_path / "scp"
    table = {"a": np.array([[0.1, -2e-7, 3], [4, 1e9, 1 / 3]], "f4"), "b": np.ones(2, "f4") / 3}
    kaldiio.save_ark(str(path), table, str(scp), text=True)
    entries = dict(line.split() for line in scp.read_text().splitlines())
    np.testing.assert_array_equal(read({"a": entries["a"]})["a"], kaldiio.load_mat(entries["a"]))
    with pytest.raises(UserError, match="holds no matrix"):
        read({"b": entries["b"]})
    for bad in (b"[\n 1 2\n 3 ]", b"[\n 1 2", b"[\n 1_0 2 ]", b"[\n 1 nan ]", b"[\n x ]"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="utt: "):
            read({"utt": f"{path}:0"})


def test_ranges_are_those_of_kaldiio(tmp_path):
    matrix = np.arange(60, dtype=np.float32).reshape(10, 6)
    entry = write(tmp_path / "f.ark", {"a": matrix})["a"]
    for part in ("[2:4]", "[3]", "[:]", "[0:9]", "[0:99]", "[2:4,1:3]", "[,1:3]", "[:,5]"):
        ours = read({"a": entry + part})["a"]
        np.testing.assert_array_equal(ours, kaldiio.load_mat(entry + part))
    for part in ("[1:2:3]", "[0,0,0]", "[10:12]", "[4:2]"):
        with pytest.raises(UserError, match="range"):
            read({"a": entry + part})


def test_sizes_are_believed_only_as_far_as_the_file_goes(tmp_path):
    path = tmp_path / "f.ark"
    huge = struct.pack("<bibi", 4, 2**31 - 1, 4, 2**31 - 1)
    for content in (
        *(b"\0BFM " + huge, b"\0BDM " + huge, b"\0BFM " + struct.pack("<bibi", 4, -1, 4, -1)),
        b"\0BFM " + struct.pack("<bibi", 4, 2**31 - 1, 4, 0),
        b"\0BFM " + struct.pack("<bibi", 8, 1, 8, 1) + bytes(8),
        *(b"\0B" + kind + struct.pack("<ffii", 0, 1, 2**31 - 1, 9) for kind in (b"CM ", b"CM2 ")),
        b"\0BCM3 " + struct.pack("<ffii", 0, 1, -5, -5) + bytes(99),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged ark"):
            read({"utt": f"{path}:0"})


def test_a_reader_is_shared_by_forked_processes_and_pickled(tmp_path):
    table = {f"utt{n}": np.full((50, 8), n, np.float32) for n in range(40)}
    scp = tmp_path / "feats.scp"
    entries = write(tmp_path / "f.ark", table)
    scp.write_text("".join(f"{utt} {entry}\n" for utt, entry in entries.items()))
    features = FeatureTable(scp)
    assert list(features) == list(table) and features["utt3"][0, 0] == 3
    again = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(again["utt5"], table["utt5"])


@pytest.mark.parametrize("method", [None, 1, 2, 5])
def test_the_shape_is_that_of_the_matrix(tmp_path, method):
    matrix = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    entry = write(tmp_path / "f.ark", {"a": matrix}, method)["a"]
    text = tmp_path / "text.ark"
    text.write_text("a  [\n 1 2 3\n 4 5 6 ]\n")
    with ArkReader() as reader:
        assert reader.shape("a", entry) == (9, 4)
        assert reader.shape("a", f"{entry}[2:4]") == (3, 4)
        assert reader.shape("a", f"{text}:2") == (2, 3)
        (tmp_path / "f.ark").write_bytes((tmp_path / "f.ark").read_bytes()[:20])
    with ArkReader() as reader, pytest.raises(UserError, match=r"a: .* truncated or damaged"):
        reader.shape("a", entry)


def test_a_missing_file_names_the_utterance(tmp_path):
    with pytest.raises(UserError, match=r"utt: .*no such file"):
        read({"utt": f"{tmp_path}/none.ark:5"})


def test_a_vector_is_no_matrix(tmp_path):
    with pytest.raises(UserError, match=r"utt: .*no matrix"):
        read(write(tmp_path / "f.ark", {"utt": np.zeros(3, np.float32)}))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A folder with an ark whose pickle, and commands whose run, would leave ``canary`` behind."""
    monkeypatch.chdir(tmp_path)

    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    content = b"PKL" + pickle.dumps(Touch())
    for name in ("g.ark", "b.ark", "b.ark[]0", "g.ark:1_0"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "ok.ark").write_bytes(b"a " + content)
    array = io.BytesIO()
    np.save(array, np.array([Touch()], object), allow_pickle=True)
    length = len(array.getvalue()).to_bytes(2, "little")
    (tmp_path / "n.ark").write_bytes(b"NPY\2" + length + array.getvalue())
    os.mkfifo(tmp_path / "fifo")
    yield
    assert not (tmp_path / "canary").exists()


EVIL = [
    *("g.ark", "g.ark:0", "g.ark:1_0", "b.ark[]0:1", "b.ark[]0", "ok.ark:2", "n.ark:0", "n.ark"),
    *("touch canary |", "touch canary|", "| touch canary", "x;touch canary;|:0", "x | :0"),
    *("touch canary |[0:1]", "touch canary |:0[0:1]", "$(touch canary)", "`touch canary`", "-"),
    *("fifo", "fifo:0", ".", "/dev/zero", "/dev/zero:5", ":0", "[0:1]", "g.ark:-1", "g.ark:+0"),
    *("g.ark:99999999999999999999999", "g.ark:９", "a\0b:0", "None", "g.ark:0[0:1][0:1]"),
]


@pytest.mark.parametrize("entry", EVIL)
@pytest.mark.usefixtures("canary")
def test_commands_and_pickles_are_not_run(entry):
    with pytest.raises(UserError, match=r"^utt: "):
        read({"utt": entry})


def test_a_command_is_told_from_a_damaged_ark():
    for entry in ("touch canary |", "| touch canary"):
        with pytest.raises(UserError, match=r"utt: feats.scp names a command"):
            parse_entry("utt", entry)


@pytest.mark.parametrize("entry", EVIL)
@pytest.mark.usefixtures("canary")
def test_espnets_datasets_read_through_this_door_only(tmp_path, entry):
    from espnet_spike.tasks.espnet import ESPnetDataset, dataset, iterable_dataset

    (tmp_path / "feats.scp").write_text(f"utt {entry}\n")
    source = [(str(tmp_path / "feats.scp"), "speech", "kaldi_ark")]
    identity = lambda utt, data: data  # noqa: E731
    with pytest.raises((UserError, RuntimeError)):
        ESPnetDataset(source, preprocess=identity)["utt"]
    with pytest.raises((UserError, RuntimeError)):
        next(iter(iterable_dataset.IterableESPnetDataset(source, preprocess=identity)))
    assert dataset.DATA_TYPES["kaldi_ark"]["func"] is FeatureTable
    assert iterable_dataset.DATA_TYPES["kaldi_ark"] is read_entry


def test_what_espnet_reads_is_what_is_written(tmp_path):
    from espnet_spike.tasks.espnet import ESPnetDataset, iterable_dataset

    table = {f"utt{n}": np.full((5, 3), n, np.float32) for n in range(3)}
    entries = write(tmp_path / "f.ark", table)
    (tmp_path / "feats.scp").write_text("".join(f"{u} {e}\n" for u, e in entries.items()))
    source = [(str(tmp_path / "feats.scp"), "speech", "kaldi_ark")]
    random, stream = ESPnetDataset(source), iterable_dataset.IterableESPnetDataset(source)
    for utt, data in stream:
        np.testing.assert_array_equal(data["speech"], table[utt])
        np.testing.assert_array_equal(random[utt][1]["speech"], table[utt])


def test_there_is_no_other_door(root):
    """Who imports what of ESPnet reads data, or a library for archives of features."""
    doors = {
        r"kaldiio": {"data/ark.py"},  # to write
        r"omniio": set(),
        r"espnet2\.(train\.(dataset|iterable_dataset)|tasks\.(asr|lm)|bin\.asr_inference)": {
            "tasks/espnet.py"
        },
        r"espnet2\.fileio": set(),
    }
    package = root / "espnet_spike"
    for name, allowed in doors.items():
        found = set()
        for file in package.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                modules = (
                    [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                )
                if isinstance(node, ast.ImportFrom):
                    modules = [f"{node.module}.{alias.name}" for alias in node.names]
                if any(re.match(rf"({name})\b", module) for module in modules):
                    found.add(file.relative_to(package).as_posix())
        assert found == allowed, name
    reader = (package / "data/ark.py").read_text()
    assert set(re.findall(r"kaldiio\.(\w+)", reader)) == {"save_ark"}


def test_another_file_of_the_same_name_is_read_anew(tmp_path, monkeypatch):
    places = []
    for name, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        with ArkWriter(tmp_path / name / "f.ark") as writer:
            places.append(writer.write("u", np.full((3, 2), value, np.float32)))
    with ArkReader() as reader:
        for name, place, value in zip(("one", "two"), places, (1.0, 2.0), strict=True):
            monkeypatch.chdir(tmp_path / name)
            assert (reader.read("u", f"f.ark:{place}") == value).all()
        os.replace(tmp_path / "one" / "f.ark", "f.ark")
        assert (reader.read("u", f"f.ark:{places[0]}") == 1.0).all()
