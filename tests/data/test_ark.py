import re

import numpy as np
import omniio.tools.kaldi as omniio_kaldi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from espnet_spike.data.ark import ArkReader, ArkWriter
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


def test_a_missing_file_names_the_utterance(tmp_path):
    with pytest.raises(UserError, match=r"utt: .*no such file"):
        read({"utt": f"{tmp_path}/none.ark:5"})


def test_a_vector_is_no_matrix(tmp_path):
    with pytest.raises(UserError, match=r"utt: .*no matrix"):
        read(write(tmp_path / "f.ark", {"utt": np.zeros(3, np.float32)}))


def test_commands_and_pickles_are_not_run(tmp_path):
    import pickle

    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    path = tmp_path / "f.ark"
    path.write_bytes(b"PKL" + pickle.dumps(Touch()))
    with pytest.raises(UserError, match=r"utt: .*damaged"):
        read({"utt": f"{path}:0"})
    with pytest.raises(UserError, match=r"utt: feats.scp names a command"):
        read({"utt": f"touch {tmp_path}/touched |"})
    assert not (tmp_path / "touched").exists()


def test_no_other_module_imports_kaldiio(root):
    files = [file for file in (root / "espnet_spike").rglob("*.py") if file.name != "ark.py"]
    importing = [
        file for file in files if re.search(r"^\s*(import|from) kaldiio", file.read_text(), re.M)
    ]
    assert not importing
